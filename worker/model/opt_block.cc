// OPT: LayerNorm before (most sizes) or after (OPT-350M) each half, ordinary
// attention, a two-layer ReLU network.
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/model/attention.h"
#include "worker/model/block.h"

namespace bitwright::model {
namespace {

class OptBlock : public DecoderBlock {
 public:
  absl::Status Load(const WeightReader& reader, const ModelConfig& c,
                    int64_t block);

  at::Tensor Forward(const at::Tensor& x, CapturedInputs* captured,
                     bool need_output) const override;
  at::Tensor Backward(const at::Tensor& x, OutputGradient gradient,
                      bool need_input, UseGradient use) const override;
  at::Tensor& Weight(int64_t linear) override;

 private:
  enum Linear { kQ, kK, kV, kOut, kFc1, kFc2 };  // As BlockLinears.
  // What the first half of the block computes, up to the second's input.
  // `residual` is what a norm after it reads; q, k and v are
  // [seqlen, heads, head_dim].
  struct Attended {
    at::Tensor attn_in, q, k, v, attn_out, residual, middle, mlp_in;
  };
  Attended Attend(const at::Tensor& x) const;
  // From the gradient at the block's output to the one at a.residual.
  at::Tensor MlpBackward(const Attended& a, OutputGradient gradient,
                         UseGradient use) const;
  at::Tensor Activate(const at::Tensor& x) const {
    return gelu_ ? at::gelu(x) : at::relu(x);
  }

