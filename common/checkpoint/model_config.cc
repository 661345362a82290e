#include "common/checkpoint/model_config.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/checkpoint/json_util.h"

namespace bitwright {
namespace {

using nlohmann::ordered_json;

constexpr char kSupported[] =
    "supported are llama, mistral, qwen2 (RoPE: default, linear, dynamic, "
    "llama3, yarn; activation silu) and opt (activation relu or gelu)";

// Reads fields and remembers the first error, so that a parser is a plain list
// of fields with one check at its end.
class Fields {
 public:
  Fields(const ordered_json& json, std::string where)
      : json_(json), where_(std::move(where)) {}

  const absl::Status& status() const { return status_; }
  bool Has(const char* key) const {
    auto it = json_.find(key);
    return it != json_.end() && !it->is_null();
  }
  bool StatedNull(const char* key) const {
    auto it = json_.find(key);
    return it != json_.end() && it->is_null();
  }
  // A positive integer of at most 2^31 - 1; fallback < 0: required.
  int64_t Positive(const char* key, int64_t fallback = -1);
  int64_t Integer(const char* key, int64_t fallback) const {
    return JsonInteger(json_, key, fallback);
  }
  double PositiveNumber(const char* key, double fallback);
  bool Bool(const char* key, bool fallback);
  std::string String(const char* key, const std::string& fallback);
  const ordered_json* Find(const char* key) const {
    return Has(key) ? &*json_.find(key) : nullptr;
  }

  void Invalid(absl::string_view what) {
    if (status_.ok()) {
      status_ = absl::InvalidArgumentError(absl::StrCat(where_, ": ", what));
    }
  }
  void Unsupported(absl::string_view what) {
    if (status_.ok()) {
      status_ = absl::UnimplementedError(
          absl::StrCat(where_, ": ", what, "; ", kSupported));
    }
  }

 private:
  void Wrong(const char* key, absl::string_view expected) {
    std::string value = json_.find(key)->dump(
        -1, ' ', false, ordered_json::error_handler_t::replace);
    Invalid(absl::StrCat("\"", key, "\" is ", value.substr(0, 80),
                         "; expected ", expected));
  }

  const ordered_json& json_;
  std::string where_;
  absl::Status status_;
};

int64_t Fields::Positive(const char* key, int64_t fallback) {
  if (!Has(key)) {
    if (fallback < 0) Invalid(absl::StrCat("\"", key, "\" is missing"));
    return fallback < 0 ? 1 : fallback;
  }
  const int64_t value = JsonInteger(json_, key, -1);
  if (value < 1 || value > std::numeric_limits<int32_t>::max()) {
    Wrong(key, "a positive integer below 2^31");
    return 1;
  }
  return value;
}

double Fields::PositiveNumber(const char* key, double fallback) {
  if (!Has(key)) return fallback;
  const double value = JsonNumber(json_, key, -1);
  if (!std::isfinite(value) || value <= 0) {
    Wrong(key, "a positive number");
    return fallback;
  }
  return value;
}

bool Fields::Bool(const char* key, bool fallback) {
  if (!Has(key)) return fallback;
  const ordered_json& value = *json_.find(key);
  if (value.is_boolean()) return value.get<bool>();
  Wrong(key, "true or false");
  return fallback;
}

std::string Fields::String(const char* key, const std::string& fallback) {
  if (!Has(key)) return fallback;
  if (!json_.find(key)->is_string()) Wrong(key, "a string");
  return JsonString(json_, key, fallback);
}

absl::Status ParseRopeScaling(const ordered_json& json,
                              const std::string& where, ModelConfig* config) {
  RopeScaling& scaling = config->rope_scaling;
  if (!json.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, " is not a JSON object"));
  }
  Fields fields(json, where);
  const std::string type =
      fields.String("rope_type", fields.String("type", "default"));
  if (type == "default") return fields.status();
  scaling.factor = fields.PositiveNumber("factor", 0);
  if (scaling.factor < 1) fields.Invalid("\"factor\" must be 1 or more");
  if (type == "linear") {
    scaling.kind = RopeScaling::Kind::kLinear;
    return fields.status();
  }
  if (type == "dynamic") {
    scaling.kind = RopeScaling::Kind::kDynamic;
    return fields.status();
  }
  scaling.original_max_position =
      fields.Positive("original_max_position_embeddings", config->max_position);
  if (type == "llama3") {
    scaling.kind = RopeScaling::Kind::kLlama3;
    scaling.low_freq_factor = fields.PositiveNumber("low_freq_factor", 1);
    scaling.high_freq_factor = fields.PositiveNumber("high_freq_factor", 4);
    if (scaling.high_freq_factor <= scaling.low_freq_factor) {
      fields.Invalid("\"high_freq_factor\" must exceed \"low_freq_factor\"");
    }
  } else if (type == "yarn") {
    scaling.kind = RopeScaling::Kind::kYarn;
    scaling.beta_fast = fields.PositiveNumber("beta_fast", 32);
    scaling.beta_slow = fields.PositiveNumber("beta_slow", 1);
    scaling.attention_factor = fields.PositiveNumber("attention_factor", 0);
    if (fields.Has("mscale") || fields.Has("mscale_all_dim") ||
        !fields.Bool("truncate", true)) {
      fields.Unsupported("yarn with mscale or without truncation");
    }
  } else {
    fields.Unsupported(absl::StrCat("RoPE scaling \"", type, "\""));
  }
  return fields.status();
}

