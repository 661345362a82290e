#include "common/checkpoint/finite.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace bitwright {

absl::Status CheckFinite(absl::Span<const float> values,
                         absl::Span<const int64_t> shape,
                         absl::string_view where, int64_t first) {
  float sum = 0;  // x * 0 is NaN unless x is finite: no branch in the loop.
  for (float value : values) sum += value * 0.0f;
  if (sum == 0) return absl::OkStatus();
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::isfinite(values[i])) continue;
    std::vector<int64_t> place(shape.size());
    int64_t rest = first + static_cast<int64_t>(i);
    for (size_t d = shape.size(); d-- > 0; rest /= shape[d]) {
      place[d] = rest % shape[d];
    }
    return absl::InvalidArgumentError(
        absl::StrCat(where, " is ", values[i], " at ", ShapeString(place),
                     ": the weights are damaged"));
  }
  return absl::OkStatus();
}

absl::Status CheckFiniteTensor(const SafetensorsFile& file,
                               const TensorInfo& info) {
  constexpr int64_t kPiece = 1 << 18;
  const bool floating = info.dtype == DType::kF64 ||
                        info.dtype == DType::kF32 ||
                        info.dtype == DType::kF16 || info.dtype == DType::kBF16;
  if (!floating) return absl::OkStatus();
  const int64_t count = info.num_elements();
  const int64_t size = SizeOf(info.dtype);
  std::vector<float> piece(std::min(kPiece, count));
  for (int64_t first = 0; first < count; first += kPiece) {
    auto values =
        absl::MakeSpan(piece).subspan(0, std::min(kPiece, count - first));
    BW_RETURN_IF_ERROR(ToFloats(
        info.dtype, file.Data(info).substr(first * size, values.size() * size),
        values));
    BW_RETURN_IF_ERROR(
        CheckFinite(values, info.shape,
                    absl::StrCat(file.path(), ": tensor ", info.name), first));
  }
  return absl::OkStatus();
}

}  // namespace bitwright
