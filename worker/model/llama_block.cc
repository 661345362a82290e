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

 private:
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

at::Tensor LlamaBlock::Forward(const at::Tensor& x, CapturedInputs* captured,
                               bool need_output) const {
  const int64_t n = x.size(0);
  const at::Tensor attn_in = attention_norm_.Rms(x);
  const at::Tensor q =
      Rotate(q_(attn_in).view({n, heads_, head_dim_}), cos_, sin_);
  const at::Tensor k =
      Rotate(k_(attn_in).view({n, kv_heads_, head_dim_}), cos_, sin_);
  const at::Tensor v = v_(attn_in).view({n, kv_heads_, head_dim_});
  const at::Tensor attn_out = CausalAttention(q, k, v, window_);
  const at::Tensor middle = x + o_(attn_out);

  const at::Tensor mlp_in = mlp_norm_.Rms(middle);
  const at::Tensor mlp_out = at::silu(gate_(mlp_in)).mul_(up_(mlp_in));
  if (captured != nullptr) *captured = {attn_in, attn_out, mlp_in, mlp_out};
  if (!need_output) return at::Tensor();
  return middle + down_(mlp_out);
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
