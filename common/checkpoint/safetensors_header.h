// The JSON header of a safetensors file: parsing with all its rules, and
// writing.
#ifndef BITWRIGHT_COMMON_CHECKPOINT_SAFETENSORS_HEADER_H_
#define BITWRIGHT_COMMON_CHECKPOINT_SAFETENSORS_HEADER_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/checkpoint/safetensors.h"

namespace bitwright {

inline constexpr uint64_t kMaxSafetensorsHeaderBytes = 100'000'000;

struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  // In the order of their data.
  std::map<std::string, std::string> metadata;
};

// `text` is the JSON, `data_bytes` the size of the data section. Checks every
// rule of formats.md "In". INVALID_ARGUMENT without the file's name, which the
// caller adds.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(absl::string_view text,
                                                         uint64_t data_bytes);

// Elements of `shape` times `element_size`, or INVALID_ARGUMENT if a dimension
// is negative or the product does not fit 63 bits.
absl::StatusOr<uint64_t> CheckedBytes(absl::Span<const int64_t> shape,
                                      size_t element_size);

// The 8-byte length and the JSON, padded with spaces to a multiple of 8 bytes
// in all. The tensors follow one another in the order given.
std::string FormatSafetensorsHeader(
    absl::Span<const TensorInfo> tensors,
    const std::map<std::string, std::string>& metadata);

}  // namespace bitwright

#endif  // BITWRIGHT_COMMON_CHECKPOINT_SAFETENSORS_HEADER_H_
