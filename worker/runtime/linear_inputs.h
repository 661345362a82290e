// What the tasks that work on one linear read, and share: quantize and measure.
// Private to this folder.
#ifndef BITWRIGHT_WORKER_RUNTIME_LINEAR_INPUTS_H_
#define BITWRIGHT_WORKER_RUNTIME_LINEAR_INPUTS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/checkpoint/model_config.h"
#include "worker/quant/quantizer.h"
#include "worker/runtime/executor.h"

namespace bitwright {

// INVALID_ARGUMENT unless the model has that block.
absl::Status CheckBlock(const ModelConfig& config, int64_t block);

// INVALID_ARGUMENT unless block `block` has it.
absl::StatusOr<LinearSpec> FindLinear(const ModelConfig& config, int64_t block,
                                      const std::string& name);

// H = (2/n) Σ x xᵀ over all shards, reduced in shard order whatever the order
// in which they arrived (math.md §1); empty if the action has no Hessians. The
// partial sums stay mapped, and of each blob only one group is read.
absl::StatusOr<std::vector<float>> ReduceShards(const TaskContext& context,
                                                const LinearSpec& linear);

// Grid, order and damping of a method; its kind, bits and budget are left at
// their defaults.
quant::QuantizeOptions GridOptions(const v1::MethodSpec& spec);

}  // namespace bitwright

#endif  // BITWRIGHT_WORKER_RUNTIME_LINEAR_INPUTS_H_
