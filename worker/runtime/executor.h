// Runs one task: a pure function from an action and its input blobs to output
// blobs and a summary (worker.proto says what each kind reads and writes).
//
//   TaskContext context{.action = &action, .inputs = &inputs, .model = &model,
//                       .scratch = directory, .control = &control};
//   BW_ASSIGN_OR_RETURN(TaskResult result, ExecuteTask(context));
//   for (const TaskOutput& output : result.outputs) ...
//
// The same action and inputs give the same outputs, byte for byte, whatever the
// number of threads: nothing here knows the time, the machine or the server.
// One file per kind: prepare_task.cc, forward_task.cc, quantize_task.cc,
// evaluate_task.cc, finalize_task.cc, measure_task.cc, gradient_task.cc,
// allocate_task.cc, response_task.cc, solve_task.cc, reconstruct_task.cc.
#ifndef BITWRIGHT_WORKER_RUNTIME_EXECUTOR_H_
#define BITWRIGHT_WORKER_RUNTIME_EXECUTOR_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bitwright/v1/worker.pb.h"
#include "common/base/digest.h"
#include "worker/runtime/cancellation.h"
#include "worker/runtime/open_model.h"

namespace bitwright {

// Where a task finds its inputs.
class InputReader {
 public:
  virtual ~InputReader() = default;
  // A local file with the bytes of the input called `name`, whole and verified;
  // it stays at least until the reader is destroyed. NOT_FOUND if the action
  // has no such input; DATA_LOSS if its blob is gone.
  virtual absl::StatusOr<std::string> Path(const std::string& name) = 0;
};

// A new blob: in memory, or a file in the task's scratch directory.
struct TaskOutput {
  std::string name;
  std::string bytes = {};
  std::string path =
      {};  // Not empty: the blob is this file, and `bytes` is empty.
  std::optional<Digest> digest = std::nullopt;  // If the task knows it already.
};

// What the metrics count.
struct TaskCounters {
  int64_t tokens = 0;  // Run through blocks, or tokenised.
  int64_t damping_retries = 0;
  int64_t diagonal_fallbacks = 0;
};

struct TaskResult {
  std::vector<TaskOutput> outputs;
  v1::TaskSummary summary;
  TaskCounters counters;
};

// Nothing is owned.
struct TaskContext {
  const v1::Action* action = nullptr;
  InputReader* inputs = nullptr;
  OpenModel* model = nullptr;
  // An empty directory for large outputs, on the disk of the blob cache.
  std::string scratch;
  TaskControl* control = nullptr;
  // Hidden states that evaluation holds at a time; does not change its result.
  int64_t max_hidden_bytes = int64_t{256} << 20;
};

// INVALID_ARGUMENT, NOT_FOUND (of a tensor), FAILED_PRECONDITION,
// UNIMPLEMENTED, OUT_OF_RANGE: the same again would fail again, see
// IsRetryable. UNIMPLEMENTED is also an action of another version of its
// algorithm than this build's. CANCELLED: the control said so.
absl::StatusOr<TaskResult> ExecuteTask(const TaskContext& context);

// Whether another attempt at a task that ended like this may end better.
bool IsRetryable(const absl::Status& status);

// The kinds, for ExecuteTask and for tests.
absl::StatusOr<TaskResult> ExecutePrepare(const TaskContext& context);
absl::StatusOr<TaskResult> ExecuteForward(const TaskContext& context);
absl::StatusOr<TaskResult> ExecuteQuantize(const TaskContext& context);
absl::StatusOr<TaskResult> ExecuteEvaluate(const TaskContext& context);
absl::StatusOr<TaskResult> ExecuteFinalize(const TaskContext& context);
absl::StatusOr<TaskResult> ExecuteMeasure(const TaskContext& context);
absl::StatusOr<TaskResult> ExecuteGradient(const TaskContext& context);
absl::StatusOr<TaskResult> ExecuteAllocate(const TaskContext& context);
absl::StatusOr<TaskResult> ExecuteResponse(const TaskContext& context);
absl::StatusOr<TaskResult> ExecuteSolve(const TaskContext& context);
absl::StatusOr<TaskResult> ExecuteReconstruct(const TaskContext& context);

}  // namespace bitwright

#endif  // BITWRIGHT_WORKER_RUNTIME_EXECUTOR_H_
