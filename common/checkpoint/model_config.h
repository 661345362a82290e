// What a model's config.json says, in one vocabulary for all families, and what
// follows from it: which tensors there must be, and which linears each block
// has.
//
//   BW_ASSIGN_OR_RETURN(ModelConfig config, ParseModelConfig(text,
//   "config.json")); for (const LinearSpec& linear : BlockLinears(config, 0))
//   ...
#ifndef BITWRIGHT_COMMON_CHECKPOINT_MODEL_CONFIG_H_
#define BITWRIGHT_COMMON_CHECKPOINT_MODEL_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bitwright {

enum class ModelFamily { kLlama, kOpt };  // Llama: Llama, Mistral, Qwen2.

struct RopeScaling {
  enum class Kind { kNone, kLinear, kDynamic, kLlama3, kYarn };
  Kind kind = Kind::kNone;
  double factor = 1;
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
  int64_t original_max_position = 0;                 // llama3, yarn
  double beta_fast = 32, beta_slow = 1,
         attention_factor = 0;  // yarn; 0: derived
};

struct ModelConfig {
  ModelFamily family = ModelFamily::kLlama;
  // What all tensor names of the decoder start with: "model." (Llama family),
  // "model.decoder." (OPT). config.json cannot tell when an OPT directory uses
  // "decoder." instead; ModelDirectory sees it and sets this.
  std::string name_prefix = "model.";
  std::string
      model_type;  // As in the file: "llama", "mistral", "qwen2", "opt".
  int64_t vocab_size = 0, hidden_size = 0, num_layers = 0, num_heads = 0;
  int64_t num_kv_heads = 0, head_dim = 0, intermediate_size = 0,
          max_position = 0;
  double norm_eps = 1e-5;
  bool tied_embeddings = false;
  int64_t bos_token_id = -1;  // -1: none.
  std::string torch_dtype;    // "float16", ...; empty if not stated.
  // Llama family.
  double rope_theta = 10000;
  RopeScaling rope_scaling;
  bool attention_bias = false;      // q, k, v (Qwen2: always)
  bool attention_out_bias = false;  // o
  bool mlp_bias = false;
  int64_t sliding_window = 0;  // 0: none.
  // OPT.
  int64_t embed_proj_dim =
      0;                    // word_embed_proj_dim; != hidden_size: projected.
  bool norm_before = true;  // do_layer_norm_before
  bool final_norm = true;   // Absent in OPT-350M.
  bool bias = true;         // enable_bias
  std::string activation = "relu";  // "relu" or "gelu" (exact, by erf).
};

// One linear layer of a block. `name` is the tensors' prefix:
// name + ".weight" is [rows, cols].
struct LinearSpec {
  std::string name;
  int64_t rows = 0, cols = 0;
  std::string hessian_group;  // Linears with one input share it: "attn_in",
                              // "attn_out", "mlp_in", "mlp_out".
};

struct ExpectedTensor {
  std::string name;
  std::vector<int64_t> shape;
  bool optional = false;  // E.g. lm_head.weight of tied embeddings, rotary
                          // inv_freq buffers.
};

// INVALID_ARGUMENT names `source` and the field; UNIMPLEMENTED an architecture,
// activation or scaling that is not supported, with the list of those that are.
absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view json,
                                             absl::string_view source);

// In the order of quantization; the same for every block but for the names.
std::vector<LinearSpec> BlockLinears(const ModelConfig& config, int64_t block);

// Every tensor that the model must (or may) have.
std::vector<ExpectedTensor> ExpectedTensors(const ModelConfig& config);

}  // namespace bitwright

#endif  // BITWRIGHT_COMMON_CHECKPOINT_MODEL_CONFIG_H_
