// Element types of safetensors, and exact conversion to and from float.
#ifndef BITWRIGHT_COMMON_CHECKPOINT_DTYPE_H_
#define BITWRIGHT_COMMON_CHECKPOINT_DTYPE_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace bitwright {

enum class DType {
  kBool,
  kU8,
  kI8,
  kU16,
  kI16,
  kF16,
  kBF16,
  kU32,
  kI32,
  kF32,
  kU64,
  kI64,
  kF64
};

size_t SizeOf(DType dtype);                // Bytes of one element.
absl::string_view DTypeName(DType dtype);  // As safetensors spells it: "BF16".
// INVALID_ARGUMENT for a type that is not in the list.
absl::StatusOr<DType> ParseDType(absl::string_view name);

// IEEE half precision, round to nearest even; overflow becomes infinity.
uint16_t FloatToHalf(float value);
float HalfToFloat(uint16_t bits);
uint16_t FloatToBFloat16(float value);
float BFloat16ToFloat(uint16_t bits);

// `bytes` holds out.size() little-endian elements. Floating-point types only;
// F64 is rounded to nearest. INVALID_ARGUMENT otherwise.
absl::Status ToFloats(DType dtype, absl::string_view bytes,
                      absl::Span<float> out);
// The inverse, appended to `out`. F32, F16 and BF16 only.
absl::Status AppendFloats(DType dtype, absl::Span<const float> values,
                          std::string* out);

// Each value becomes the nearest that `dtype` can hold, ties to even. F32, F16
// and BF16 only.
absl::Status RoundTo(DType dtype, absl::Span<float> values);

}  // namespace bitwright

#endif  // BITWRIGHT_COMMON_CHECKPOINT_DTYPE_H_
