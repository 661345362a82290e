// Finds NaN and infinity in weights.
#ifndef BITWRIGHT_COMMON_CHECKPOINT_FINITE_H_
#define BITWRIGHT_COMMON_CHECKPOINT_FINITE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/checkpoint/safetensors.h"

namespace bitwright {

// INVALID_ARGUMENT: "<where> is nan at [3, 17]: the weights are damaged". The
// values are those from element `first` on of a tensor of this shape.
absl::Status CheckFinite(absl::Span<const float> values,
                         absl::Span<const int64_t> shape,
                         absl::string_view where, int64_t first = 0);

// The same for a stored tensor, read in pieces; OK for integer dtypes.
absl::Status CheckFiniteTensor(const SafetensorsFile& file,
                               const TensorInfo& info);

}  // namespace bitwright

#endif  // BITWRIGHT_COMMON_CHECKPOINT_FINITE_H_
