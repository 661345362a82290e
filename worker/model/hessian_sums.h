// Sums of x xᵀ over the inputs that a block's linears read.
#ifndef BITWRIGHT_WORKER_MODEL_HESSIAN_SUMS_H_
#define BITWRIGHT_WORKER_MODEL_HESSIAN_SUMS_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/model/block.h"
#include "worker/model/decoder_model.h"
#include "worker/quant/hessian.h"

namespace bitwright::model {

// On the CPU quant::HessianAccumulator, on other devices one square matrix per
// group there. Add sequences in order, from one thread: float32 sums depend on
// the order. May throw what torch throws.
class HessianSums {
 public:
  // Columns of each group, as BlockLinears tells.
  static absl::StatusOr<HessianSums> Create(const ModelConfig& config,
                                            int64_t block,
                                            const at::Device& device);

  absl::Status Add(const CapturedInputs& inputs);

  // In the order of BlockLinears.
  std::vector<HessianSum> Take();

 private:
  struct Group {
    int input = 0;  // Index into CapturedInputs.
    int64_t cols = 0;
    std::vector<quant::HessianAccumulator> host;  // One, or none.
    at::Tensor device;                            // [cols, cols] or undefined.
  };
  std::vector<Group> groups_;
};

}  // namespace bitwright::model

#endif  // BITWRIGHT_WORKER_MODEL_HESSIAN_SUMS_H_
