// Computes leased tasks on this machine: fetches the inputs, opens the model,
// runs the executor and keeps the outputs in the blob cache until they are
// uploaded.
#ifndef BITWRIGHT_WORKER_RUNTIME_TASK_RUNNER_H_
#define BITWRIGHT_WORKER_RUNTIME_TASK_RUNNER_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bitwright/v1/worker.pb.h"
#include "worker/runtime/blob_fetcher.h"
#include "worker/runtime/cancellation.h"
#include "worker/runtime/model_provider.h"

namespace bitwright {

// What a task gave, on this machine's disk.
struct ComputedTask {
  std::vector<std::pair<std::string, CachedBlob>> outputs;
  v1::TaskSummary summary;
};

// The seam between the session and the work. Thread-safe: Compute is called
// from one thread at a time, the others alongside it.
class TaskRunner {
 public:
  virtual ~TaskRunner() = default;
  // The errors of ExecuteTask and of fetching.
  virtual absl::StatusOr<ComputedTask> Compute(const v1::LeasedTask& task,
                                               TaskControl* control) = 0;
  virtual absl::StatusOr<std::vector<v1::NamedBlob>> Upload(
      const ComputedTask& computed) = 0;
  // Fetches the inputs of a task that comes next; errors come up in Compute.
  virtual void Prefetch(const v1::LeasedTask& task) = 0;
};

// Borrows everything.
std::unique_ptr<TaskRunner> MakeTaskRunner(BlobFetcher* fetcher,
                                           ModelProvider* models,
                                           WorkerMetrics* metrics);

}  // namespace bitwright

#endif  // BITWRIGHT_WORKER_RUNTIME_TASK_RUNNER_H_
