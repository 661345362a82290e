#include "worker/runtime/executor.h"

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "proto/algorithm_version.h"

namespace bitwright {
namespace {

absl::Status CheckVersion(const v1::Action& action) {
  const int ours = AlgorithmVersion(action.kind());
  if (ours != 0 && action.algorithm_version() == ours) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat(
      "version ", action.algorithm_version(), " of tasks of kind ",
      action.kind(), " is asked for, and this worker has ",
      ours == 0 ? "none" : absl::StrCat("version ", ours),
      "; run server and workers of one build, then retry the job"));
}

}  // namespace

absl::StatusOr<TaskResult> ExecuteTask(const TaskContext& context) {
  BW_RETURN_IF_ERROR(CheckVersion(*context.action));
  switch (context.action->kind()) {
    case v1::TASK_KIND_PREPARE:
      return ExecutePrepare(context);
    case v1::TASK_KIND_FORWARD:
      return ExecuteForward(context);
    case v1::TASK_KIND_QUANTIZE:
      return ExecuteQuantize(context);
    case v1::TASK_KIND_EVALUATE:
      return ExecuteEvaluate(context);
    case v1::TASK_KIND_FINALIZE:
      return ExecuteFinalize(context);
    case v1::TASK_KIND_MEASURE:
      return ExecuteMeasure(context);
    case v1::TASK_KIND_GRADIENT:
      return ExecuteGradient(context);
    case v1::TASK_KIND_ALLOCATE:
      return ExecuteAllocate(context);
    case v1::TASK_KIND_RESPONSE:
      return ExecuteResponse(context);
    case v1::TASK_KIND_SOLVE:
      return ExecuteSolve(context);
    case v1::TASK_KIND_RECONSTRUCT:
      return ExecuteReconstruct(context);
    default:
      return absl::InternalError(absl::StrCat("nothing executes tasks of kind ",
                                              context.action->kind()));
  }
}

bool IsRetryable(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kOutOfRange:
      return false;
    default:
      return true;
  }
}

}  // namespace bitwright
