// A worker's life: open a session, lease tasks, compute them, report, until it
// is asked to drain.
//
//   Worker worker(api, runner, &patience, &metrics, {.name = "node-1"});
//   std::thread signals([&] { WaitForSignal(); worker.Drain(); });
//   absl::Status status = worker.Run();
//
// One task computes at a time, on the calling thread; results are uploaded and
// reported from a second thread while the next task computes, and a third one
// sends the heartbeat. A session that the server has forgotten is opened again;
// a server that is away is waited for.
#ifndef BITWRIGHT_WORKER_RUNTIME_WORKER_H_
#define BITWRIGHT_WORKER_RUNTIME_WORKER_H_

#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "worker/runtime/lease_keeper.h"
#include "worker/runtime/metrics.h"
#include "worker/runtime/patience.h"
#include "worker/runtime/reporter.h"
#include "worker/runtime/server_api.h"
#include "worker/runtime/task_runner.h"

namespace bitwright {

struct WorkerOptions {
  std::string name;    // Stable, and unique among a server's workers.
  std::string device;  // As shown to people.
  std::string version;
  // How long one request for work may wait at the server. An idle worker drains
  // within this time.
  absl::Duration lease_wait = absl::Seconds(2);
  absl::Duration give_up_after = absl::InfiniteDuration();
  // Tasks to hold beside the running one, so that their inputs arrive while it
  // computes. 0 unless transfers are slow: an idle worker may want them.
  int lease_ahead = 0;
  // Called when the drain's time is over and all leases are released, while a
  // task may still be computing.
  std::function<void()> on_drain_expired = nullptr;
};

class Worker {
 public:
  // Borrows everything. `patience` is for calls on behalf of a task.
  Worker(ServerApi* api, TaskRunner* runner, Patience* patience,
         WorkerMetrics* metrics, WorkerOptions options);

  // Until drained (OK) or the server has been away for too long (UNAVAILABLE).
  // Any other error of OpenSession or LeaseTasks ends it too. Call once.
  absl::Status Run();

  // Takes no more tasks, and gives what is running `timeout` to finish and to
  // be reported; then it is cancelled and given back, and no attempt is
  // charged. Returns at once. Thread-safe; a later call may only shorten the
  // time.
  void Drain(absl::Duration timeout);

 private:
  struct Queued {
    v1::LeasedTask task;
    std::shared_ptr<TaskControl> control;
  };

  absl::Status RunSession();
  // Fills the queue. False if the session is gone.
  absl::StatusOr<bool> Lease();
  void ComputeNext();
  void ReleaseQueue();
  void WatchDrain();
  bool draining() const;

  ServerApi* const api_;
  TaskRunner* const runner_;
  Patience* const patience_;
  WorkerMetrics* const metrics_;
  const WorkerOptions options_;
  Patience idle_patience_;  // For calls that no task waits for.
  LeaseKeeper keeper_;
  Reporter reporter_;
  std::deque<Queued> queue_;

  mutable absl::Mutex mutex_;
  std::string session_name_ ABSL_GUARDED_BY(mutex_);
  absl::Time drain_deadline_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace bitwright

#endif  // BITWRIGHT_WORKER_RUNTIME_WORKER_H_
