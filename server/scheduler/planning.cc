// From PENDING over PLANNING to RUNNING.
#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "server/scheduler/scheduler.h"
#include "server/scheduler/transition.h"
#include "server/scheduler/views.h"

namespace bitwright {

using scheduler_internal::IsUnplanned;
using scheduler_internal::JobName;
using scheduler_internal::TaskName;
using scheduler_internal::ViewJob;

namespace {

// Forgets the plan that the job had before PlanAnew, if it had one. Returns the
// greatest epoch of its tasks, at which the next ones must begin: a worker may
// still think that it holds a lease of one of these. Their results stay, for
// the next plan's cache, until DropUnusedResults.
absl::StatusOr<int64_t> DropPlan(Transition* t, const JobRecord& job) {
  BW_ASSIGN_OR_RETURN(std::vector<TaskRecord> tasks,
                      t->store()->ListTasks(job.number, 0, kAllTasks));
  int64_t epoch = 0;
  for (const TaskRecord& task : tasks) epoch = std::max(epoch, task.epoch);
  BW_RETURN_IF_ERROR(t->store()->DeleteTasks(job.number));
  return epoch;
}

// A job that was planned before must go on with the model that it had.
absl::Status CheckSameModel(const JobRecord& job, const v1::JobSpec& spec) {
  const bool planned_before = job.start_time != absl::InfinitePast();
  if (!planned_before ||
      ModelDigest(job.spec.model()) == ModelDigest(spec.model())) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "the files of the model at ", spec.model().path(),
      " have changed since it was planned first; submit a new job"));
}

// One task of the plan as records; `positions` holds the tasks before it.
absl::Status InsertPlanned(Transition* t, const JobRecord& job,
                           const PlannedTask& planned, int stage, int64_t epoch,
                           std::map<std::string, int>* positions) {
  TaskRecord task;
  task.job = job.number;
  task.position = static_cast<int>(positions->size());
  task.key = planned.key;
  task.kind = planned.action.kind();
  task.stage = stage;
  task.affinity = planned.affinity;
  task.epoch = epoch;
  std::vector<TaskInput> inputs;
  std::set<int> sources;
  for (const PlannedInput& from : planned.inputs) {
    TaskInput& input = inputs.emplace_back();
    input.name = from.name;
    if (from.task.empty()) {
      input.blob = scheduler_internal::DigestOfBlob(from.blob);
      continue;
    }
    auto source = positions->find(from.task);
    if (source == positions->end()) {
      return absl::InternalError(absl::StrCat(
          "the plan of ", JobName(job.id), ": task ", planned.key, " needs ",
          from.task, ", which does not come before it"));
    }
    input.source = source->second;
    input.output = from.output;
    sources.insert(source->second);
  }
  task.pending = static_cast<int>(sources.size());
  if (!positions->emplace(planned.key, task.position).second) {
    return absl::InternalError(absl::StrCat("the plan of ", JobName(job.id),
                                            " has two tasks ", planned.key));
  }
  return Annotate(t->store()->InsertTask(task, planned.action, inputs),
                  TaskName(job.id, planned.key));
}

absl::Status ReplacePlan(Transition* t, const JobRecord& job,
                         const Plan& plan) {
  BW_ASSIGN_OR_RETURN(const int64_t epoch, DropPlan(t, job));
  std::map<std::string, int> positions;
  int stage = 0;
  for (size_t i = 0; i < plan.tasks.size(); ++i) {
    if (i > 0 && plan.tasks[i].action.kind() != plan.tasks[i - 1].action.kind())
      ++stage;
    BW_RETURN_IF_ERROR(
        InsertPlanned(t, job, plan.tasks[i], stage, epoch, &positions));
  }
  return absl::OkStatus();
}

std::vector<Digest> SourceFiles(const v1::JobSpec& spec) {
  std::vector<Digest> blobs;
  for (const v1::SourceFile& file : spec.model().files()) {
    blobs.push_back(scheduler_internal::DigestOfBlob(file.digest()));
  }
  return blobs;
}

}  // namespace

absl::StatusOr<std::optional<v1::Job>> Scheduler::NextToPlan() {
  std::optional<v1::Job> view;
  bool pending = false;
  auto look =
      [&](JobTransaction* store) -> absl::StatusOr<std::optional<JobRecord>> {
    view.reset();
    BW_ASSIGN_OR_RETURN(std::optional<JobRecord> job, store->OldestUnplanned());
    pending = job && job->state == v1::JOB_STATE_PENDING;
    if (job && !pending) {
      BW_ASSIGN_OR_RETURN(view, ViewJob(store, *job));
    }
    return job;
  };
  BW_RETURN_IF_ERROR(
      jobs_->Read([&](JobTransaction* store) { return look(store).status(); }));
  if (!pending) return view;
  BW_RETURN_IF_ERROR(Transact([&](Transition* t) -> absl::Status {
    BW_ASSIGN_OR_RETURN(std::optional<JobRecord> found, look(t->store()));
    if (!pending) return absl::OkStatus();
    BW_ASSIGN_OR_RETURN(JobRecord * job, t->Job(found->number));
    job->state = v1::JOB_STATE_PLANNING;
    t->Touch(job);
    BW_RETURN_IF_ERROR(t->Finish());
    BW_ASSIGN_OR_RETURN(view, ViewJob(t->store(), *job));
    return absl::OkStatus();
  }));
  return view;
}

absl::Status Scheduler::AcceptPlan(const std::string& name,
                                   const v1::JobSpec& spec, const Plan& plan) {
  return Transact([&](Transition* t) -> absl::Status {
    BW_ASSIGN_OR_RETURN(JobRecord * job, t->JobNamed(name));
    if (!IsUnplanned(job->state)) return absl::OkStatus();
    BW_RETURN_IF_ERROR(CheckSameModel(*job, spec));
    job->spec = spec;
    BW_RETURN_IF_ERROR(t->store()->SetJobSpec(job->number, spec));
    BW_RETURN_IF_ERROR(t->store()->AddJobBlobs(job->number, SourceFiles(spec)));
    BW_RETURN_IF_ERROR(ReplacePlan(t, *job, plan));
    job->state = v1::JOB_STATE_RUNNING;
    if (job->start_time == absl::InfinitePast()) job->start_time = t->now();
    t->Touch(job);
    for (size_t i = 0; i < plan.tasks.size(); ++i) {
      BW_ASSIGN_OR_RETURN(std::optional<TaskRecord> task,
                          t->store()->TaskAt(job->number, static_cast<int>(i)));
      // Some wait no longer because those before them were found in the cache.
      if (!task || task->state != v1::TASK_STATE_WAITING || task->pending > 0)
        continue;
      BW_RETURN_IF_ERROR(t->MakeReady(job, &*task));
      if (task->state != v1::TASK_STATE_CACHED) continue;
      BW_RETURN_IF_ERROR(t->Unlock(job, task->position));
    }
    return absl::OkStatus();
  });
}

absl::Status Scheduler::RejectPlan(const std::string& name,
                                   const absl::Status& why) {
  return Transact([&](Transition* t) -> absl::Status {
    BW_ASSIGN_OR_RETURN(JobRecord * job, t->JobNamed(name));
    if (!IsUnplanned(job->state)) return absl::OkStatus();
    v1::Error error;
    error.set_code(static_cast<int32_t>(why.code()));
    error.set_message(
        absl::StrCat(name, " cannot be planned: ", why.message()));
    return t->FailJob(job, std::move(error));
  });
}

}  // namespace bitwright
