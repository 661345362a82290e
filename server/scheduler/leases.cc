// Claiming tasks, holding them, and giving them back.
#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/status_macros.h"
#include "proto/algorithm_version.h"
#include "server/scheduler/scheduler.h"
#include "server/scheduler/transition.h"

namespace bitwright {

using scheduler_internal::TaskName;

namespace {

constexpr int kLargestClaim = 64;
constexpr int kCandidates = 64;
constexpr size_t kAffinities = 4;  // Remembered for each worker.
constexpr size_t kLongestNote = 200;

// Index of the candidate that `worker` should take. Candidates come in order of
// preference; only among those of the first one's job and stage does it matter
// who has the data: its own affinity before one that nobody has before those
// that other workers have.
size_t Choose(const std::vector<TaskRecord>& candidates,
              const WorkerRecord& worker,
              const std::set<std::string>& of_others) {
  size_t best = 0;
  int best_rank = 3;
  for (size_t i = 0; i < candidates.size(); ++i) {
    const TaskRecord& task = candidates[i];
    if (task.job != candidates[0].job || task.stage != candidates[0].stage)
      break;
    const bool own =
        std::find(worker.affinities.begin(), worker.affinities.end(),
                  task.affinity) != worker.affinities.end();
    const int rank = own ? 0 : of_others.count(task.affinity) == 0 ? 1 : 2;
    if (rank < best_rank) {
      best = i;
      best_rank = rank;
    }
  }
  return best;
}

absl::StatusOr<std::set<std::string>> AffinitiesOfOthers(
    JobTransaction* store, const WorkerRecord& worker) {
  std::set<std::string> affinities;
  BW_ASSIGN_OR_RETURN(std::vector<WorkerRecord> workers, store->ListWorkers());
  for (const WorkerRecord& other : workers) {
    if (other.name == worker.name || other.session.empty()) continue;
    affinities.insert(other.affinities.begin(), other.affinities.end());
  }
  return affinities;
}

void Remember(const std::string& affinity, WorkerRecord* worker) {
  if (affinity.empty()) return;
  auto& known = worker->affinities;
  known.erase(std::remove(known.begin(), known.end(), affinity), known.end());
  known.insert(known.begin(), affinity);
  if (known.size() > kAffinities) known.resize(kAffinities);
}

// True if `lease` is `task`'s, and `session` holds it.
bool Holds(const TaskRecord& task, const v1::LeaseRef& lease,
           const std::string& session) {
  return task.state == v1::TASK_STATE_RUNNING &&
         task.epoch == lease.lease_epoch() && task.session == session;
}

// The task of `lease` if `session` holds it. Jobs may have been deleted.
absl::StatusOr<std::optional<TaskRecord>> HeldTask(Transition* t,
                                                   const v1::LeaseRef& lease,
                                                   const std::string& session) {
  absl::StatusOr<TaskRecord> task = t->TaskNamed(lease.task());
  if (absl::IsNotFound(task.status())) return std::nullopt;
  BW_RETURN_IF_ERROR(task.status());
  if (!Holds(*task, lease, session)) return std::nullopt;
  return *std::move(task);
}

// One line of printable ASCII, not longer than people read.
std::string OneLine(absl::string_view text) {
  std::string line(text.substr(0, kLongestNote));
  for (char& c : line) {
    if (!absl::ascii_isprint(static_cast<unsigned char>(c))) c = '?';
  }
  return line;
}

void RemoveTasksOf(const JobRecord& job, std::vector<v1::LeasedTask>* leased) {
  const std::string prefix = TaskName(job.id, "");
  leased->erase(std::remove_if(leased->begin(), leased->end(),
                               [&](const v1::LeasedTask& task) {
                                 return absl::StartsWith(task.task(), prefix);
                               }),
                leased->end());
}

// What a heartbeat says of its task. False: nothing new.
bool TakeProgress(const v1::LeaseRef& lease, TaskRecord* task) {
  const double before = task->fraction_done;
  if (lease.fraction_done() >= 0 && lease.fraction_done() <= 1)
    task->fraction_done = lease.fraction_done();
  const std::string note = OneLine(lease.note());
  return std::exchange(task->note, note) != note ||
         task->fraction_done != before;
}

}  // namespace

absl::StatusOr<v1::LeasedTask> Scheduler::Claim(Transition* t, TaskRecord task,
                                                v1::Action action,
                                                WorkerRecord* worker) {
  BW_ASSIGN_OR_RETURN(JobRecord * job, t->Job(task.job));
  const int64_t epoch_before = task.epoch++;
  ++task.attempts;
  task.state = v1::TASK_STATE_RUNNING;
  task.session = worker->session;
  task.worker = worker->name;
  task.lease_deadline = t->now() + options_.lease_duration;
  task.start_time = t->now();
  task.end_time = absl::InfinitePast();
  task.fraction_done = 0;
  task.note.clear();
  BW_RETURN_IF_ERROR(t->Update(task, v1::TASK_STATE_READY, epoch_before));
  t->Touch(job);
  ++t->counts().leases_granted;
  Remember(task.affinity, worker);

  v1::LeasedTask leased;
  leased.set_task(TaskName(job->id, task.key));
  leased.set_lease_epoch(task.epoch);
  leased.set_action_digest(task.action_digest);
  *leased.mutable_action() = std::move(action);
  *leased.mutable_model() = job->spec.model();
  leased.set_attempt(task.attempts);
  return leased;
}

absl::StatusOr<std::vector<v1::LeasedTask>> Scheduler::LeaseTasks(
    const std::string& session, int max_tasks) {
  if (max_tasks < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_tasks is ", max_tasks, "; it must be at least 1"));
  }
  const size_t wanted = std::min(max_tasks, kLargestClaim);
  // Workers ask again and again: write only if there is something to write.
  bool idle = false;
  const absl::Time now = clock_->Now();
  BW_RETURN_IF_ERROR(jobs_->Read([&](JobTransaction* store) -> absl::Status {
    BW_ASSIGN_OR_RETURN(WorkerRecord worker, RequireSession(store, session));
    BW_ASSIGN_OR_RETURN(std::vector<TaskRecord> ready, store->ReadyTasks(1));
    idle =
        ready.empty() && now - worker.last_seen < options_.session_timeout / 4;
    return absl::OkStatus();
  }));
  std::vector<v1::LeasedTask> leased;
  if (idle) return leased;
  BW_RETURN_IF_ERROR(Transact([&](Transition* t) -> absl::Status {
    leased.clear();
    BW_ASSIGN_OR_RETURN(WorkerRecord worker,
                        RequireSession(t->store(), session));
    BW_ASSIGN_OR_RETURN(std::set<std::string> of_others,
                        AffinitiesOfOthers(t->store(), worker));
    while (leased.size() < wanted) {
      BW_ASSIGN_OR_RETURN(std::vector<TaskRecord> ready,
                          t->store()->ReadyTasks(kCandidates));
      if (ready.empty()) break;
      TaskRecord task = std::move(ready[Choose(ready, worker, of_others)]);
      BW_ASSIGN_OR_RETURN(JobRecord * job, t->Job(task.job));
      // Another job may have found the result since the task became READY.
      BW_ASSIGN_OR_RETURN(bool cached, t->TakeFromCache(job, &task));
      if (cached) continue;
      BW_ASSIGN_OR_RETURN(v1::Action action,
                          t->store()->GetAction(task.job, task.position));
      if (action.algorithm_version() != AlgorithmVersion(action.kind())) {
        // Planned before an upgrade of the server.
        BW_RETURN_IF_ERROR(t->PlanAnew(job));
        RemoveTasksOf(*job, &leased);
        continue;
      }
      BW_ASSIGN_OR_RETURN(
          leased.emplace_back(),
          Claim(t, std::move(task), std::move(action), &worker));
    }
    worker.last_seen = t->now();
    return t->store()->PutWorker(worker);
  }));
  return leased;
}

absl::StatusOr<v1::RenewLeasesResponse> Scheduler::RenewLeases(
    const v1::RenewLeasesRequest& request) {
  v1::RenewLeasesResponse response;
  BW_RETURN_IF_ERROR(Transact([&](Transition* t) -> absl::Status {
    response.Clear();
    BW_ASSIGN_OR_RETURN(WorkerRecord worker,
                        RequireSession(t->store(), request.session()));
    for (const v1::LeaseRef& lease : request.leases()) {
      BW_ASSIGN_OR_RETURN(std::optional<TaskRecord> task,
                          HeldTask(t, lease, request.session()));
      if (!task) {
        *response.add_lost() = lease;
        continue;
      }
      BW_ASSIGN_OR_RETURN(JobRecord * job, t->Job(task->job));
      if (job->state == v1::JOB_STATE_CANCELLING) {
        *response.add_lost() = lease;
        BW_RETURN_IF_ERROR(t->ReleaseAttempt(job, &*task));
        continue;
      }
      task->lease_deadline = t->now() + options_.lease_duration;
      if (TakeProgress(lease, &*task)) t->Touch(job);
      BW_RETURN_IF_ERROR(t->Update(*task, v1::TASK_STATE_RUNNING, task->epoch));
    }
    worker.last_seen = t->now();
    return t->store()->PutWorker(worker);
  }));
  return response;
}

absl::Status Scheduler::ReleaseLeases(const v1::ReleaseLeasesRequest& request) {
  absl::Status verdict;
  BW_RETURN_IF_ERROR(Transact([&](Transition* t) -> absl::Status {
    verdict = absl::OkStatus();
    for (const v1::LeaseRef& lease : request.leases()) {
      BW_ASSIGN_OR_RETURN(std::optional<TaskRecord> task,
                          HeldTask(t, lease, request.session()));
      if (!task) {
        verdict.Update(absl::AbortedError(absl::StrCat(
            "the lease on ", lease.task(), " (epoch ", lease.lease_epoch(),
            ") is gone; there is nothing to release")));
        continue;
      }
      BW_ASSIGN_OR_RETURN(JobRecord * job, t->Job(task->job));
      BW_RETURN_IF_ERROR(t->ReleaseAttempt(job, &*task));
    }
    return absl::OkStatus();
  }));
  return verdict;
}

absl::Status Scheduler::FailTask(const v1::FailTaskRequest& request) {
  return Transact([&](Transition* t) -> absl::Status {
    BW_ASSIGN_OR_RETURN(std::optional<TaskRecord> task,
                        HeldTask(t, request.lease(), request.session()));
    if (!task) {
      return absl::AbortedError(
          absl::StrCat("the lease on ", request.lease().task(), " (epoch ",
                       request.lease().lease_epoch(), ") is gone"));
    }
    BW_ASSIGN_OR_RETURN(JobRecord * job, t->Job(task->job));
    v1::Error error = request.error();
    if (error.code() == 0)
      error.set_code(static_cast<int32_t>(absl::StatusCode::kUnknown));
    ++t->counts().tasks_failed;
    return t->FailAttempt(job, &*task, std::move(error), request.retryable());
  });
}

}  // namespace bitwright
