#include "server/scheduler/transition.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/status_macros.h"

namespace bitwright {

using scheduler_internal::JobName;
using scheduler_internal::NoSuchJob;
using scheduler_internal::TaskName;

absl::StatusOr<JobRecord*> Transition::Job(int64_t number) {
  std::unique_ptr<JobRecord>& slot = loaded_[number];
  if (slot == nullptr) {
    BW_ASSIGN_OR_RETURN(std::optional<JobRecord> job,
                        store_->JobByNumber(number));
    if (!job)
      return absl::NotFoundError(absl::StrCat("no job with number ", number));
    slot = std::make_unique<JobRecord>(*std::move(job));
  }
  return slot.get();
}

absl::StatusOr<JobRecord*> Transition::JobNamed(const std::string& name) {
  BW_ASSIGN_OR_RETURN(std::string id, scheduler_internal::ParseJobName(name));
  for (const auto& [number, job] : loaded_) {
    if (job != nullptr && job->id == id) return job.get();
  }
  BW_ASSIGN_OR_RETURN(std::optional<JobRecord> job, store_->FindJob(id));
  if (!job) return NoSuchJob(id);
  std::unique_ptr<JobRecord>& slot = loaded_[job->number];
  slot = std::make_unique<JobRecord>(*std::move(job));
  return slot.get();
}

absl::Status Transition::FailJob(JobRecord* job, v1::Error error) {
  job->state = v1::JOB_STATE_FAILED;
  job->error = std::move(error);
  job->end_time = now_;
  Touch(job);
  return store_->CancelTasks(job->number, /*running=*/true, now_);
}

absl::Status Transition::PlanAnew(JobRecord* job) {
  job->state = v1::JOB_STATE_PENDING;
  Touch(job);
  return store_->CancelTasks(job->number, /*running=*/true, now_);
}

absl::StatusOr<TaskRecord> Transition::TaskNamed(const std::string& name) {
  BW_ASSIGN_OR_RETURN(scheduler_internal::TaskPath path,
                      scheduler_internal::ParseTaskName(name));
  BW_ASSIGN_OR_RETURN(JobRecord * job, JobNamed(JobName(path.job_id)));
  BW_ASSIGN_OR_RETURN(std::optional<TaskRecord> task,
                      store_->FindTask(job->number, path.key));
  if (!task) return absl::NotFoundError(absl::StrCat("no task ", name));
  return *std::move(task);
}

absl::Status Transition::Update(const TaskRecord& task, v1::TaskState if_state,
                                int64_t if_epoch) {
  BW_ASSIGN_OR_RETURN(bool updated,
                      store_->UpdateTask(task, if_state, if_epoch));
  if (updated) return absl::OkStatus();
  return absl::AbortedError(absl::StrCat("task ", task.key, " of job ",
                                         task.job,
                                         " was changed by somebody else"));
}

absl::StatusOr<bool> Transition::OutputsPresent(const ResultRecord& result) {
  for (const NamedDigest& output : result.outputs) {
    BW_ASSIGN_OR_RETURN(bool present, blobs_->Has(output.digest));
    if (!present) return false;
  }
  return true;
}

absl::StatusOr<bool> Transition::IsCached(const std::string& action_digest) {
  BW_ASSIGN_OR_RETURN(std::optional<ResultRecord> result,
                      store_->FindResult(action_digest));
  if (!result) return false;
  return OutputsPresent(*result);
}

absl::Status Transition::MakeReady(JobRecord* job, TaskRecord* task) {
  absl::StatusOr<v1::Action> action =
      store_->ResolveAction(task->job, task->position);
  if (!action.ok())
    return Annotate(action.status(), TaskName(job->id, task->key));
  BW_RETURN_IF_ERROR(store_->SetAction(task->job, task->position, *action));
  task->action_digest = ActionDigest(*action);
  task->pending = 0;
  BW_ASSIGN_OR_RETURN(bool cached, IsCached(task->action_digest));
  const v1::TaskState before = std::exchange(
      task->state, cached ? v1::TASK_STATE_CACHED : v1::TASK_STATE_READY);
  if (cached) {
    task->end_time = now_;
    ++counts_.tasks_cached;
  }
  Touch(job);
  return Update(*task, before, task->epoch);
}

absl::StatusOr<bool> Transition::TakeFromCache(JobRecord* job,
                                               TaskRecord* task) {
  BW_ASSIGN_OR_RETURN(bool cached, IsCached(task->action_digest));
  if (!cached) return false;
  task->state = v1::TASK_STATE_CACHED;
  task->end_time = now_;
  ++counts_.tasks_cached;
  Touch(job);
  BW_RETURN_IF_ERROR(Update(*task, v1::TASK_STATE_READY, task->epoch));
  BW_RETURN_IF_ERROR(Unlock(job, task->position));
  return true;
}

absl::Status Transition::Unlock(JobRecord* job, int position) {
  std::vector<int> done = {position};
  while (!done.empty()) {
    const int source = done.back();
    done.pop_back();
    BW_ASSIGN_OR_RETURN(std::vector<int> unblocked,
                        store_->Unblock(job->number, source));
    for (int consumer : unblocked) {
      BW_ASSIGN_OR_RETURN(std::optional<TaskRecord> task,
                          store_->TaskAt(job->number, consumer));
      if (!task || task->state != v1::TASK_STATE_WAITING) continue;
      BW_RETURN_IF_ERROR(MakeReady(job, &*task));
      if (task->state == v1::TASK_STATE_CACHED) done.push_back(consumer);
    }
  }
  return absl::OkStatus();
}

absl::Status Transition::Requeue(JobRecord* job, TaskRecord* task) {
  task->session.clear();
  task->lease_deadline = absl::InfinitePast();
  task->state = Accepts(*job) ? v1::TASK_STATE_READY : v1::TASK_STATE_CANCELLED;
  if (task->state == v1::TASK_STATE_CANCELLED) task->end_time = now_;
  Touch(job);
  BW_RETURN_IF_ERROR(Update(*task, v1::TASK_STATE_RUNNING, task->epoch));
  // Another job may have found the result in the meantime.
  if (task->state == v1::TASK_STATE_READY)
    return TakeFromCache(job, task).status();
  return absl::OkStatus();
}

absl::Status Transition::FailAttempt(JobRecord* job, TaskRecord* task,
                                     v1::Error error, bool retryable) {
  error.set_task(TaskName(job->id, task->key));
  BW_RETURN_IF_ERROR(store_->AddTaskError(task->job, task->position, error));
  if (!Accepts(*job) || (retryable && task->attempts < options_.max_attempts)) {
    return Requeue(job, task);
  }
  task->session.clear();
  task->lease_deadline = absl::InfinitePast();
  task->state = v1::TASK_STATE_FAILED;
  task->end_time = now_;
  BW_RETURN_IF_ERROR(Update(*task, v1::TASK_STATE_RUNNING, task->epoch));
  error.set_message(absl::StrCat(
      error.task(), ": ", error.message(),
      retryable ? absl::StrCat(" (the last of ", task->attempts, " attempts)")
                : ""));
  return FailJob(job, std::move(error));
}

absl::Status Transition::ReleaseAttempt(JobRecord* job, TaskRecord* task) {
  if (task->attempts > 0) --task->attempts;
  return Requeue(job, task);
}

absl::Status Transition::Finish() {
  for (int64_t number : touched_) {
    JobRecord* job = loaded_[number].get();
    BW_RETURN_IF_ERROR(Settle(job));
    ++job->sequence;
    BW_RETURN_IF_ERROR(store_->UpdateJob(*job));
    changed_ = true;
  }
  touched_.clear();
  return absl::OkStatus();
}

absl::Status Transition::Settle(JobRecord* job) {
  if (!Accepts(*job) && job->state != v1::JOB_STATE_CANCELLING)
    return absl::OkStatus();
  BW_ASSIGN_OR_RETURN(std::vector<TaskCount> counts,
                      store_->CountTasks(job->number));
  int64_t open = 0, running = 0, quantizing = 0;
  for (const TaskCount& count : counts) {
    if (count.state != v1::TASK_STATE_WAITING &&
        count.state != v1::TASK_STATE_READY &&
        count.state != v1::TASK_STATE_RUNNING) {
      continue;
    }
    open += count.count;
    if (count.state == v1::TASK_STATE_RUNNING) running += count.count;
    if (count.kind != v1::TASK_KIND_FINALIZE &&
        count.kind != v1::TASK_KIND_EVALUATE) {
      quantizing += count.count;
    }
  }
  if (job->state == v1::JOB_STATE_CANCELLING) {
    if (running > 0) return absl::OkStatus();
    job->state = v1::JOB_STATE_CANCELLED;
    job->end_time = now_;
    return absl::OkStatus();
  }
  if (open == 0) return Succeed(job);
  job->state =
      quantizing == 0 ? v1::JOB_STATE_FINALIZING : v1::JOB_STATE_RUNNING;
  return absl::OkStatus();
}

absl::Status Transition::Succeed(JobRecord* job) {
  BW_ASSIGN_OR_RETURN(auto summaries, store_->Summaries(job->number));
  std::vector<FinishedTask> finished;
  finished.reserve(summaries.size());
  for (auto& [key, summary] : summaries)
    finished.push_back({key, std::move(summary)});
  job->result = SummarizeJob(finished);
  BW_ASSIGN_OR_RETURN(std::optional<TaskRecord> finalize,
                      store_->FindTask(job->number, "finalize"));
  if (finalize) BW_RETURN_IF_ERROR(RecordCheckpoint(job, *finalize));
  job->state = v1::JOB_STATE_SUCCEEDED;
  job->error.Clear();
  job->end_time = now_;
  return absl::OkStatus();
}

absl::Status Transition::RecordCheckpoint(JobRecord* job,
                                          const TaskRecord& finalize) {
  BW_ASSIGN_OR_RETURN(std::optional<ResultRecord> result,
                      store_->FindResult(finalize.action_digest));
  if (!result) {
    return absl::DataLossError(absl::StrCat("the result of ",
                                            TaskName(job->id, finalize.key),
                                            " is not on record"));
  }
  CheckpointRecord checkpoint;
  checkpoint.job = job->number;
  checkpoint.job_id = job->id;
  checkpoint.create_time = now_;
  checkpoint.manifest.set_format(job->spec.format());
  std::vector<Digest> blobs;
  // Outputs are sorted by name, and so are then the files by path.
  for (const NamedDigest& output : result->outputs) {
    blobs.push_back(output.digest);
    absl::string_view path = output.name;
    if (!absl::ConsumePrefix(&path, "file.")) continue;
    v1::CheckpointFile* file = checkpoint.manifest.add_files();
    file->set_path(std::string(path));
    file->mutable_digest()->set_sha256(output.digest.sha256);
    file->mutable_digest()->set_size_bytes(
        static_cast<int64_t>(output.digest.size));
  }
  BW_RETURN_IF_ERROR(store_->AddJobBlobs(job->number, blobs));
  BW_RETURN_IF_ERROR(store_->PutCheckpoint(checkpoint));
  job->result.set_checkpoint(scheduler_internal::CheckpointName(job->id));
  return absl::OkStatus();
}

}  // namespace bitwright