// The window of every layer, or 0. A mixture of windows is refused.
void ParseSlidingWindow(Fields* fields, ModelConfig* config) {
  const bool qwen = config->model_type == "qwen2";
  if (config->model_type == "llama") return;
  if (qwen && !fields->Bool("use_sliding_window", false)) return;
  if (fields->StatedNull("sliding_window")) return;
  const int64_t window = fields->Positive("sliding_window", 4096);
  if (window >= config->max_position) return;  // Never takes effect.
  if (const ordered_json* types = fields->Find("layer_types")) {
    size_t sliding = 0;
    for (const ordered_json& type : *types) {
      sliding += type == "sliding_attention";
    }
    if (sliding == 0) return;
    if (sliding != types->size()) {
      return fields->Unsupported("sliding windows in some layers only");
    }
  } else if (qwen) {
    const int64_t full_layers = fields->Integer("max_window_layers", 28);
    if (full_layers >= config->num_layers) return;
    if (full_layers > 0) {
      return fields->Unsupported("sliding windows in some layers only");
    }
  }
  config->sliding_window = window;
}

absl::Status ParseLlama(const ordered_json& json, const std::string& source,
                        ModelConfig* config) {
  Fields fields(json, source);
  config->intermediate_size = fields.Positive("intermediate_size");
  config->num_kv_heads =
      fields.Positive("num_key_value_heads", config->num_heads);
  if (config->num_heads % config->num_kv_heads != 0) {
    fields.Invalid(
        absl::StrCat("\"num_attention_heads\" ", config->num_heads,
                     " is not a multiple of \"num_key_value_heads\" ",
                     config->num_kv_heads));
  }
  if (!fields.Has("head_dim") && config->hidden_size % config->num_heads != 0) {
    fields.Invalid(
        "\"hidden_size\" is not a multiple of "
        "\"num_attention_heads\", and \"head_dim\" is missing");
  }
  config->head_dim =
      fields.Positive("head_dim", config->hidden_size / config->num_heads);
  if (config->head_dim % 2 != 0) {
    fields.Invalid("rotary position embedding needs an even \"head_dim\"");
  }
  config->norm_eps = fields.PositiveNumber("rms_norm_eps", 1e-6);
  config->tied_embeddings = fields.Bool("tie_word_embeddings", false);
  const std::string activation = fields.String("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") {
    fields.Unsupported(absl::StrCat("activation \"", activation, "\""));
  }
  config->activation = "silu";
  if (fields.PositiveNumber("partial_rotary_factor", 1) != 1) {
    fields.Unsupported("a partial rotary embedding");
  }
  if (config->model_type == "qwen2") {
    config->attention_bias = true;
  } else if (config->model_type == "llama") {
    config->attention_bias = fields.Bool("attention_bias", false);
    config->attention_out_bias = config->attention_bias;
    config->mlp_bias = fields.Bool("mlp_bias", false);
  }
  config->bias = false;
  config->embed_proj_dim = config->hidden_size;
  ParseSlidingWindow(&fields, config);
  config->rope_theta = fields.PositiveNumber("rope_theta", 10000);
  BW_RETURN_IF_ERROR(fields.status());
  // Newer writers put both the base and the scaling into "rope_parameters".
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const ordered_json* scaling = fields.Find(key);
    if (scaling == nullptr) continue;
    const std::string where = absl::StrCat(source, ": \"", key, "\"");
    BW_RETURN_IF_ERROR(ParseRopeScaling(*scaling, where, config));
    Fields inner(*scaling, where);
    config->rope_theta = inner.PositiveNumber("rope_theta", config->rope_theta);
    return inner.status();
  }
  return absl::OkStatus();
}

