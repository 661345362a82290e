// Llama, Mistral, Qwen2: RMSNorm, rotary grouped-query attention, SwiGLU.
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/model/attention.h"
#include "worker/model/block.h"
#include "worker/model/rope.h"
#include "worker/model/torch_util.h"

namespace bitwright::model {
namespace {

class LlamaBlock : public DecoderBlock {
 public:
  absl::Status Load(const WeightReader& reader, const ModelConfig& c,
                    int64_t block, int64_t seqlen);

  at::Tensor Forward(const at::Tensor& x, CapturedInputs* captured,
                     bool need_output) const override;
  at::Tensor Backward(const at::Tensor& x, OutputGradient gradient,
                      bool need_input, UseGradient use) const override;
  at::Tensor& Weight(int64_t linear) override;

 private:
  enum Linear { kQ, kK, kV, kO, kGate, kUp, kDown };  // As BlockLinears.
  // What the first half of the block computes, up to the second's input. q and
  // k are turned; q, k and v are [seqlen, heads, head_dim].
  struct Attended {
    at::Tensor attn_in, q, k, v, attn_out, middle, mlp_in;
  };
  Attended Attend(const at::Tensor& x) const;
  // From the gradient at the block's output to the one at a.middle.
  at::Tensor MlpBackward(const Attended& a, OutputGradient gradient,
                         UseGradient use) const;

