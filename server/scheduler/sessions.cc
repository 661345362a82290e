// Workers: who is there, and what becomes of the leases of those who are not.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "google/protobuf/duration.pb.h"
#include "server/scheduler/scheduler.h"
#include "server/scheduler/transition.h"

namespace bitwright {
namespace {

v1::Error MakeError(absl::StatusCode code, std::string message) {
  v1::Error error;
  error.set_code(static_cast<int32_t>(code));
  error.set_message(std::move(message));
  return error;
}

// The leases of an ended session are failed attempts, with `error`.
absl::Status FailLeases(Transition* t, const std::string& session,
                        const v1::Error& error) {
  BW_ASSIGN_OR_RETURN(std::vector<TaskRecord> leases,
                      t->store()->LeasesOf(session));
  for (const TaskRecord& lease : leases) {
    // An earlier one may have failed the job, which ended the others too.
    BW_ASSIGN_OR_RETURN(std::optional<TaskRecord> task,
                        t->store()->TaskAt(lease.job, lease.position));
    if (!task || task->state != v1::TASK_STATE_RUNNING) continue;
    BW_ASSIGN_OR_RETURN(JobRecord * job, t->Job(task->job));
    ++t->counts().leases_expired;
    BW_RETURN_IF_ERROR(t->FailAttempt(job, &*task, error, /*retryable=*/true));
  }
  return absl::OkStatus();
}

absl::Status ExpireLeases(Transition* t) {
  BW_ASSIGN_OR_RETURN(std::vector<TaskRecord> leases,
                      t->store()->LeasesUntil(t->now()));
  for (const TaskRecord& lease : leases) {
    BW_ASSIGN_OR_RETURN(std::optional<TaskRecord> task,
                        t->store()->TaskAt(lease.job, lease.position));
    if (!task || task->state != v1::TASK_STATE_RUNNING) continue;
    BW_ASSIGN_OR_RETURN(JobRecord * job, t->Job(task->job));
    ++t->counts().leases_expired;
    v1::Error error = MakeError(absl::StatusCode::kDeadlineExceeded,
                                absl::StrCat("lease expired (worker ",
                                             task->worker, " gone or stuck)"));
    BW_RETURN_IF_ERROR(
        t->FailAttempt(job, &*task, std::move(error), /*retryable=*/true));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<v1::Session> Scheduler::OpenSession(
    const v1::OpenSessionRequest& request) {
  if (request.worker().empty()) {
    return absl::InvalidArgumentError(
        "worker is empty; give a stable name, e.g. the host's");
  }
  v1::Session session;
  BW_RETURN_IF_ERROR(Transact([&](Transition* t) -> absl::Status {
    BW_ASSIGN_OR_RETURN(std::optional<WorkerRecord> known,
                        t->store()->FindWorker(request.worker()));
    WorkerRecord worker = known.value_or(WorkerRecord());
    if (!worker.session.empty()) {
      BW_RETURN_IF_ERROR(FailLeases(
          t, worker.session,
          MakeError(absl::StatusCode::kUnavailable,
                    absl::StrCat("worker ", request.worker(),
                                 " started anew while it ran this"))));
    }
    worker.name = request.worker();
    worker.device = request.device();
    worker.version = request.version();
    worker.session =
        absl::StrCat("sessions/", scheduler_internal::RandomId(16));
    worker.last_seen = t->now();
    session.set_name(worker.session);
    session.set_worker(worker.name);
    return t->store()->PutWorker(worker);
  }));
  const int64_t nanos = absl::ToInt64Nanoseconds(options_.lease_duration);
  session.mutable_lease_duration()->set_seconds(nanos / 1000000000);
  session.mutable_lease_duration()->set_nanos(
      static_cast<int32_t>(nanos % 1000000000));
  return session;
}

absl::Status Scheduler::CloseSession(const std::string& session) {
  return Transact([&](Transition* t) -> absl::Status {
    BW_ASSIGN_OR_RETURN(WorkerRecord worker,
                        RequireSession(t->store(), session));
    BW_ASSIGN_OR_RETURN(std::vector<TaskRecord> leases,
                        t->store()->LeasesOf(session));
    for (TaskRecord& task : leases) {
      BW_ASSIGN_OR_RETURN(JobRecord * job, t->Job(task.job));
      BW_RETURN_IF_ERROR(t->ReleaseAttempt(job, &task));
    }
    worker.session.clear();
    worker.last_seen = t->now();
    return t->store()->PutWorker(worker);
  });
}

absl::Status Scheduler::Reap() {
  const absl::Time now = clock_->Now();
  if (now - started_ < options_.lease_duration) return absl::OkStatus();
  // The last sign of life that can be asked of a worker that is alive.
  auto silent = [&](const WorkerRecord& worker) {
    return now - std::max(worker.last_seen, started_) >
           options_.session_timeout;
  };
  auto forgotten = [&](const WorkerRecord& worker) {
    return worker.session.empty() &&
           now - worker.last_seen > options_.worker_retention;
  };
  bool due = false;
  BW_RETURN_IF_ERROR(jobs_->Read([&](JobTransaction* store) -> absl::Status {
    BW_ASSIGN_OR_RETURN(std::vector<TaskRecord> leases,
                        store->LeasesUntil(now));
    BW_ASSIGN_OR_RETURN(std::vector<WorkerRecord> workers,
                        store->ListWorkers());
    due = !leases.empty();
    for (const WorkerRecord& worker : workers) {
      due = due || forgotten(worker) ||
            (!worker.session.empty() && silent(worker));
    }
    return absl::OkStatus();
  }));
  if (!due) return absl::OkStatus();
  return Transact([&](Transition* t) -> absl::Status {
    BW_RETURN_IF_ERROR(ExpireLeases(t));
    BW_ASSIGN_OR_RETURN(std::vector<WorkerRecord> workers,
                        t->store()->ListWorkers());
    for (WorkerRecord& worker : workers) {
      if (forgotten(worker)) {
        BW_RETURN_IF_ERROR(t->store()->DeleteWorker(worker.name));
      } else if (!worker.session.empty() && silent(worker)) {
        BW_RETURN_IF_ERROR(FailLeases(
            t, worker.session,
            MakeError(absl::StatusCode::kDeadlineExceeded,
                      absl::StrCat("worker ", worker.name, " fell silent"))));
        worker.session.clear();
        BW_RETURN_IF_ERROR(t->store()->PutWorker(worker));
      }
    }
    return absl::OkStatus();
  });
}

absl::StatusOr<v1::ListWorkersResponse> Scheduler::ListWorkers() {
  const absl::Time now = clock_->Now();
  v1::ListWorkersResponse response;
  BW_RETURN_IF_ERROR(jobs_->Read([&](JobTransaction* store) -> absl::Status {
    response.Clear();
    BW_ASSIGN_OR_RETURN(std::vector<WorkerRecord> workers,
                        store->ListWorkers());
    for (const WorkerRecord& record : workers) {
      v1::Worker* worker = response.add_workers();
      worker->set_name(record.name);
      worker->set_device(record.device);
      worker->set_version(record.version);
      worker->set_alive(!record.session.empty() &&
                        now - record.last_seen <= options_.session_timeout);
      if (!record.session.empty()) {
        BW_ASSIGN_OR_RETURN(std::vector<TaskRecord> leases,
                            store->LeasesOf(record.session));
        worker->set_running_tasks(static_cast<int32_t>(leases.size()));
      }
      worker->set_completed_tasks(record.completed);
      *worker->mutable_last_seen_time() =
          scheduler_internal::ToTimestamp(record.last_seen);
    }
    return absl::OkStatus();
  }));
  return response;
}

}  // namespace bitwright