absl::Status ParseOpt(const ordered_json& json, const std::string& source,
                      ModelConfig* config) {
  Fields fields(json, source);
  config->family = ModelFamily::kOpt;
  config->name_prefix = "model.decoder.";
  config->intermediate_size = fields.Positive("ffn_dim");
  config->num_kv_heads = config->num_heads;
  if (config->hidden_size % config->num_heads != 0) {
    fields.Invalid(
        "\"hidden_size\" is not a multiple of \"num_attention_heads\"");
  }
  config->head_dim = config->hidden_size / config->num_heads;
  config->embed_proj_dim =
      fields.Positive("word_embed_proj_dim", config->hidden_size);
  config->norm_before = fields.Bool("do_layer_norm_before", true);
  config->final_norm =
      config->norm_before && !fields.Bool("_remove_final_layer_norm", false);
  config->bias = fields.Bool("enable_bias", true);
  config->attention_bias = config->bias;
  config->attention_out_bias = config->bias;
  config->mlp_bias = config->bias;
  config->tied_embeddings = fields.Bool("tie_word_embeddings", true);
  config->activation = fields.String("activation_function", "relu");
  if (config->activation != "relu" && config->activation != "gelu") {
    fields.Unsupported(absl::StrCat("activation \"", config->activation, "\""));
  }
  if (!fields.Bool("layer_norm_elementwise_affine", true)) {
    fields.Unsupported("layer norms without weights");
  }
  return fields.status();
}

std::string ModelTypeOf(const ordered_json& json) {
  std::string type = JsonString(json, "model_type");
  if (!type.empty()) return type;
  auto it = json.find("architectures");
  if (it == json.end() || !it->is_array() || it->empty()) return "";
  const ordered_json& first = (*it)[0];
  if (first == "LlamaForCausalLM") return "llama";
  if (first == "MistralForCausalLM") return "mistral";
  if (first == "Qwen2ForCausalLM") return "qwen2";
  if (first == "OPTForCausalLM") return "opt";
  return first.is_string() ? first.get<std::string>() : "";
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view text,
                                             absl::string_view source) {
  BW_ASSIGN_OR_RETURN(ordered_json json, ParseJsonObject(text, source));
  const std::string where(source);
  Fields fields(json, where);
  ModelConfig config;
  config.model_type = ModelTypeOf(json);
  const bool opt = config.model_type == "opt";
  if (config.model_type.empty()) {
    fields.Invalid("\"model_type\" is missing: not a model's config.json");
  } else if (!opt && config.model_type != "llama" &&
             config.model_type != "mistral" && config.model_type != "qwen2") {
    fields.Unsupported(
        absl::StrCat("architecture \"", config.model_type, "\""));
  }
  BW_RETURN_IF_ERROR(fields.status());
  config.vocab_size = fields.Positive("vocab_size");
  config.hidden_size = fields.Positive("hidden_size");
  config.num_layers = fields.Positive("num_hidden_layers");
  config.num_heads = fields.Positive("num_attention_heads");
  config.max_position = fields.Positive("max_position_embeddings");
  config.bos_token_id = JsonInteger(json, "bos_token_id", -1);
  config.torch_dtype = JsonString(json, "torch_dtype");
  if (config.torch_dtype.empty()) {
    config.torch_dtype = JsonString(json, "dtype");
  }
  if (config.num_layers > 100'000) {
    fields.Invalid("\"num_hidden_layers\" is beyond 100,000");
  }
  BW_RETURN_IF_ERROR(fields.status());
  BW_RETURN_IF_ERROR(opt ? ParseOpt(json, where, &config)
                         : ParseLlama(json, where, &config));
  return config;
}

}  // namespace bitwright
