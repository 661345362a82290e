// What people do with jobs.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/digest.h"
#include "common/base/status_macros.h"
#include "server/scheduler/scheduler.h"
#include "server/scheduler/transition.h"
#include "server/scheduler/views.h"

namespace bitwright {

using scheduler_internal::IsDone;
using scheduler_internal::IsTerminal;
using scheduler_internal::JobName;
using scheduler_internal::StateName;
using scheduler_internal::ViewJob;

namespace {

std::vector<Digest> GivenBlobs(const v1::JobSpec& spec) {
  std::vector<Digest> blobs;
  for (const v1::TextSource* source :
       {&spec.calibration().source(), &spec.evaluation().source()}) {
    for (const v1::NamedBlob& text : source->texts()) {
      blobs.push_back(scheduler_internal::DigestOfBlob(text.digest()));
    }
    if (source->has_tokens()) {
      blobs.push_back(
          scheduler_internal::DigestOfBlob(source->tokens().digest()));
    }
  }
  return blobs;
}

// Which of a job's tasks must run, again or at all: those that are not done,
// and those that are but whose blobs are gone though a task that must run needs
// them.
absl::StatusOr<std::vector<bool>> TasksToRun(
    Transition* t, const std::vector<TaskRecord>& tasks,
    const std::vector<TaskEdge>& edges) {
  std::vector<std::vector<int>> consumers(tasks.size());
  for (const TaskEdge& edge : edges)
    consumers[edge.source].push_back(edge.consumer);
  std::vector<bool> to_run(tasks.size());
  for (int i = static_cast<int>(tasks.size()) - 1; i >= 0; --i) {
    to_run[i] = !IsDone(tasks[i].state);
    const bool needed =
        std::any_of(consumers[i].begin(), consumers[i].end(),
                    [&](int consumer) { return to_run[consumer]; });
    if (to_run[i] || !needed) continue;
    BW_ASSIGN_OR_RETURN(std::optional<ResultRecord> result,
                        t->store()->FindResult(tasks[i].action_digest));
    if (!result) {
      to_run[i] = true;
      continue;
    }
    BW_ASSIGN_OR_RETURN(bool present, t->OutputsPresent(*result));
    to_run[i] = !present;
  }
  return to_run;
}

// Puts every task that must run back to its start, then readies those that can.
absl::Status RestartTasks(Transition* t, JobRecord* job) {
  BW_ASSIGN_OR_RETURN(std::vector<TaskRecord> tasks,
                      t->store()->ListTasks(job->number, 0, kAllTasks));
  BW_ASSIGN_OR_RETURN(std::vector<TaskEdge> edges,
                      t->store()->Edges(job->number));
  BW_ASSIGN_OR_RETURN(std::vector<bool> to_run, TasksToRun(t, tasks, edges));
  std::vector<int> pending(tasks.size());
  for (const TaskEdge& edge : edges) {
    if (to_run[edge.source]) ++pending[edge.consumer];
  }
  for (size_t i = 0; i < tasks.size(); ++i) {
    if (!to_run[i]) continue;
    const v1::TaskState before =
        std::exchange(tasks[i].state, v1::TASK_STATE_WAITING);
    tasks[i].pending = pending[i];
    tasks[i].attempts = 0;
    tasks[i].action_digest.clear();
    tasks[i].end_time = absl::InfinitePast();
    BW_RETURN_IF_ERROR(t->Update(tasks[i], before, tasks[i].epoch));
  }
  for (size_t i = 0; i < tasks.size(); ++i) {
    if (!to_run[i] || pending[i] > 0) continue;
    BW_RETURN_IF_ERROR(t->MakeReady(job, &tasks[i]));
    if (tasks[i].state != v1::TASK_STATE_CACHED) continue;
    BW_RETURN_IF_ERROR(t->Unlock(job, tasks[i].position));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<v1::Job> Scheduler::CreateJob(const v1::JobSpec& spec,
                                             const std::string& request_id) {
  const std::string asked = DigestOf(spec.SerializeAsString()).sha256;
  v1::Job view;
  BW_RETURN_IF_ERROR(Transact([&](Transition* t) -> absl::Status {
    if (!request_id.empty()) {
      BW_ASSIGN_OR_RETURN(std::optional<JobRecord> known,
                          t->store()->JobByRequest(request_id));
      if (known && known->asked != asked) {
        return absl::AlreadyExistsError(absl::StrCat(
            "request_id \"", request_id, "\" made ", JobName(known->id),
            " with another spec; choose another request_id"));
      }
      if (known) {
        BW_ASSIGN_OR_RETURN(view, ViewJob(t->store(), *known));
        return absl::OkStatus();
      }
    }
    JobRecord job;
    job.id = scheduler_internal::RandomId(12);
    job.request_id = request_id;
    job.asked = asked;
    job.spec = spec;
    job.create_time = t->now();
    BW_ASSIGN_OR_RETURN(job.number, t->store()->InsertJob(job));
    BW_RETURN_IF_ERROR(t->store()->AddJobBlobs(job.number, GivenBlobs(spec)));
    t->set_changed();
    BW_ASSIGN_OR_RETURN(view, ViewJob(t->store(), job));
    return absl::OkStatus();
  }));
  return view;
}

absl::StatusOr<v1::Job> Scheduler::CancelJob(const std::string& name) {
  BW_RETURN_IF_ERROR(Transact([&](Transition* t) -> absl::Status {
    BW_ASSIGN_OR_RETURN(JobRecord * job, t->JobNamed(name));
    if (job->state == v1::JOB_STATE_CANCELLING ||
        job->state == v1::JOB_STATE_CANCELLED) {
      return absl::OkStatus();
    }
    if (IsTerminal(job->state)) {
      return absl::FailedPreconditionError(
          absl::StrCat(name, " is ", StateName(job->state),
                       " and can no longer be cancelled"));
    }
    job->state = v1::JOB_STATE_CANCELLING;
    t->Touch(job);
    return t->store()->CancelTasks(job->number, /*running=*/false, t->now());
  }));
  return GetJob(name);
}

absl::StatusOr<v1::Job> Scheduler::RetryJob(const std::string& name) {
  BW_RETURN_IF_ERROR(Transact([&](Transition* t) -> absl::Status {
    BW_ASSIGN_OR_RETURN(JobRecord * job, t->JobNamed(name));
    if (job->state == v1::JOB_STATE_SUCCEEDED ||
        job->state == v1::JOB_STATE_CANCELLING) {
      return absl::FailedPreconditionError(
          absl::StrCat(name, " is ", StateName(job->state),
                       "; only FAILED and CANCELLED jobs can be retried"));
    }
    if (!IsTerminal(job->state)) return absl::OkStatus();
    job->error.Clear();
    job->end_time = absl::InfinitePast();
    t->Touch(job);
    BW_ASSIGN_OR_RETURN(std::vector<TaskRecord> any,
                        t->store()->ListTasks(job->number, 0, 1));
    if (any.empty()) {
      job->state = v1::JOB_STATE_PENDING;  // It never was planned.
      return absl::OkStatus();
    }
    job->state = v1::JOB_STATE_RUNNING;
    return RestartTasks(t, job);
  }));
  return GetJob(name);
}

absl::StatusOr<std::vector<Digest>> Scheduler::DeleteJob(
    const std::string& name) {
  std::vector<Digest> unreferenced;
  BW_RETURN_IF_ERROR(Transact([&](Transition* t) -> absl::Status {
    BW_ASSIGN_OR_RETURN(JobRecord * job, t->JobNamed(name));
    if (!IsTerminal(job->state)) {
      return absl::FailedPreconditionError(
          absl::StrCat(name, " is ", StateName(job->state),
                       "; cancel it before deleting it"));
    }
    BW_ASSIGN_OR_RETURN(std::vector<Digest> blobs,
                        t->store()->BlobsOf(job->number));
    BW_RETURN_IF_ERROR(t->store()->DeleteJob(job->number));
    BW_ASSIGN_OR_RETURN(std::vector<Digest> dropped,
                        t->store()->DropUnusedResults());
    blobs.insert(blobs.end(), dropped.begin(), dropped.end());
    std::sort(blobs.begin(), blobs.end());
    blobs.erase(std::unique(blobs.begin(), blobs.end()), blobs.end());
    BW_ASSIGN_OR_RETURN(unreferenced, t->store()->Unreferenced(blobs));
    t->set_changed();
    return absl::OkStatus();
  }));
  return unreferenced;
}

}  // namespace bitwright