  int64_t heads_ = 0, kv_heads_ = 0, head_dim_ = 0, window_ = 0;
  NormWeights attention_norm_, mlp_norm_;
  LinearWeights q_, k_, v_, o_, gate_, up_, down_;
  at::Tensor cos_, sin_;  // [seqlen, 1, head_dim / 2]
};

absl::Status LlamaBlock::Load(const WeightReader& reader, const ModelConfig& c,
                              int64_t block, int64_t seqlen) {
  heads_ = c.num_heads;
  kv_heads_ = c.num_kv_heads;
  head_dim_ = c.head_dim;
  window_ = c.sliding_window;
  const int64_t width = c.hidden_size, inner = c.intermediate_size;
  const int64_t q_rows = heads_ * head_dim_, kv_rows = kv_heads_ * head_dim_;
  const std::string p = absl::StrCat(c.name_prefix, "layers.", block, ".");
  const std::string attn = p + "self_attn.", mlp = p + "mlp.";
  BW_ASSIGN_OR_RETURN(attention_norm_, reader.Norm(p + "input_layernorm", width,
                                                   false, c.norm_eps));
  BW_ASSIGN_OR_RETURN(
      q_, reader.Linear(attn + "q_proj", q_rows, width, c.attention_bias));
  BW_ASSIGN_OR_RETURN(
      k_, reader.Linear(attn + "k_proj", kv_rows, width, c.attention_bias));
  BW_ASSIGN_OR_RETURN(
      v_, reader.Linear(attn + "v_proj", kv_rows, width, c.attention_bias));
  BW_ASSIGN_OR_RETURN(
      o_, reader.Linear(attn + "o_proj", width, q_rows, c.attention_out_bias));
  BW_ASSIGN_OR_RETURN(mlp_norm_, reader.Norm(p + "post_attention_layernorm",
                                             width, false, c.norm_eps));
  BW_ASSIGN_OR_RETURN(
      gate_, reader.Linear(mlp + "gate_proj", inner, width, c.mlp_bias));
  BW_ASSIGN_OR_RETURN(up_,
                      reader.Linear(mlp + "up_proj", inner, width, c.mlp_bias));
  BW_ASSIGN_OR_RETURN(
      down_, reader.Linear(mlp + "down_proj", width, inner, c.mlp_bias));
  RopeTables rope = MakeRopeTables(c, seqlen);
  cos_ = ToTensor(std::move(rope.cos), {seqlen, 1, rope.half}, reader.device());
  sin_ = ToTensor(std::move(rope.sin), {seqlen, 1, rope.half}, reader.device());
  return absl::OkStatus();
}

LlamaBlock::Attended LlamaBlock::Attend(const at::Tensor& x) const {
  const int64_t n = x.size(0);
  Attended a;
  a.attn_in = attention_norm_.Rms(x);
  a.q = Rotate(q_(a.attn_in).view({n, heads_, head_dim_}), cos_, sin_);
  a.k = Rotate(k_(a.attn_in).view({n, kv_heads_, head_dim_}), cos_, sin_);
  a.v = v_(a.attn_in).view({n, kv_heads_, head_dim_});
  a.attn_out = CausalAttention(a.q, a.k, a.v, window_);
  a.middle = x + o_(a.attn_out);
  a.mlp_in = mlp_norm_.Rms(a.middle);
  return a;
}

at::Tensor LlamaBlock::Forward(const at::Tensor& x, CapturedInputs* captured,
                               bool need_output) const {
  const Attended a = Attend(x);
  const at::Tensor mlp_out = at::silu(gate_(a.mlp_in)).mul_(up_(a.mlp_in));
  if (captured != nullptr) {
    *captured = {a.attn_in, a.attn_out, a.mlp_in, mlp_out};
  }
  if (!need_output) return at::Tensor();
  return a.middle + down_(mlp_out);
}

at::Tensor LlamaBlock::MlpBackward(const Attended& a,
                                   OutputGradient gradient_at,
                                   UseGradient use) const {
  const at::Tensor gate = gate_(a.mlp_in);
  const at::Tensor activated = at::silu(gate);
  const at::Tensor up = up_(a.mlp_in);
  const at::Tensor mlp_out = activated * up;
  const at::Tensor gradient =
      gradient_at([&] { return a.middle + down_(mlp_out); });
  use(kDown, mlp_out, gradient);
  const at::Tensor d_mlp_out = down_.Backward(gradient);
  const at::Tensor d_up = d_mlp_out * activated;
  use(kUp, a.mlp_in, d_up);
  const at::Tensor d_gate = at::silu_backward(d_mlp_out * up, gate);
  use(kGate, a.mlp_in, d_gate);
  return gradient + mlp_norm_.RmsBackward(
                        a.middle, gate_.Backward(d_gate) + up_.Backward(d_up));
}

at::Tensor& LlamaBlock::Weight(int64_t linear) {
  LinearWeights* const all[] = {&q_, &k_, &v_, &o_, &gate_, &up_, &down_};
  return all[linear]->weight;
}

at::Tensor LlamaBlock::Backward(const at::Tensor& x, OutputGradient gradient,
                                bool need_input, UseGradient use) const {
  const Attended a = Attend(x);
  const at::Tensor d_middle = MlpBackward(a, gradient, use);
  use(kO, a.attn_out, d_middle);
  const AttentionGradients d =
      CausalAttentionBackward(a.q, a.k, a.v, window_, o_.Backward(d_middle));
  const at::Tensor back = -sin_;
  const at::Tensor d_q = Rotate(d.q, cos_, back).flatten(1);
  const at::Tensor d_k = Rotate(d.k, cos_, back).flatten(1);
  const at::Tensor d_v = d.v.flatten(1);
  use(kQ, a.attn_in, d_q);
  use(kK, a.attn_in, d_k);
  use(kV, a.attn_in, d_v);
  if (!need_input) return at::Tensor();
  return d_middle +
         attention_norm_.RmsBackward(
             x, q_.Backward(d_q) + k_.Backward(d_k) + v_.Backward(d_v));
}

}  // namespace

absl::StatusOr<std::unique_ptr<DecoderBlock>> LoadLlamaBlock(
    const WeightReader& reader, const ModelConfig& config, int64_t block,
    int64_t seqlen) {
  auto loaded = std::make_unique<LlamaBlock>();
  BW_RETURN_IF_ERROR(loaded->Load(reader, config, block, seqlen));
  return loaded;
}

}  // namespace bitwright::model
