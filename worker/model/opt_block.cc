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

 private:
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

at::Tensor OptBlock::Forward(const at::Tensor& x, CapturedInputs* captured,
                             bool need_output) const {
  const int64_t n = x.size(0);
  const at::Tensor attn_in = norm_before_ ? attention_norm_.Layer(x) : x;
  const at::Tensor attn_out =
      CausalAttention(q_(attn_in).view({n, heads_, head_dim_}),
                      k_(attn_in).view({n, heads_, head_dim_}),
                      v_(attn_in).view({n, heads_, head_dim_}), /*window=*/0);
  at::Tensor middle = x + out_(attn_out);
  if (!norm_before_) middle = attention_norm_.Layer(middle);

  const at::Tensor mlp_in = norm_before_ ? mlp_norm_.Layer(middle) : middle;
  const at::Tensor hidden = fc1_(mlp_in);
  const at::Tensor mlp_out = gelu_ ? at::gelu(hidden) : at::relu(hidden);
  if (captured != nullptr) *captured = {attn_in, attn_out, mlp_in, mlp_out};
  if (!need_output) return at::Tensor();
  const at::Tensor out = middle + fc2_(mlp_out);
  return norm_before_ ? out : mlp_norm_.Layer(out);
}

}  // namespace

absl::StatusOr<std::unique_ptr<DecoderBlock>> LoadOptBlock(
    const WeightReader& reader, const ModelConfig& config, int64_t block) {
  auto loaded = std::make_unique<OptBlock>();
  BW_RETURN_IF_ERROR(loaded->Load(reader, config, block));
  return loaded;
}

}  // namespace bitwright::model
