// The native form of one quantized linear, as formats.md "Out 1" lays it down.
//
// Codes are kept packed, in runs that each start at a byte boundary. Either
// every column has its own levels, and a run is the R codes of a column; or
// every row has its own bits, and a run is the C codes of a row (the ratio
// method, math.md §4). Classes of equal levels (or bits) come in ascending
// order, and within a class its columns (or rows) in ascending index. Decoding
// is float32 without fused operations, with levels = 2^bits for rows:
//   scale = (max - min) / (levels - 1);  zero = rint(-min / scale)  (half to
//   even) w = scale * (code - zero);           levels == 1: w = 0, and no bytes
// A row of 16 bits has no codes: its run holds its C values as little-endian
// F16, and its ranges are not used.
#ifndef BITWRIGHT_COMMON_CHECKPOINT_NATIVE_H_
#define BITWRIGHT_COMMON_CHECKPOINT_NATIVE_H_

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/checkpoint/safetensors.h"

namespace bitwright {

// What a linear's runs of codes go along, and so what has levels of its own.
enum class CodeRuns {
  kColumns,  // P.weight_levels
  kRows,     // P.weight_row_bits
};

// Bits of a row that is stored as F16 values instead of codes.
inline constexpr int kF16RowBits = 16;

struct QuantizedLinear {
  int64_t rows = 0, cols = 0;
  int64_t group_size =
      0;  // Columns a group; 0: one group. G = ceil(cols / group_size).
  // Exactly one of the two is not empty.
  std::vector<uint16_t> levels;                // [C], 1..256.
  std::vector<uint8_t> row_bits;               // [R], 1..8 or 16.
  std::vector<uint16_t> range_min, range_max;  // F16 bits, [R, G].
  std::string codes;                           // Packed.

  int64_t groups() const {
    return group_size == 0 ? 1 : (cols + group_size - 1) / group_size;
  }
  CodeRuns runs() const {
    return row_bits.empty() ? CodeRuns::kColumns : CodeRuns::kRows;
  }
  // Bits of all its tensors over rows * cols.
  double FileBitsPerWeight() const;
  // The papers' accounting: mean log2(levels); with bits by rows their mean and
  // one flag bit for each row (math.md §4), that is 1 / cols more.
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
// The same with bits by rows: `codes` is [R, cols], R = row_bits.size(). Codes
// of rows of 16 bits are not looked at: `f16_rows` holds the values of these
// rows, [their number, cols] in ascending index, which F16 can hold; empty if
// there are none.
std::string PackRowCodes(absl::Span<const uint8_t> codes, int64_t cols,
                         absl::Span<const uint8_t> row_bits,
                         absl::Span<const float> f16_rows = {});
// The codes [R, C], row by row; 0 in rows of 16 bits. Errors of Dequantize.
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

// Tensors "prefix.weight_levels" (or "prefix.weight_row_bits"), "..._min",
// "..._max" and "..._codes", in this order, and back. `group_size` is not in
// the tensors, nor is `cols` with bits by rows; they come from config.json or
// metadata.
std::vector<Tensor> ToTensors(const QuantizedLinear& linear,
                              absl::string_view prefix);
std::vector<std::string> NativeTensorNames(absl::string_view prefix,
                                           CodeRuns runs);
// The dtypes of these tensors.
std::array<DType, 4> NativeTensorTypes(CodeRuns runs);
// Told by which of the first tensors there is; INVALID_ARGUMENT names them if
// both or neither are.
absl::StatusOr<CodeRuns> FindCodeRuns(
    absl::string_view prefix,
    const std::function<bool(const std::string& tensor)>& has);
// `data` is that of the tensors, in their order. INVALID_ARGUMENT names one
// whose size is wrong.
absl::StatusOr<QuantizedLinear> FromTensors(
    absl::string_view prefix, int64_t rows, int64_t cols, int64_t group_size,
    CodeRuns runs, const std::array<absl::string_view, 4>& data);

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
