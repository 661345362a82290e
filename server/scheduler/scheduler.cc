#include "server/scheduler/scheduler.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "server/scheduler/transition.h"

namespace bitwright {
namespace {

void Add(const SchedulerStats& more, SchedulerStats* stats) {
  stats->leases_granted += more.leases_granted;
  stats->leases_expired += more.leases_expired;
  stats->tasks_completed += more.tasks_completed;
  stats->tasks_cached += more.tasks_cached;
  stats->tasks_failed += more.tasks_failed;
  stats->stale_results += more.stale_results;
  stats->damping_retries += more.damping_retries;
  stats->diagonal_fallbacks += more.diagonal_fallbacks;
  stats->conflicting_results += more.conflicting_results;
}

}  // namespace

Scheduler::Scheduler(JobStore* jobs, BlobStore* blobs, Clock* clock,
                     SchedulerOptions options, std::function<void()> on_change)
    : jobs_(jobs),
      blobs_(blobs),
      clock_(clock),
      options_(options),
      on_change_(std::move(on_change)),
      started_(clock->Now()) {}

absl::Status Scheduler::Transact(
    absl::FunctionRef<absl::Status(Transition*)> body) {
  bool changed = false;
  SchedulerStats counts;
  absl::Status status =
      jobs_->Write([&](JobTransaction* store) -> absl::Status {
        Transition transition(store, blobs_, clock_->Now(), options_);
        BW_RETURN_IF_ERROR(body(&transition));
        BW_RETURN_IF_ERROR(transition.Finish());
        changed = transition.changed();
        counts = transition.counts();
        return absl::OkStatus();
      });
  BW_RETURN_IF_ERROR(status);
  {
    absl::MutexLock lock(&mutex_);
    Add(counts, &stats_);
  }
  if (changed && on_change_) on_change_();
  return absl::OkStatus();
}

absl::StatusOr<WorkerRecord> Scheduler::RequireSession(
    JobTransaction* store, const std::string& session) {
  BW_ASSIGN_OR_RETURN(std::optional<WorkerRecord> worker,
                      store->WorkerOf(session));
  if (session.empty() || !worker) {
    return absl::NotFoundError(absl::StrCat("no session \"", session,
                                            "\" (any more); open a new one"));
  }
  return *std::move(worker);
}

SchedulerStats Scheduler::stats() const {
  absl::MutexLock lock(&mutex_);
  return stats_;
}

absl::StatusOr<std::vector<std::pair<v1::TaskState, int64_t>>>
Scheduler::CountTasks() {
  std::vector<std::pair<v1::TaskState, int64_t>> counts;
  BW_RETURN_IF_ERROR(jobs_->Read([&](JobTransaction* store) -> absl::Status {
    counts.clear();
    BW_ASSIGN_OR_RETURN(std::vector<TaskCount> by_state,
                        store->CountOpenTasks());
    for (const TaskCount& count : by_state)
      counts.emplace_back(count.state, count.count);
    return absl::OkStatus();
  }));
  return counts;
}

}  // namespace bitwright
