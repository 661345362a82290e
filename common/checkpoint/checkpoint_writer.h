// Writes, converts, verifies and describes finished checkpoints.
//
// Weights stream: no more than one linear is in memory at a time.
#ifndef BITWRIGHT_COMMON_CHECKPOINT_CHECKPOINT_WRITER_H_
#define BITWRIGHT_COMMON_CHECKPOINT_CHECKPOINT_WRITER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/checkpoint/model_directory.h"
#include "common/checkpoint/native.h"

namespace bitwright {

enum class CheckpointFormat { kNative, kDense };

struct CheckpointOptions {
  CheckpointFormat format = CheckpointFormat::kNative;
  uint64_t max_shard_bytes = 5'000'000'000;
  int64_t group_size = 0;
  std::string method;  // For quantization_config: "baq", ...
  // The lineage, a JSON object: written as bitwright.json (native and dense)
  // with totals and the digest of every file added (lineage_file.h).
  std::string lineage_json;
};

// Called once with each linear's name ("model.layers.0.self_attn.q_proj"), in
// the order of the model's tensors within each shard.
using LinearProvider =
    std::function<absl::StatusOr<QuantizedLinear>(const std::string& name)>;

// Writes every file of the checkpoint into `directory`, which exists and is
// empty; on error what it holds is unspecified. `source` may be native for
// dense output only. INVALID_ARGUMENT also if a copied tensor holds NaN or
// infinity, or a linear comes in another shape or grouping than asked for; the
// provider's errors pass through. Each source tensor is accounted for:
// quantized if `quantized` lists its linear, else copied unchanged. The same
// inputs give the same bytes. RESOURCE_EXHAUSTED when the disk is full.
absl::Status WriteCheckpoint(const ModelDirectory& source,
                             const std::vector<std::string>& quantized,
                             const LinearProvider& provider,
                             const CheckpointOptions& options,
                             const std::string& directory);

// Makes `final_path` appear whole: `fill` writes into a temporary sibling,
// which is synced and renamed into place. ALREADY_EXISTS if `final_path` exists
// and is not an empty directory; PERMISSION_DENIED or NOT_FOUND if it cannot be
// made.
absl::Status PublishDirectory(
    const std::string& final_path,
    const std::function<absl::Status(const std::string& temporary)>& fill);
// What PublishDirectory would refuse, told before hours of work.
absl::Status CheckPublishable(const std::string& final_path);

// A native checkpoint as a dense one in `out`: dequantized weights in the
// source dtype, loads anywhere that the original did. Published whole.
absl::Status ExportDense(const std::string& native_directory,
                         const std::string& out);

struct VerifyReport {
  int64_t files = 0, tensors = 0, quantized_linears = 0;
  int64_t bytes = 0;
  std::vector<std::string> problems;  // Empty: whole and consistent.
};
// Opens the checkpoint as a stranger would and decodes everything: digests of
// all files against bitwright.json, headers, codes in range, no NaN. Problems
// are reported, not returned as an error; an error means that it could not
// look.
absl::StatusOr<VerifyReport> VerifyCheckpoint(const std::string& directory);

struct LayerDescription {
  std::string name;
  int64_t rows = 0, cols = 0;
  double code_bits = 0, file_bits = 0;
  double loss = 0, uniform_loss = 0;
  std::string report_json;  // All that the quantizer said of it.
};
struct CheckpointDescription {
  std::string format, method;
  double code_bits_per_weight = 0, file_bits_per_weight = 0;
  int64_t quantized_weights = 0, other_weights = 0;
  std::vector<LayerDescription> layers;
  std::string lineage_json;
};
// INVALID_ARGUMENT for a directory without bitwright.json.
absl::StatusOr<CheckpointDescription> DescribeCheckpoint(
    const std::string& directory);

}  // namespace bitwright

#endif  // BITWRIGHT_COMMON_CHECKPOINT_CHECKPOINT_WRITER_H_
