// HessianAccumulator (hessian.h) for activations that are on a CUDA device.
//
//   BW_ASSIGN_OR_RETURN(auto sum, CudaHessianAccumulator::Create(
//                                     columns, CudaHessianMode::kFloat32));
//   BW_RETURN_IF_ERROR(sum->Add(x_on_device, tokens, /*stream=*/nullptr));
//   BW_ASSIGN_OR_RETURN(std::vector<float> packed, sum->Packed());
//
// One triangle by tiles, in float32. Free of CUDA's headers on purpose.
#ifndef BITWRIGHT_WORKER_QUANT_HESSIAN_CUDA_H_
#define BITWRIGHT_WORKER_QUANT_HESSIAN_CUDA_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace bitwright::quant {

class CudaHessian;

enum class CudaHessianMode {
  kFloat32,  // plain float32 products, no TF32
  // x = hi + lo, both bfloat16; hi·hiᵀ + hi·loᵀ + lo·hiᵀ on tensor cores with
  // float32 sums: products good to 2^-16, about ten times the speed.
  kSplitBfloat16,
};

// What the model uses for its sums (worker/model): kFloat32 until it is set.
// For the whole process; thread-safe.
void SetCudaHessianMode(CudaHessianMode mode);
CudaHessianMode ActiveCudaHessianMode();

// Not thread-safe. Holds columns² floats on the device.
class CudaHessianAccumulator {
 public:
  // Errors of MakeCudaEngine (layer_engine_cuda.h), here and below.
  static absl::StatusOr<std::unique_ptr<CudaHessianAccumulator>> Create(
      int64_t columns, CudaHessianMode mode);
  ~CudaHessianAccumulator();

  // x is [tokens, columns], row-major, on device 0; `stream` is the
  // cudaStream_t on which it was computed (null: the default one). Returns
  // before x has been read: x may be freed or written to on that stream only.
  // The sums depend on the order and the sizes of the batches.
  absl::Status Add(const float* x, int64_t tokens, void* stream);

  int64_t tokens() const { return tokens_; }

  // The lower triangle, packed as HessianAccumulator::Packed().
  absl::StatusOr<std::vector<float>> Packed();

 private:
  CudaHessianAccumulator(int64_t columns, std::unique_ptr<CudaHessian> sum);

  const int64_t columns_;
  int64_t tokens_ = 0;
  const std::unique_ptr<CudaHessian> sum_;
};

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_HESSIAN_CUDA_H_
