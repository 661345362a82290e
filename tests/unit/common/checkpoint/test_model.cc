#include "test_model.h"

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/file.h"
#include "common/base/status_macros.h"
#include "gtest/gtest.h"

namespace bitwright::testing_model {

namespace fs = std::filesystem;

const char kLlamaConfig[] = R"({
  "architectures": ["LlamaForCausalLM"], "model_type": "llama",
  "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 2,
  "num_attention_heads": 4, "num_key_value_heads": 2,
  "intermediate_size": 36, "max_position_embeddings": 64,
  "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "hidden_act": "silu",
  "tie_word_embeddings": false, "torch_dtype": "float16"})";

const char kOptConfig[] = R"({
  "architectures": ["OPTForCausalLM"], "model_type": "opt",
  "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 2,
  "num_attention_heads": 4, "ffn_dim": 48, "max_position_embeddings": 30,
  "word_embed_proj_dim": 12, "do_layer_norm_before": false,
  "activation_function": "relu", "torch_dtype": "float32"})";

std::vector<Tensor> ModelTensors(const ModelConfig& config, DType dtype) {
  std::vector<Tensor> tensors;
  std::mt19937 random(7);
  std::uniform_real_distribution<float> uniform(-1, 1);
  for (const ExpectedTensor& expected : ExpectedTensors(config)) {
    if (expected.optional) continue;
    int64_t count = 1;
    for (int64_t dim : expected.shape) count *= dim;
    std::vector<float> values(count);
    for (float& value : values) value = uniform(random);
    Tensor tensor{{expected.name, dtype, expected.shape}, ""};
    EXPECT_TRUE(AppendFloats(dtype, values, &tensor.bytes).ok());
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

void WriteModel(const std::string& path, const ModelFiles& files) {
  fs::create_directories(path);
  auto write = [&](const std::string& name, absl::string_view text) {
    absl::Status status = WriteFileAtomically(path + "/" + name, text);
    ASSERT_TRUE(status.ok()) << status;
  };
  write("config.json", files.config);
  write("tokenizer.json", "{\"model\": {}}");
  write("LICENSE", "Use it.");
  write("README.md", "Not part of the model.");
  auto config = ParseModelConfig(files.config, "config.json");
  ASSERT_TRUE(config.ok()) << config.status();
  std::vector<Tensor> tensors = ModelTensors(*config, files.dtype);
  if (files.edit) files.edit(&tensors);
  if (files.shards == 1) {
    write("model.safetensors", SerializeSafetensors(tensors));
    return;
  }
  nlohmann::json index;
  for (int s = 0; s < files.shards; ++s) {
    std::vector<Tensor> part;
    const std::string name =
        absl::StrFormat("model-%05d-of-%05d.safetensors", s + 1, files.shards);
    for (size_t i = s; i < tensors.size(); i += files.shards) {
      part.push_back(tensors[i]);
      index["weight_map"][tensors[i].spec.name] = name;
    }
    write(name, SerializeSafetensors(part));
  }
  write("model.safetensors.index.json", index.dump());
}

namespace {

void AddRanges(QuantizedLinear* linear, std::mt19937& random) {
  std::uniform_real_distribution<float> uniform(0.01f, 1.0f);
  for (int64_t i = 0; i < linear->rows * linear->groups(); ++i) {
    linear->range_min.push_back(FloatToHalf(-uniform(random)));
    linear->range_max.push_back(FloatToHalf(uniform(random)));
  }
}

}  // namespace

QuantizedLinear RandomLinear(int64_t rows, int64_t cols, int64_t group_size,
                             uint32_t seed) {
  static constexpr uint16_t kLevels[] = {1, 2, 3, 4, 5, 7, 8, 9, 16, 100, 256};
  std::mt19937 random(seed);
  QuantizedLinear linear;
  linear.rows = rows;
  linear.cols = cols;
  linear.group_size = group_size;
  for (int64_t c = 0; c < cols; ++c) {
    linear.levels.push_back(kLevels[random() % std::size(kLevels)]);
  }
  AddRanges(&linear, random);
  std::vector<uint8_t> codes(rows * cols);
  for (int64_t i = 0; i < rows * cols; ++i) {
    codes[i] = static_cast<uint8_t>(random() % linear.levels[i % cols]);
  }
  linear.codes = PackCodes(codes, rows, linear.levels);
  return linear;
}

QuantizedLinear RandomRowLinear(int64_t rows, int64_t cols, int64_t group_size,
                                uint32_t seed) {
  static constexpr uint8_t kBits[] = {1, 2, 3, 4, 5, 6, 7, 8, kF16RowBits};
  std::mt19937 random(seed);
  QuantizedLinear linear;
  linear.rows = rows;
  linear.cols = cols;
  linear.group_size = group_size;
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  std::vector<uint8_t> codes(rows * cols);
  std::vector<float> f16_rows;
  for (int64_t r = 0; r < rows; ++r) {
    const int bits = kBits[random() % std::size(kBits)];
    linear.row_bits.push_back(bits);
    for (int64_t c = 0; c < cols; ++c) {
      if (bits == kF16RowBits) {
        f16_rows.push_back(HalfToFloat(FloatToHalf(uniform(random))));
      } else {
        codes[r * cols + c] = static_cast<uint8_t>(random() % (1 << bits));
      }
    }
  }
  AddRanges(&linear, random);
  linear.codes = PackRowCodes(codes, cols, linear.row_bits, f16_rows);
  return linear;
}

QuantizedLinear RandomMixedLinear(int64_t rows, int64_t cols,
                                  int64_t group_size, uint32_t seed) {
  return (seed % 2 ? RandomRowLinear : RandomLinear)(rows, cols, group_size,
                                                     seed);
}

std::vector<std::string> AllLinears(const ModelConfig& config) {
  std::vector<std::string> names;
  for (int64_t block = 0; block < config.num_layers; ++block) {
    for (const LinearSpec& linear : BlockLinears(config, block)) {
      names.push_back(linear.name);
    }
  }
  return names;
}

absl::Status WriteQuantized(const ModelDirectory& source,
                            const std::string& out,
                            const CheckpointOptions& options,
                            decltype(RandomLinear)* make) {
  std::map<std::string, QuantizedLinear> linears;
  uint32_t seed = 1;
  for (int64_t block = 0; block < source.config().num_layers; ++block) {
    for (const LinearSpec& linear : BlockLinears(source.config(), block)) {
      linears[linear.name] =
          make(linear.rows, linear.cols, options.group_size, seed++);
    }
  }
  fs::create_directories(out);
  return WriteCheckpoint(
      source, AllLinears(source.config()),
      [&](const std::string& name) -> absl::StatusOr<QuantizedLinear> {
        return linears.at(name);
      },
      options, out);
}

std::string Lineage(const ModelConfig& config) {
  nlohmann::ordered_json json;
  json["tool_version"] = "0.1.0";
  json["spec"] = {{"bits", 3}};
  json["source_files"] = {{{"name", "x"}, {"sha256", "00"}, {"size", 1}}};
  json["layers"] = nlohmann::ordered_json::array();
  double loss = 1;
  for (const LinearSpec& linear : BlockLinears(config, 0)) {
    json["layers"].push_back({{"name", linear.name},
                              {"rows", linear.rows},
                              {"cols", linear.cols},
                              {"report",
                               {{"loss", loss},
                                {"uniform_loss", 2 * loss},
                                {"code_bits", 2.5},
                                {"file_bits", 2.75},
                                {"damping", 0.01}}}});
    loss += 0.5;
  }
  return json.dump();
}

}  // namespace bitwright::testing_model
