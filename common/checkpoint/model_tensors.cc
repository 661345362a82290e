// Names and shapes of the tensors that a model's config implies.
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/checkpoint/model_config.h"

namespace bitwright {
namespace {

std::string BlockPrefix(const ModelConfig& config, int64_t block) {
  return absl::StrCat(config.name_prefix, "layers.", block, ".");
}

// Whether the linear of this Hessian group has a bias.
bool HasBias(const ModelConfig& config, const LinearSpec& linear) {
  if (linear.hessian_group == "attn_in") return config.attention_bias;
  if (linear.hessian_group == "attn_out") return config.attention_out_bias;
  return config.mlp_bias;
}

class TensorList {
 public:
  void Add(std::string name, std::vector<int64_t> shape) {
    tensors_.push_back({std::move(name), std::move(shape), false});
  }
  void AddOptional(std::string name, std::vector<int64_t> shape) {
    tensors_.push_back({std::move(name), std::move(shape), true});
  }
  // A LayerNorm's weight and bias.
  void AddNorm(const std::string& name, int64_t size) {
    Add(name + ".weight", {size});
    Add(name + ".bias", {size});
  }
  void AddLinears(const ModelConfig& config, int64_t block) {
    for (const LinearSpec& linear : BlockLinears(config, block)) {
      Add(linear.name + ".weight", {linear.rows, linear.cols});
      if (HasBias(config, linear)) Add(linear.name + ".bias", {linear.rows});
    }
  }
  std::vector<ExpectedTensor> Take() { return std::move(tensors_); }

 private:
  std::vector<ExpectedTensor> tensors_;
};

std::vector<ExpectedTensor> LlamaTensors(const ModelConfig& config) {
  TensorList list;
  const int64_t hidden = config.hidden_size;
  list.Add(config.name_prefix + "embed_tokens.weight",
           {config.vocab_size, hidden});
  // Old files store the rotary frequencies, which follow from the config.
  list.AddOptional(config.name_prefix + "rotary_emb.inv_freq",
                   {config.head_dim / 2});
  for (int64_t block = 0; block < config.num_layers; ++block) {
    const std::string prefix = BlockPrefix(config, block);
    list.Add(prefix + "input_layernorm.weight", {hidden});
    list.AddLinears(config, block);
    list.AddOptional(prefix + "self_attn.rotary_emb.inv_freq",
                     {config.head_dim / 2});
    list.Add(prefix + "post_attention_layernorm.weight", {hidden});
  }
  list.Add(config.name_prefix + "norm.weight", {hidden});
  return list.Take();
}

std::vector<ExpectedTensor> OptTensors(const ModelConfig& config) {
  TensorList list;
  const int64_t hidden = config.hidden_size;
  const int64_t embed = config.embed_proj_dim;
  list.Add(config.name_prefix + "embed_tokens.weight",
           {config.vocab_size, embed});
  list.Add(config.name_prefix + "embed_positions.weight",
           {config.max_position + 2, hidden});
  if (embed != hidden) {
    list.Add(config.name_prefix + "project_in.weight", {hidden, embed});
    list.Add(config.name_prefix + "project_out.weight", {embed, hidden});
  }
  for (int64_t block = 0; block < config.num_layers; ++block) {
    const std::string prefix = BlockPrefix(config, block);
    list.AddNorm(prefix + "self_attn_layer_norm", hidden);
    list.AddLinears(config, block);
    list.AddNorm(prefix + "final_layer_norm", hidden);
  }
  if (config.final_norm) {
    list.AddNorm(config.name_prefix + "final_layer_norm", hidden);
  }
  return list.Take();
}

}  // namespace

std::vector<LinearSpec> BlockLinears(const ModelConfig& config, int64_t block) {
  const std::string prefix = BlockPrefix(config, block);
  const int64_t hidden = config.hidden_size;
  const int64_t q = config.num_heads * config.head_dim;
  const int64_t kv = config.num_kv_heads * config.head_dim;
  const int64_t wide = config.intermediate_size;
  const bool opt = config.family == ModelFamily::kOpt;
  std::vector<LinearSpec> linears = {
      {prefix + "self_attn.q_proj", q, hidden, "attn_in"},
      {prefix + "self_attn.k_proj", kv, hidden, "attn_in"},
      {prefix + "self_attn.v_proj", kv, hidden, "attn_in"},
      {prefix + (opt ? "self_attn.out_proj" : "self_attn.o_proj"), hidden, q,
       "attn_out"},
  };
  if (opt) {
    linears.push_back({prefix + "fc1", wide, hidden, "mlp_in"});
    linears.push_back({prefix + "fc2", hidden, wide, "mlp_out"});
  } else {
    linears.push_back({prefix + "mlp.gate_proj", wide, hidden, "mlp_in"});
    linears.push_back({prefix + "mlp.up_proj", wide, hidden, "mlp_in"});
    linears.push_back({prefix + "mlp.down_proj", hidden, wide, "mlp_out"});
  }
  return linears;
}

std::vector<ExpectedTensor> ExpectedTensors(const ModelConfig& config) {
  const bool opt = config.family == ModelFamily::kOpt;
  std::vector<ExpectedTensor> tensors =
      opt ? OptTensors(config) : LlamaTensors(config);
  // With tied embeddings the head may be stored again: it is not used.
  tensors.push_back(
      {"lm_head.weight",
       {config.vocab_size, opt ? config.embed_proj_dim : config.hidden_size},
       config.tied_embeddings});
  return tensors;
}

}  // namespace bitwright
