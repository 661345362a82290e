// Weights as tensors on the device, read when asked for: float32, but for the
// matrices that CudaProducts::kStored leaves in 16 bits.
#ifndef BITWRIGHT_WORKER_MODEL_WEIGHTS_H_
#define BITWRIGHT_WORKER_MODEL_WEIGHTS_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/checkpoint/model_directory.h"
#include "worker/model/decoder_model.h"

namespace bitwright::model {

// y = x Wᵀ + b over the last dimension. `weight` is [rows, cols], `bias` [rows]
// or undefined.
struct LinearWeights {
  at::Tensor weight, bias;
  at::Tensor operator()(const at::Tensor& x) const;
  // From a gradient at y [n, rows] to the one at x [n, cols].
  at::Tensor Backward(const at::Tensor& gradient) const;
};

// RMSNorm or LayerNorm: `bias` is undefined for RMSNorm.
struct NormWeights {
  at::Tensor weight, bias;
  double eps = 0;
  at::Tensor Rms(const at::Tensor& x) const;
  at::Tensor Layer(const at::Tensor& x) const;
  // From a gradient at Rms(x), Layer(x) to the one at x.
  at::Tensor RmsBackward(const at::Tensor& x, const at::Tensor& gradient) const;
  at::Tensor LayerBackward(const at::Tensor& x,
                           const at::Tensor& gradient) const;
};

// Borrows everything. May throw what torch throws. Thread-safe, but for Linear
// when it has an override.
class WeightReader {
 public:
  WeightReader(const ModelDirectory* directory, at::Device device,
               const WeightOverride* override = nullptr)
      : directory_(directory), device_(device), override_(override) {}

  // `prefix`.weight, or what the override says, and `prefix`.bias if there
  // should be one.
  absl::StatusOr<LinearWeights> Linear(const std::string& prefix, int64_t rows,
                                       int64_t cols, bool bias) const;
  absl::StatusOr<NormWeights> Norm(const std::string& prefix, int64_t width,
                                   bool bias, double eps) const;
  absl::StatusOr<at::Tensor> Vector(const std::string& name,
                                    int64_t width) const;
  // Rows `rows` of matrix `name` [*, cols], in that order, converting no
  // others.
  absl::StatusOr<at::Tensor> Rows(const std::string& name, int64_t cols,
                                  absl::Span<const int64_t> rows) const;

  const at::Device& device() const { return device_; }

 private:
  // Of a matrix that is stored in 16 bits, if a CUDA device is to have it.
  std::optional<at::ScalarType> StoredIn16Bits(const std::string& name) const;
  // As it is stored, without a detour over float32.
  absl::StatusOr<at::Tensor> Upload(const std::string& name,
                                    at::ScalarType type, int64_t rows,
                                    int64_t cols) const;

  const ModelDirectory* directory_;
  at::Device device_;
  const WeightOverride* override_;
};

}  // namespace bitwright::model

#endif  // BITWRIGHT_WORKER_MODEL_WEIGHTS_H_
