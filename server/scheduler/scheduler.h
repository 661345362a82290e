// The coordinator's rules as a state machine over the stores: which job is in
// which state, who holds which task, what a result unlocks. It has no threads,
// no gRPC and no clock of its own, and keeps no truth in memory: every call is
// one transaction of the job store, so several schedulers may work on one
// store.
//
// Life of a task: WAITING until all inputs exist; then its action digest is
// known, and if a result for that digest is on record (and its blobs are still
// there) the task is CACHED; else READY, RUNNING under a lease, SUCCEEDED or,
// after `max_attempts`, FAILED together with its job.
//
// Fencing: each claim raises the task's lease epoch. Renew, Complete, Fail and
// Release with another epoch change nothing and return ABORTED.
//
// Errors: NOT_FOUND, no such job, session or checkpoint; INVALID_ARGUMENT, a
// bad name, page token or count; FAILED_PRECONDITION, not in this state; those
// that are named below; and the job store's. Each names the job or task.
//
// Thread-safe.
#ifndef BITWRIGHT_SERVER_SCHEDULER_SCHEDULER_H_
#define BITWRIGHT_SERVER_SCHEDULER_SCHEDULER_H_

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "bitwright/v1/checkpoint.pb.h"
#include "bitwright/v1/job.pb.h"
#include "bitwright/v1/worker.pb.h"
#include "common/base/clock.h"
#include "server/planner/planner.h"
#include "server/store/blob_store.h"
#include "server/store/job_store.h"

namespace bitwright {

struct SchedulerOptions {
  absl::Duration lease_duration = absl::Seconds(30);
  absl::Duration session_timeout =
      absl::Seconds(90);  // Silent workers count as gone.
  int max_attempts = 5;
  absl::Duration worker_retention =
      absl::Hours(24);  // Gone workers are listed.
};

// Counters since start, for the metrics page. `tasks_failed` counts attempts
// that a worker reported as failed.
struct SchedulerStats {
  int64_t leases_granted = 0, leases_expired = 0, tasks_completed = 0,
          tasks_cached = 0;
  int64_t tasks_failed = 0, stale_results = 0, damping_retries = 0,
          diagonal_fallbacks = 0;
  // Results that differ from the one on record for their action.
  int64_t conflicting_results = 0;
};

class Transition;

class Scheduler {
 public:
  // The stores and the clock must outlive it. `on_change` is called, with no
  // lock held, after a transaction that changed a job or made work available.
  Scheduler(JobStore* jobs, BlobStore* blobs, Clock* clock,
            SchedulerOptions options, std::function<void()> on_change);

  // --- Jobs ---------------------------------------------------------------
  // `spec` is resolved. Idempotent by request_id (see CreateJob in job.proto).
  absl::StatusOr<v1::Job> CreateJob(const v1::JobSpec& spec,
                                    const std::string& request_id);
  absl::StatusOr<v1::Job> GetJob(const std::string& name);
  absl::StatusOr<v1::ListJobsResponse> ListJobs(
      const v1::ListJobsRequest& request);
  // CANCELLING until no task is leased any more, then CANCELLED. OK, and
  // nothing changes, if it is already that.
  absl::StatusOr<v1::Job> CancelJob(const std::string& name);
  // Takes FAILED and CANCELLED jobs up again with all attempts anew. Finished
  // tasks stay finished unless a blob that is still needed is gone. OK, and
  // nothing changes, if the job is under way.
  absl::StatusOr<v1::Job> RetryJob(const std::string& name);
  // Returns the blobs that no job and no result on record refers to any more.
  absl::StatusOr<std::vector<Digest>> DeleteJob(const std::string& name);
  absl::StatusOr<v1::ListTasksResponse> ListTasks(
      const v1::ListTasksRequest& request);

  // --- Planning: done by the owner of this object, outside transactions -----
  // The oldest job that is PENDING or PLANNING, moved to PLANNING; also after a
  // restart. Several planners at once do the same work twice, harmlessly.
  absl::StatusOr<std::optional<v1::Job>> NextToPlan();
  // Stores spec (now with source files) and tasks, in the place of an earlier
  // plan's; PLANNING -> RUNNING. OK, and nothing changes, if the job is no
  // longer PLANNING: somebody else did it, or it was cancelled.
  // FAILED_PRECONDITION: an earlier plan was for other source files.
  absl::Status AcceptPlan(const std::string& job, const v1::JobSpec& spec,
                          const Plan& plan);
  absl::Status RejectPlan(const std::string& job, const absl::Status& why);

  // --- Workers --------------------------------------------------------------
  absl::StatusOr<v1::Session> OpenSession(
      const v1::OpenSessionRequest& request);
  // Never waits; empty if there is nothing to do. NOT_FOUND: no such session
  // (any more), open a new one. A job whose next task is of another version
  // than this build's AlgorithmVersion, planned before an upgrade, becomes
  // PENDING instead: the new plan finds what it shares with the old one in the
  // cache.
  absl::StatusOr<std::vector<v1::LeasedTask>> LeaseTasks(
      const std::string& session, int max_tasks);
  absl::StatusOr<v1::RenewLeasesResponse> RenewLeases(
      const v1::RenewLeasesRequest& request);
  // ABORTED: the lease is gone. FAILED_PRECONDITION: an output is not in the
  // blob store. DATA_LOSS: the action has another result on record, which
  // stays, and the task takes that one. The same call twice is OK twice.
  absl::Status CompleteTask(const v1::CompleteTaskRequest& request);
  absl::Status FailTask(const v1::FailTaskRequest& request);
  // Releases those that are still held; ABORTED names the first that is not.
  absl::Status ReleaseLeases(const v1::ReleaseLeasesRequest& request);
  absl::Status CloseSession(const std::string& session);
  absl::StatusOr<v1::ListWorkersResponse> ListWorkers();
  // Takes expired leases back (an attempt is charged) and closes silent
  // sessions. Call it about every second. Nothing expires within a lease's
  // duration of this object's start: workers could not renew while no
  // coordinator was there.
  absl::Status Reap();

  // --- Checkpoints
  // ------------------------------------------------------------
  absl::StatusOr<v1::Checkpoint> GetCheckpoint(const std::string& name);
  absl::StatusOr<v1::ListCheckpointsResponse> ListCheckpoints(
      const v1::ListCheckpointsRequest& request);

  SchedulerStats stats() const;
  // Tasks by state over all jobs that are not terminal, for the metrics page.
  absl::StatusOr<std::vector<std::pair<v1::TaskState, int64_t>>> CountTasks();

 private:
  // Runs `body` in a write transaction, writes the jobs that it touched, and
  // after the commit adds up the counters and calls on_change.
  absl::Status Transact(absl::FunctionRef<absl::Status(Transition*)> body);
  absl::StatusOr<v1::LeasedTask> Claim(Transition* transition, TaskRecord task,
                                       v1::Action action, WorkerRecord* worker);
  // The worker of `session`; NOT_FOUND.
  static absl::StatusOr<WorkerRecord> RequireSession(
      JobTransaction* store, const std::string& session);

  JobStore* const jobs_;
  BlobStore* const blobs_;
  Clock* const clock_;
  const SchedulerOptions options_;
  const std::function<void()> on_change_;
  const absl::Time started_;

  mutable absl::Mutex mutex_;
  SchedulerStats stats_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_SCHEDULER_SCHEDULER_H_
