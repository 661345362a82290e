// Sums of x xᵀ over the inputs that a block's linears read.
#ifndef BITWRIGHT_WORKER_MODEL_HESSIAN_SUMS_H_
#define BITWRIGHT_WORKER_MODEL_HESSIAN_SUMS_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/model/block.h"
#include "worker/model/decoder_model.h"
#include "worker/quant/hessian.h"
#include "worker/quant/hessian_cuda.h"

namespace bitwright::model {

// On the CPU quant::HessianAccumulator; on CUDA quant::CudaHessianAccumulator
// when this build has its module, else one square matrix of torch's per group.
// Add sequences in order, from one thread: float32 sums depend on the order.
// May throw what torch throws.
class HessianSums {
 public:
  // Columns of each group, as BlockLinears tells.
  static absl::StatusOr<HessianSums> Create(const ModelConfig& config,
                                            int64_t block,
                                            const at::Device& device);

  absl::Status Add(const CapturedInputs& inputs);

  // In the order of BlockLinears. May be called once.
  absl::StatusOr<std::vector<HessianSum>> Take();

 private:
  struct Group {
    int input = 0;  // Index into CapturedInputs.
    int64_t cols = 0;
    // One of the three:
    std::vector<quant::HessianAccumulator> host;  // One, or none.
    std::unique_ptr<quant::CudaHessianAccumulator> cuda;
    at::Tensor device;  // [cols, cols] or undefined.
  };
  static absl::Status Open(const at::Device& device, Group& group);
  static absl::StatusOr<std::vector<float>> Packed(const Group& group);

  std::vector<Group> groups_;
};

}  // namespace bitwright::model

#endif  // BITWRIGHT_WORKER_MODEL_HESSIAN_SUMS_H_
