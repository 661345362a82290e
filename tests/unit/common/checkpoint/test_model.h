// Small model directories with arbitrary but fixed weights.
#ifndef BITWRIGHT_TESTS_UNIT_COMMON_CHECKPOINT_TEST_MODEL_H_
#define BITWRIGHT_TESTS_UNIT_COMMON_CHECKPOINT_TEST_MODEL_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/checkpoint/checkpoint_writer.h"
#include "common/checkpoint/model_config.h"
#include "common/checkpoint/native.h"
#include "common/checkpoint/safetensors.h"

namespace bitwright::testing_model {

extern const char kLlamaConfig[];  // Two blocks, grouped-query, untied.
extern const char kOptConfig[];    // Two blocks, projected embeddings.

struct ModelFiles {
  std::string config = kLlamaConfig;
  DType dtype = DType::kF16;
  int shards = 1;
  // Changes the list of tensors before they are written.
  std::function<void(std::vector<Tensor>*)> edit = nullptr;
};

// Every tensor that the config requires, with arbitrary values.
std::vector<Tensor> ModelTensors(const ModelConfig& config, DType dtype);

// Writes config.json, weights, tokenizer.json, LICENSE, README.md into `path`,
// which is made.
void WriteModel(const std::string& path, const ModelFiles& files = {});

// A quantized linear with level counts that differ from column to column.
QuantizedLinear RandomLinear(int64_t rows, int64_t cols, int64_t group_size,
                             uint32_t seed);

// One with bits that differ from row to row, 16 among them.
QuantizedLinear RandomRowLinear(int64_t rows, int64_t cols, int64_t group_size,
                                uint32_t seed);
// Either, by the seed.
QuantizedLinear RandomMixedLinear(int64_t rows, int64_t cols,
                                  int64_t group_size, uint32_t seed);

// Quantizes all block linears of `source` with `make` and writes the checkpoint
// into `out`, which is made.
absl::Status WriteQuantized(const ModelDirectory& source,
                            const std::string& out,
                            const CheckpointOptions& options,
                            decltype(RandomLinear)* make = RandomLinear);

// A lineage as the worker gives it.
std::string Lineage(const ModelConfig& config);

std::vector<std::string> AllLinears(const ModelConfig& config);

}  // namespace bitwright::testing_model

#endif  // BITWRIGHT_TESTS_UNIT_COMMON_CHECKPOINT_TEST_MODEL_H_
