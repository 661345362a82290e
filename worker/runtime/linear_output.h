// What the tasks that make quantized linears give, and share: quantize and
// reconstruct.
//
//   BW_ASSIGN_OR_RETURN(QuantizedLinear linear,
//                       PackLinear(name, result, group_size));
//   task.outputs.push_back(LinearOutput("linear", name, linear,
//                                       DescribeLinear(result, linear, ...)));
//
// Private to this folder.
#ifndef BITWRIGHT_WORKER_RUNTIME_LINEAR_OUTPUT_H_
#define BITWRIGHT_WORKER_RUNTIME_LINEAR_OUTPUT_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "common/checkpoint/native.h"
#include "nlohmann/json.hpp"
#include "worker/quant/quantizer.h"
#include "worker/runtime/allocation_blob.h"
#include "worker/runtime/executor.h"
#include "worker/runtime/solution_blob.h"

namespace bitwright {

// The native format's tensors. INTERNAL unless a reader decodes from them what
// the quantizer measured.
absl::StatusOr<QuantizedLinear> PackLinear(const std::string& name,
                                           const quant::QuantizedResult& result,
                                           int64_t group_size);

// What the job asks of a linear.
struct Asked {
  v1::Method method = v1::METHOD_UNSPECIFIED;
  double bits = 0;
  std::optional<AllocatedLinear> share = {};
  std::optional<ChosenRatio> ratio = {};
};

// The report that goes with it into the checkpoint. Everything but the times:
// blobs are pure.
nlohmann::ordered_json DescribeLinear(const quant::QuantizedResult& result,
                                      const QuantizedLinear& linear,
                                      const Asked& asked, bool has_hessian,
                                      double uniform_loss);

TaskOutput LinearOutput(std::string output, const std::string& name,
                        const QuantizedLinear& linear,
                        const nlohmann::ordered_json& report);

}  // namespace bitwright

#endif  // BITWRIGHT_WORKER_RUNTIME_LINEAR_OUTPUT_H_
