#include "worker/runtime/executor.h"

#include "absl/strings/str_cat.h"

namespace bitwright {

absl::StatusOr<TaskResult> ExecuteTask(const TaskContext& context) {
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
      return absl::UnimplementedError(absl::StrCat(
          "this worker does not know tasks of kind ", context.action->kind(),
          "; run a worker of the server's version"));
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
