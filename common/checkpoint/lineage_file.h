// bitwright.json: what a checkpoint was made from, and the digest of every
// other file in it.
//
//   {
//     "format_version": 1, "format": "native", "method": "baq",
//     "group_size": 0,
//     "tool_version": ..., "spec": {...},              what the caller gave:
//     "source_files": [{"name", "sha256", "size"}],    as it was
//     "layers": [{"name", "rows", "cols", "report": {...}}],
//     "totals": {"quantized_weights", "other_weights",
//                "code_bits_per_weight", "file_bits_per_weight"},
//     "files": {"model.safetensors": {"sha256", "size"}, ...},
//     "self_sha256": "..."
//   }
//
// "self_sha256" is the digest of the file with 64 zeros in its place, so that
// damage to the lineage shows too.
#ifndef BITWRIGHT_COMMON_CHECKPOINT_LINEAGE_FILE_H_
#define BITWRIGHT_COMMON_CHECKPOINT_LINEAGE_FILE_H_

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/digest.h"
#include "common/checkpoint/checkpoint_writer.h"

namespace bitwright {

inline constexpr char kLineageFile[] = "bitwright.json";

struct CheckpointTotals {
  int64_t quantized_weights = 0, other_weights = 0;
  // Over the quantized weights.
  double code_bits = 0, file_bits = 0;

  void Add(const QuantizedLinear& linear);
};

// The text of bitwright.json. INVALID_ARGUMENT if options.lineage_json is not a
// JSON object.
absl::StatusOr<std::string> FormatLineage(
    const CheckpointOptions& options, const CheckpointTotals& totals,
    const std::map<std::string, Digest>& files);

// DATA_LOSS unless "self_sha256" is right.
absl::Status CheckLineageDigest(absl::string_view text);

// Without the keys that FormatLineage adds: what the caller had given.
nlohmann::ordered_json CallerLineage(nlohmann::ordered_json lineage);

// Reads and parses it, digest unchecked. INVALID_ARGUMENT if `directory` has
// none; NOT_FOUND if there is no such directory.
absl::StatusOr<nlohmann::ordered_json> ReadLineage(const std::string& directory,
                                                   std::string* text = nullptr);

}  // namespace bitwright

#endif  // BITWRIGHT_COMMON_CHECKPOINT_LINEAGE_FILE_H_
