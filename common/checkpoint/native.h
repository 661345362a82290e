// The native form of one quantized linear, as formats.md "Out 1" lays it down.
//
// Codes are kept packed. Each column's run of R codes starts at a byte
// boundary; classes of equal levels come in ascending order, and within a class
// its columns in ascending index. Decoding is float32 without fused operations:
//   scale = (max - min) / (levels - 1);  zero = rint(-min / scale)  (half to
//   even) w = scale * (code - zero);           levels == 1: w = 0, and no bytes
#ifndef BITWRIGHT_COMMON_CHECKPOINT_NATIVE_H_
#define BITWRIGHT_COMMON_CHECKPOINT_NATIVE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/checkpoint/safetensors.h"

namespace bitwright {

struct QuantizedLinear {
  int64_t rows = 0, cols = 0;
  int64_t group_size =
      0;  // Columns a group; 0: one group. G = ceil(cols / group_size).
  std::vector<uint16_t> levels;                // [C], 1..256.
  std::vector<uint16_t> range_min, range_max;  // F16 bits, [R, G].
  std::string codes;                           // Packed.

  int64_t groups() const {
    return group_size == 0 ? 1 : (cols + group_size - 1) / group_size;
  }
  // Bits of all its tensors over rows * cols.
  double FileBitsPerWeight() const;
  // mean log2(levels): the paper's accounting.
  double CodeBitsPerWeight() const;
};

// Bytes that a run of `count` codes with `levels` levels takes (0 for 1 level).
int64_t PackedRunBytes(int64_t count, int levels);
// Appends the packed run; each code must be below `levels`.
void PackRun(absl::Span<const uint8_t> codes, int levels, std::string* out);
// DATA_LOSS if a code is not below `levels`, or padding is not zero.
absl::Status UnpackRun(absl::string_view bytes, int levels,
                       absl::Span<uint8_t> codes);

// `codes` is [R, C] row by row, in original column order.
std::string PackCodes(absl::Span<const uint8_t> codes, int64_t rows,
                      absl::Span<const uint16_t> levels);
absl::StatusOr<std::vector<uint8_t>> UnpackCodes(const QuantizedLinear& linear);

// The decoded weight [R, C], row by row. INVALID_ARGUMENT/DATA_LOSS if the
// parts do not fit together.
absl::StatusOr<std::vector<float>> Dequantize(const QuantizedLinear& linear);
// The same, each value rounded to the nearest of `dtype` (F32, F16 or BF16),
// the source model's: what a dense checkpoint holds, and what a model that
// computes in its own dtype sees. Evaluations use this one, so that native and
// dense give the same figures.
absl::StatusOr<std::vector<float>> DequantizeAs(DType dtype,
                                                const QuantizedLinear& linear);

// Tensors "prefix.weight_levels", ... in a fixed order, and back.
// `group_size` is not in the tensors; it comes from config.json or metadata.
std::vector<Tensor> ToTensors(const QuantizedLinear& linear,
                              absl::string_view prefix);
std::vector<std::string> NativeTensorNames(absl::string_view prefix);
absl::StatusOr<QuantizedLinear> FromTensors(
    absl::string_view prefix, int64_t rows, int64_t cols, int64_t group_size,
    absl::string_view levels, absl::string_view range_min,
    absl::string_view range_max, absl::string_view codes);

// The blob that a quantize task makes: the tensors above (prefix = the linear's
// name) and metadata "name", "rows", "cols", "group_size", "report" (JSON).
struct LinearBlob {
  std::string name;
  QuantizedLinear linear;
  std::string report;
};
std::string SerializeLinearBlob(const LinearBlob& blob);
absl::StatusOr<LinearBlob> ParseLinearBlob(std::string bytes,
                                           const std::string& source);

}  // namespace bitwright

#endif  // BITWRIGHT_COMMON_CHECKPOINT_NATIVE_H_