  int64_t heads_ = 0, head_dim_ = 0;
  bool norm_before_ = true, gelu_ = false;
  NormWeights attention_norm_, mlp_norm_;
  LinearWeights q_, k_, v_, out_, fc1_, fc2_;
};

absl::Status OptBlock::Load(const WeightReader& reader, const ModelConfig& c,
                            int64_t block) {
  heads_ = c.num_heads;
  head_dim_ = c.head_dim;
  norm_before_ = c.norm_before;
  gelu_ = c.activation == "gelu";
  if (!gelu_ && c.activation != "relu") {
    return absl::UnimplementedError(absl::StrCat(
        "activation \"", c.activation, "\" of OPT; supported: relu, gelu"));
  }
  const int64_t width = c.hidden_size, inner = c.intermediate_size;
  const std::string p = absl::StrCat(c.name_prefix, "layers.", block, ".");
  const std::string attn = p + "self_attn.";
  BW_ASSIGN_OR_RETURN(attention_norm_, reader.Norm(p + "self_attn_layer_norm",
                                                   width, true, c.norm_eps));
  BW_ASSIGN_OR_RETURN(q_, reader.Linear(attn + "q_proj", width, width, c.bias));
  BW_ASSIGN_OR_RETURN(k_, reader.Linear(attn + "k_proj", width, width, c.bias));
  BW_ASSIGN_OR_RETURN(v_, reader.Linear(attn + "v_proj", width, width, c.bias));
  BW_ASSIGN_OR_RETURN(out_,
                      reader.Linear(attn + "out_proj", width, width, c.bias));
  BW_ASSIGN_OR_RETURN(
      mlp_norm_, reader.Norm(p + "final_layer_norm", width, true, c.norm_eps));
  BW_ASSIGN_OR_RETURN(fc1_, reader.Linear(p + "fc1", inner, width, c.bias));
  BW_ASSIGN_OR_RETURN(fc2_, reader.Linear(p + "fc2", width, inner, c.bias));
  return absl::OkStatus();
}

OptBlock::Attended OptBlock::Attend(const at::Tensor& x) const {
  const int64_t n = x.size(0);
  Attended a;
  a.attn_in = norm_before_ ? attention_norm_.Layer(x) : x;
  a.q = q_(a.attn_in).view({n, heads_, head_dim_});
  a.k = k_(a.attn_in).view({n, heads_, head_dim_});
  a.v = v_(a.attn_in).view({n, heads_, head_dim_});
  a.attn_out = CausalAttention(a.q, a.k, a.v, /*window=*/0);
  a.residual = x + out_(a.attn_out);
  a.middle = norm_before_ ? a.residual : attention_norm_.Layer(a.residual);
  a.mlp_in = norm_before_ ? mlp_norm_.Layer(a.middle) : a.middle;
  return a;
}

at::Tensor OptBlock::Forward(const at::Tensor& x, CapturedInputs* captured,
                             bool need_output) const {
  const Attended a = Attend(x);
  const at::Tensor mlp_out = Activate(fc1_(a.mlp_in));
  if (captured != nullptr) {
    *captured = {a.attn_in, a.attn_out, a.mlp_in, mlp_out};
  }
  if (!need_output) return at::Tensor();
  const at::Tensor out = a.middle + fc2_(mlp_out);
  return norm_before_ ? out : mlp_norm_.Layer(out);
}

at::Tensor OptBlock::MlpBackward(const Attended& a, OutputGradient gradient_at,
                                 UseGradient use) const {
  const at::Tensor hidden = fc1_(a.mlp_in);
  const at::Tensor mlp_out = Activate(hidden);
  const auto add = [&] { return a.middle + fc2_(mlp_out); };
  const at::Tensor sum = norm_before_ ? at::Tensor() : add();
  const at::Tensor gradient =
      gradient_at([&] { return norm_before_ ? add() : mlp_norm_.Layer(sum); });
  const at::Tensor d_out =
      norm_before_ ? gradient : mlp_norm_.LayerBackward(sum, gradient);
  use(kFc2, mlp_out, d_out);
  const at::Tensor d_mlp_out = fc2_.Backward(d_out);
  const at::Tensor d_hidden =
      gelu_ ? at::gelu_backward(d_mlp_out, hidden)
            : at::threshold_backward(d_mlp_out, hidden, /*threshold=*/0);
  use(kFc1, a.mlp_in, d_hidden);
  const at::Tensor d_mlp_in = fc1_.Backward(d_hidden);
  return norm_before_
             ? d_out + mlp_norm_.LayerBackward(a.middle, d_mlp_in)
             : attention_norm_.LayerBackward(a.residual, d_out + d_mlp_in);
}

at::Tensor& OptBlock::Weight(int64_t linear) {
  LinearWeights* const all[] = {&q_, &k_, &v_, &out_, &fc1_, &fc2_};
  return all[linear]->weight;
}

at::Tensor OptBlock::Backward(const at::Tensor& x, OutputGradient gradient,
                              bool need_input, UseGradient use) const {
  const Attended a = Attend(x);
  const at::Tensor d_residual = MlpBackward(a, gradient, use);
  use(kOut, a.attn_out, d_residual);
  const AttentionGradients d = CausalAttentionBackward(
      a.q, a.k, a.v, /*window=*/0, out_.Backward(d_residual));
  const at::Tensor d_q = d.q.flatten(1), d_k = d.k.flatten(1),
                   d_v = d.v.flatten(1);
  use(kQ, a.attn_in, d_q);
  use(kK, a.attn_in, d_k);
  use(kV, a.attn_in, d_v);
  if (!need_input) return at::Tensor();
  const at::Tensor d_attn_in =
      q_.Backward(d_q) + k_.Backward(d_k) + v_.Backward(d_v);
  return d_residual + (norm_before_
                           ? attention_norm_.LayerBackward(x, d_attn_in)
                           : d_attn_in);
}

}  // namespace

absl::StatusOr<std::unique_ptr<DecoderBlock>> LoadOptBlock(
    const WeightReader& reader, const ModelConfig& config, int64_t block) {
  auto loaded = std::make_unique<OptBlock>();
  BW_RETURN_IF_ERROR(loaded->Load(reader, config, block));
  return loaded;
}

}  // namespace bitwright::model
