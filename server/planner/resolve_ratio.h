// The ratio method's part of a job's spec (math.md §4). Private to this folder.
#ifndef BITWRIGHT_SERVER_PLANNER_RESOLVE_RATIO_H_
#define BITWRIGHT_SERVER_PLANNER_RESOLVE_RATIO_H_

#include "absl/status/status.h"
#include "bitwright/v1/job.pb.h"
#include "common/checkpoint/model_config.h"

namespace bitwright {

// Fills in the defaults of `method->ratio()`. INVALID_ARGUMENT names the field
// that does not fit, or says that another method has a ratio spec.
absl::Status ResolveRatio(v1::MethodSpec* method);

// `method` is resolved. A budget of codes that no choice meets is refused
// before anything runs; what a file takes, the solver knows.
absl::Status CheckRatioBudget(const v1::MethodSpec& method,
                              const ModelConfig& config);

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_PLANNER_RESOLVE_RATIO_H_
