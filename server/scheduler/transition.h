// What one transaction of the scheduler does to jobs and tasks: the rules that
// all its calls share. Jobs are loaded once and, if touched, settled (what
// their tasks' states make of them) and written by Finish.
//
//   Transition t(store, blobs, now, options);
//   BW_ASSIGN_OR_RETURN(JobRecord* job, t.Job(task.job));
//   BW_RETURN_IF_ERROR(t.Unlock(job, task.position));
//   t.Touch(job);
//   BW_RETURN_IF_ERROR(t.Finish());
#ifndef BITWRIGHT_SERVER_SCHEDULER_TRANSITION_H_
#define BITWRIGHT_SERVER_SCHEDULER_TRANSITION_H_

#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/scheduler/names.h"
#include "server/scheduler/scheduler.h"
#include "server/store/blob_store.h"
#include "server/store/job_store.h"

namespace bitwright {

inline constexpr int kAllTasks = std::numeric_limits<int>::max();

class Transition {
 public:
  Transition(JobTransaction* store, BlobStore* blobs, absl::Time now,
             const SchedulerOptions& options)
      : store_(store), blobs_(blobs), now_(now), options_(options) {}
  Transition(const Transition&) = delete;
  Transition& operator=(const Transition&) = delete;

  JobTransaction* store() { return store_; }
  absl::Time now() const { return now_; }
  SchedulerStats& counts() { return counts_; }
  const SchedulerStats& counts() const { return counts_; }
  bool changed() const { return changed_; }
  void set_changed() { changed_ = true; }

  // --- Jobs. Pointers are valid until the end of the transition. NOT_FOUND.
  // ---
  absl::StatusOr<JobRecord*> Job(int64_t number);
  absl::StatusOr<JobRecord*> JobNamed(const std::string& name);
  void Touch(JobRecord* job) { touched_.insert(job->number); }
  // The job is FAILED with `error`, and whatever was not done is CANCELLED.
  absl::Status FailJob(JobRecord* job, v1::Error error);
  // The same, but the job is PENDING, to be planned anew: its tasks stay until
  // there is another plan.
  absl::Status PlanAnew(JobRecord* job);

  // --- Tasks. The record given is brought up to date with what was stored. ---
  // By its resource name; NOT_FOUND.
  absl::StatusOr<TaskRecord> TaskNamed(const std::string& name);
  // Writes it; ABORTED if it has no longer the given state and epoch.
  absl::Status Update(const TaskRecord& task, v1::TaskState if_state,
                      int64_t if_epoch);
  // For a WAITING task whose inputs are all there: resolves its action; READY,
  // or CACHED if the result is on record.
  absl::Status MakeReady(JobRecord* job, TaskRecord* task);
  // For a READY task: CACHED if by now the result is on record. True if so;
  // what that unlocks is unlocked.
  absl::StatusOr<bool> TakeFromCache(JobRecord* job, TaskRecord* task);
  // After a task was done: MakeReady for those that waited for it only, and so
  // on through those that are CACHED.
  absl::Status Unlock(JobRecord* job, int position);
  // Ends a RUNNING task's lease without a result: an attempt that failed with
  // `error` (again READY, or FAILED with its job), ...
  absl::Status FailAttempt(JobRecord* job, TaskRecord* task, v1::Error error,
                           bool retryable);
  // ... or one that counts as never made.
  absl::Status ReleaseAttempt(JobRecord* job, TaskRecord* task);

  // True if every output is in the blob store.
  absl::StatusOr<bool> OutputsPresent(const ResultRecord& result);

  // Settles and writes touched jobs.
  absl::Status Finish();

 private:
  bool Accepts(const JobRecord& job) const {
    return job.state == v1::JOB_STATE_RUNNING ||
           job.state == v1::JOB_STATE_FINALIZING;
  }
  absl::StatusOr<bool> IsCached(const std::string& action_digest);
  // From RUNNING to READY, CACHED or, in a job that ends, CANCELLED.
  absl::Status Requeue(JobRecord* job, TaskRecord* task);
  absl::Status Settle(JobRecord* job);
  absl::Status Succeed(JobRecord* job);
  absl::Status RecordCheckpoint(JobRecord* job, const TaskRecord& finalize);

  JobTransaction* const store_;
  BlobStore* const blobs_;
  const absl::Time now_;
  const SchedulerOptions& options_;
  SchedulerStats counts_;
  bool changed_ = false;
  std::map<int64_t, std::unique_ptr<JobRecord>> loaded_;
  std::set<int64_t> touched_;
};

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_SCHEDULER_TRANSITION_H_
