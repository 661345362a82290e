#include "server/scheduler/views.h"

#include <algorithm>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "server/scheduler/names.h"
#include "server/scheduler/scheduler.h"

namespace bitwright {
namespace scheduler_internal {

absl::StatusOr<v1::Job> ViewJob(JobTransaction* store,
                                const JobRecord& record) {
  v1::Job job;
  job.set_name(JobName(record.id));
  job.set_state(record.state);
  *job.mutable_spec() = record.spec;
  *job.mutable_create_time() = ToTimestamp(record.create_time);
  if (record.start_time != absl::InfinitePast()) {
    *job.mutable_start_time() = ToTimestamp(record.start_time);
  }
  if (record.end_time != absl::InfinitePast()) {
    *job.mutable_end_time() = ToTimestamp(record.end_time);
  }
  if (record.state == v1::JOB_STATE_FAILED) *job.mutable_error() = record.error;
  if (record.state == v1::JOB_STATE_SUCCEEDED)
    *job.mutable_result() = record.result;
  job.set_sequence(record.sequence);
  job.set_request_id(record.request_id);
  if (IsUnplanned(record.state)) return job;  // Its tasks are of an old plan.
  BW_ASSIGN_OR_RETURN(std::vector<TaskCount> counts,
                      store->CountTasks(record.number));
  std::map<v1::TaskKind, v1::PhaseProgress> phases;
  for (const TaskCount& count : counts) {
    v1::PhaseProgress& phase = phases[count.kind];
    const auto n = static_cast<int32_t>(count.count);
    phase.set_kind(count.kind);
    phase.set_total(phase.total() + n);
    if (IsDone(count.state)) phase.set_done(phase.done() + n);
    if (count.state == v1::TASK_STATE_CACHED) phase.set_cached(n);
    if (count.state == v1::TASK_STATE_RUNNING) phase.set_running(n);
  }
  BW_ASSIGN_OR_RETURN(std::vector<TaskRecord> running,
                      store->RunningTasks(record.number));
  for (const TaskRecord& task : running) {
    v1::PhaseProgress& phase = phases[task.kind];
    phase.set_running_done(phase.running_done() + task.fraction_done);
    if (!task.note.empty()) phase.set_note(task.note);
  }
  for (auto& [kind, phase] : phases) *job.add_phases() = std::move(phase);
  return job;
}

absl::StatusOr<v1::Task> ViewTask(JobTransaction* store,
                                  const std::string& job_id,
                                  const TaskRecord& record) {
  v1::Task task;
  task.set_name(TaskName(job_id, record.key));
  task.set_kind(record.kind);
  task.set_state(record.state);
  task.set_attempts(record.attempts);
  BW_ASSIGN_OR_RETURN(std::vector<v1::Error> errors,
                      store->TaskErrors(record.job, record.position));
  for (v1::Error& error : errors) *task.add_errors() = std::move(error);
  task.set_worker(record.worker);
  task.set_action_digest(record.action_digest);
  if (record.start_time != absl::InfinitePast()) {
    *task.mutable_start_time() = ToTimestamp(record.start_time);
  }
  if (record.end_time != absl::InfinitePast()) {
    *task.mutable_end_time() = ToTimestamp(record.end_time);
  }
  if (record.state == v1::TASK_STATE_RUNNING) {
    task.set_fraction_done(record.fraction_done);
    task.set_note(record.note);
  }
  return task;
}

v1::Checkpoint ViewCheckpoint(const CheckpointRecord& record) {
  v1::Checkpoint checkpoint;
  checkpoint.set_name(CheckpointName(record.job_id));
  checkpoint.set_job(JobName(record.job_id));
  *checkpoint.mutable_manifest() = record.manifest;
  *checkpoint.mutable_create_time() = ToTimestamp(record.create_time);
  return checkpoint;
}

}  // namespace scheduler_internal

using namespace scheduler_internal;  // NOLINT: this file and its namespace are
                                     // one.

absl::StatusOr<v1::Job> Scheduler::GetJob(const std::string& name) {
  BW_ASSIGN_OR_RETURN(std::string id, ParseJobName(name));
  v1::Job view;
  BW_RETURN_IF_ERROR(jobs_->Read([&](JobTransaction* store) -> absl::Status {
    BW_ASSIGN_OR_RETURN(std::optional<JobRecord> job, store->FindJob(id));
    if (!job) return NoSuchJob(id);
    BW_ASSIGN_OR_RETURN(view, ViewJob(store, *job));
    return absl::OkStatus();
  }));
  return view;
}

absl::StatusOr<v1::ListJobsResponse> Scheduler::ListJobs(
    const v1::ListJobsRequest& request) {
  BW_ASSIGN_OR_RETURN(int size, PageSize(request.page_size()));
  BW_ASSIGN_OR_RETURN(
      int64_t before,
      PageToken(request.page_token(), std::numeric_limits<int64_t>::max()));
  v1::ListJobsResponse response;
  BW_RETURN_IF_ERROR(jobs_->Read([&](JobTransaction* store) -> absl::Status {
    response.Clear();
    BW_ASSIGN_OR_RETURN(std::vector<JobRecord> jobs,
                        store->JobsBefore(before, size + 1));
    if (static_cast<int>(jobs.size()) > size) {
      jobs.pop_back();
      response.set_next_page_token(absl::StrCat(jobs.back().number));
    }
    for (const JobRecord& job : jobs) {
      BW_ASSIGN_OR_RETURN(*response.add_jobs(), ViewJob(store, job));
    }
    return absl::OkStatus();
  }));
  return response;
}

absl::StatusOr<v1::ListTasksResponse> Scheduler::ListTasks(
    const v1::ListTasksRequest& request) {
  BW_ASSIGN_OR_RETURN(std::string id, ParseJobName(request.job()));
  BW_ASSIGN_OR_RETURN(int size, PageSize(request.page_size()));
  BW_ASSIGN_OR_RETURN(int64_t first, PageToken(request.page_token(), 0));
  v1::ListTasksResponse response;
  BW_RETURN_IF_ERROR(jobs_->Read([&](JobTransaction* store) -> absl::Status {
    response.Clear();
    BW_ASSIGN_OR_RETURN(std::optional<JobRecord> job, store->FindJob(id));
    if (!job) return NoSuchJob(id);
    const int start = static_cast<int>(std::min<int64_t>(first, 1 << 30));
    BW_ASSIGN_OR_RETURN(std::vector<TaskRecord> tasks,
                        store->ListTasks(job->number, start, size + 1));
    if (static_cast<int>(tasks.size()) > size) {
      response.set_next_page_token(absl::StrCat(tasks.back().position));
      tasks.pop_back();
    }
    for (const TaskRecord& task : tasks) {
      BW_ASSIGN_OR_RETURN(*response.add_tasks(), ViewTask(store, id, task));
    }
    return absl::OkStatus();
  }));
  return response;
}

absl::StatusOr<v1::Checkpoint> Scheduler::GetCheckpoint(
    const std::string& name) {
  BW_ASSIGN_OR_RETURN(std::string id, ParseCheckpointName(name));
  v1::Checkpoint view;
  BW_RETURN_IF_ERROR(jobs_->Read([&](JobTransaction* store) -> absl::Status {
    BW_ASSIGN_OR_RETURN(std::optional<CheckpointRecord> checkpoint,
                        store->FindCheckpoint(id));
    if (!checkpoint)
      return absl::NotFoundError(absl::StrCat("no checkpoint ", name));
    view = ViewCheckpoint(*checkpoint);
    return absl::OkStatus();
  }));
  return view;
}

absl::StatusOr<v1::ListCheckpointsResponse> Scheduler::ListCheckpoints(
    const v1::ListCheckpointsRequest& request) {
  BW_ASSIGN_OR_RETURN(int size, PageSize(request.page_size()));
  BW_ASSIGN_OR_RETURN(
      int64_t before,
      PageToken(request.page_token(), std::numeric_limits<int64_t>::max()));
  v1::ListCheckpointsResponse response;
  BW_RETURN_IF_ERROR(jobs_->Read([&](JobTransaction* store) -> absl::Status {
    response.Clear();
    BW_ASSIGN_OR_RETURN(std::vector<CheckpointRecord> checkpoints,
                        store->CheckpointsBefore(before, size + 1));
    if (static_cast<int>(checkpoints.size()) > size) {
      checkpoints.pop_back();
      response.set_next_page_token(absl::StrCat(checkpoints.back().job));
    }
    for (const CheckpointRecord& checkpoint : checkpoints) {
      *response.add_checkpoints() = ViewCheckpoint(checkpoint);
    }
    return absl::OkStatus();
  }));
  return response;
}

}  // namespace bitwright
