// Uploads and reports finished tasks from a thread of its own, one at a time,
// so that the next one computes meanwhile.
//
//   Reporter reporter(api, runner, &patience, &keeper, &metrics);
//   reporter.Start("sessions/1");
//   reporter.Submit({task, control, runner->Compute(task, control), seconds});
//   reporter.Stop();                     // after all that was submitted
#ifndef BITWRIGHT_WORKER_RUNTIME_REPORTER_H_
#define BITWRIGHT_WORKER_RUNTIME_REPORTER_H_

#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "bitwright/v1/worker.pb.h"
#include "worker/runtime/lease_keeper.h"
#include "worker/runtime/metrics.h"
#include "worker/runtime/patience.h"
#include "worker/runtime/server_api.h"
#include "worker/runtime/task_runner.h"

namespace bitwright {

struct FinishedTask {
  v1::LeasedTask task;
  std::shared_ptr<TaskControl> control;
  absl::StatusOr<ComputedTask> result;
  absl::Duration run_time;
};

// Thread-safe, but for Start and Stop.
class Reporter {
 public:
  // Borrows everything.
  Reporter(ServerApi* api, TaskRunner* runner, Patience* patience,
           LeaseKeeper* keeper, WorkerMetrics* metrics)
      : api_(api),
        runner_(runner),
        patience_(patience),
        keeper_(keeper),
        metrics_(metrics) {}
  ~Reporter() { Stop(); }

  void Start(std::string session);
  // Waits while an earlier one is still on its way.
  void Submit(FinishedTask finished);
  void Stop();

  // From now on a task that could not be reported is given back, not failed.
  void SetDraining();

 private:
  void Loop();
  void Report(FinishedTask finished);
  absl::Status Complete(const FinishedTask& finished);
  void Fail(const v1::LeasedTask& task, const absl::Status& status);
  void Release(const v1::LeasedTask& task);
  bool draining() const;

  ServerApi* const api_;
  TaskRunner* const runner_;
  Patience* const patience_;
  LeaseKeeper* const keeper_;
  WorkerMetrics* const metrics_;
  std::string session_;  // Set before the thread starts.
  std::thread thread_;

  mutable absl::Mutex mutex_;
  std::optional<FinishedTask> next_ ABSL_GUARDED_BY(mutex_);
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace bitwright

#endif  // BITWRIGHT_WORKER_RUNTIME_REPORTER_H_
