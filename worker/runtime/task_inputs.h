// What several kinds of task read: windows, quantized linears, shard ranges.
// Private to this folder.
#ifndef BITWRIGHT_WORKER_RUNTIME_TASK_INPUTS_H_
#define BITWRIGHT_WORKER_RUNTIME_TASK_INPUTS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/checkpoint/native.h"
#include "common/checkpoint/safetensors.h"
#include "worker/model/decoder_model.h"
#include "worker/runtime/executor.h"

namespace bitwright {

// Names of the action's inputs that start with `prefix`, in the action's order
// (sorted).
std::vector<std::string> InputsWithPrefix(const v1::Action& action,
                                          absl::string_view prefix);

// The input as a safetensors file, mapped.
absl::StatusOr<std::unique_ptr<SafetensorsFile>> OpenInput(
    const TaskContext& context, const std::string& name);

// Input "linear.<name>", checked to be of that linear.
absl::StatusOr<LinearBlob> ReadLinearInput(const TaskContext& context,
                                           const std::string& linear);

// Decodes "linear.<name>" for each linear that the action has as an input,
// rounded to the model's dtype, and leaves the others to the model. Borrows
// `context`.
model::WeightOverride QuantizedWeights(const TaskContext& context);

// Shard s of S takes [begin, end) = [s * n / S, (s + 1) * n / S).
struct ShardRange {
  int64_t begin = 0, end = 0;
};
// INVALID_ARGUMENT unless 0 <= shard < shards.
absl::StatusOr<ShardRange> RangeOfShard(int64_t n, int64_t shard,
                                        int64_t shards);

// Token windows, [count, seqlen] row by row.
struct TokenWindows {
  int64_t count = 0, seqlen = 0;
  std::vector<int32_t> tokens = {};
  int64_t text_tokens = 0;  // Of the whole text, as the prepare task says.
};
// A shard of the input "windows". INVALID_ARGUMENT for another shape.
absl::StatusOr<TokenWindows> ReadWindows(const TaskContext& context,
                                         int64_t shard, int64_t shards);

// An F32 tensor [sequences, seqlen, width] as a blob of one tensor, "hidden" or
// "gradient". The input is called as the tensor is, or `input`.
absl::StatusOr<model::HiddenStates> ReadStates(const TaskContext& context,
                                               const std::string& name);
absl::StatusOr<model::HiddenStates> ReadStates(const TaskContext& context,
                                               const std::string& name,
                                               const std::string& input);
absl::StatusOr<TaskOutput> WriteStates(const TaskContext& context,
                                       const std::string& name,
                                       const model::HiddenStates& states);

// A number that the metadata of input `input` must have. INVALID_ARGUMENT names
// both.
absl::StatusOr<int64_t> IntegerOf(const SafetensorsFile& file,
                                  const std::string& input,
                                  const std::string& key);
absl::StatusOr<double> DoubleOf(const SafetensorsFile& file,
                                const std::string& input,
                                const std::string& key);

// The bytes of values, as safetensors has them (little-endian).
absl::string_view BytesOf(const std::vector<float>& values);
absl::string_view BytesOf(const std::vector<int32_t>& values);
absl::string_view BytesOf(const std::vector<double>& values);

// An F64 tensor. INVALID_ARGUMENT unless its shape is `shape`.
absl::StatusOr<std::vector<double>> ReadDoubles(
    const SafetensorsFile& file, const std::string& name,
    const std::vector<int64_t>& shape);

}  // namespace bitwright

#endif  // BITWRIGHT_WORKER_RUNTIME_TASK_INPUTS_H_
