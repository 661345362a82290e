// Results coming in: fenced by the lease's epoch, recorded exactly once.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "server/scheduler/scheduler.h"
#include "server/scheduler/transition.h"

namespace bitwright {
namespace {

// Sorted by name. INVALID_ARGUMENT: a bad digest, or two of one name.
absl::StatusOr<std::vector<NamedDigest>> ReadOutputs(
    const v1::CompleteTaskRequest& request) {
  std::vector<NamedDigest> outputs;
  for (const v1::NamedBlob& blob : request.outputs()) {
    absl::StatusOr<Digest> digest =
        scheduler_internal::ParseDigest(blob.digest());
    if (!digest.ok()) {
      return Annotate(digest.status(),
                      absl::StrCat(request.lease().task(), ": output \"",
                                   blob.name(), "\""));
    }
    outputs.push_back({blob.name(), *std::move(digest)});
  }
  std::sort(outputs.begin(), outputs.end(),
            [](const NamedDigest& a, const NamedDigest& b) {
              return a.name < b.name;
            });
  for (size_t i = 1; i < outputs.size(); ++i) {
    if (outputs[i].name != outputs[i - 1].name) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        request.lease().task(), ": two outputs \"", outputs[i].name, "\""));
  }
  return outputs;
}

// `missing` names the first output that is not in the blob store.
absl::Status FindMissing(BlobStore* blobs, const std::string& task,
                         const std::vector<NamedDigest>& outputs,
                         absl::Status* missing) {
  for (const NamedDigest& output : outputs) {
    BW_ASSIGN_OR_RETURN(bool present, blobs->Has(output.digest));
    if (present) continue;
    *missing = absl::FailedPreconditionError(absl::StrCat(
        task, ": output \"", output.name, "\" (", output.digest.ToString(),
        ") is not in the blob store; upload it first"));
    break;
  }
  return absl::OkStatus();
}

absl::Status Conflict(const std::string& task, const std::string& action_digest,
                      const ResultRecord& on_record,
                      const std::vector<NamedDigest>& outputs) {
  std::string difference = "the sets of outputs differ";
  for (size_t i = 0; i < std::min(on_record.outputs.size(), outputs.size());
       ++i) {
    if (on_record.outputs[i] == outputs[i]) continue;
    difference = absl::StrCat("output \"", outputs[i].name, "\" is ",
                              outputs[i].digest.ToString(), ", on record is \"",
                              on_record.outputs[i].name, "\" ",
                              on_record.outputs[i].digest.ToString());
    break;
  }
  return absl::DataLossError(
      absl::StrCat(task, ": another result for action ", action_digest,
                   " than the one on record (", difference,
                   "); the one on record stays. Workers of one service must "
                   "run the same version on the same "
                   "kind of device"));
}

void CountQuantize(const v1::TaskSummary& summary, SchedulerStats* counts) {
  if (!summary.has_quantize()) return;
  counts->damping_retries +=
      std::max(0, summary.quantize().damping_attempts() - 1);
  counts->diagonal_fallbacks += summary.quantize().diagonal_fallback() ? 1 : 0;
}

absl::Status CountForWorker(Transition* t, const std::string& session) {
  BW_ASSIGN_OR_RETURN(std::optional<WorkerRecord> worker,
                      t->store()->WorkerOf(session));
  if (!worker) return absl::OkStatus();
  ++worker->completed;
  worker->last_seen = t->now();
  return t->store()->PutWorker(*worker);
}

// The result of a task that `session` holds. `verdict` is DATA_LOSS if it is
// not the one on record; the task is then taken from the cache.
absl::Status Accept(Transition* t, TaskRecord task,
                    const v1::CompleteTaskRequest& request,
                    std::vector<NamedDigest> outputs, absl::Status* verdict) {
  BW_ASSIGN_OR_RETURN(JobRecord * job, t->Job(task.job));
  BW_ASSIGN_OR_RETURN(std::optional<ResultRecord> on_record,
                      t->store()->FindResult(task.action_digest));
  bool record = !on_record;
  if (on_record && on_record->outputs != outputs) {
    // A record whose blobs are lost binds nobody.
    BW_ASSIGN_OR_RETURN(bool present, t->OutputsPresent(*on_record));
    record = !present;
    if (present) {
      *verdict = Conflict(request.lease().task(), task.action_digest,
                          *on_record, outputs);
      ++t->counts().conflicting_results;
      v1::Error error;
      error.set_code(static_cast<int32_t>(verdict->code()));
      error.set_message(std::string(verdict->message()));
      return t->FailAttempt(job, &task, std::move(error), /*retryable=*/true);
    }
  }
  if (record) {
    BW_RETURN_IF_ERROR(t->store()->PutResult(
        {task.action_digest, std::move(outputs), request.summary()}));
  }
  task.state = v1::TASK_STATE_SUCCEEDED;
  task.session.clear();
  task.lease_deadline = absl::InfinitePast();
  task.end_time = t->now();
  BW_RETURN_IF_ERROR(t->Update(task, v1::TASK_STATE_RUNNING, task.epoch));
  BW_RETURN_IF_ERROR(CountForWorker(t, request.session()));
  ++t->counts().tasks_completed;
  CountQuantize(request.summary(), &t->counts());
  t->Touch(job);
  if (job->state == v1::JOB_STATE_CANCELLING) return absl::OkStatus();
  return t->Unlock(job, task.position);
}

// A call that comes again after it was done. True if `task` is done by this
// very lease; `verdict` then says whether the result is the same.
absl::StatusOr<bool> IsReplay(Transition* t, const TaskRecord& task,
                              const v1::CompleteTaskRequest& request,
                              const std::vector<NamedDigest>& outputs,
                              absl::Status* verdict) {
  if (task.state != v1::TASK_STATE_SUCCEEDED ||
      task.epoch != request.lease().lease_epoch()) {
    return false;
  }
  BW_ASSIGN_OR_RETURN(std::optional<ResultRecord> on_record,
                      t->store()->FindResult(task.action_digest));
  if (on_record && on_record->outputs != outputs) {
    ++t->counts().conflicting_results;
    *verdict = Conflict(request.lease().task(), task.action_digest, *on_record,
                        outputs);
  }
  return true;
}

}  // namespace

absl::Status Scheduler::CompleteTask(const v1::CompleteTaskRequest& request) {
  BW_ASSIGN_OR_RETURN(std::vector<NamedDigest> outputs, ReadOutputs(request));
  const std::string& name = request.lease().task();
  // Outside the transaction, which others wait for; it counts after the fence.
  absl::Status missing;
  BW_RETURN_IF_ERROR(FindMissing(blobs_, name, outputs, &missing));
  absl::Status verdict;
  BW_RETURN_IF_ERROR(Transact([&](Transition* t) -> absl::Status {
    verdict = absl::OkStatus();
    BW_ASSIGN_OR_RETURN(TaskRecord task, t->TaskNamed(name));
    BW_ASSIGN_OR_RETURN(bool replay,
                        IsReplay(t, task, request, outputs, &verdict));
    if (replay) return absl::OkStatus();
    if (task.state != v1::TASK_STATE_RUNNING ||
        task.epoch != request.lease().lease_epoch() ||
        task.session != request.session()) {
      ++t->counts().stale_results;
      verdict = absl::AbortedError(absl::StrCat(
          "the lease on ", name, " (epoch ", request.lease().lease_epoch(),
          ") is gone; the result was not taken"));
      return absl::OkStatus();
    }
    BW_RETURN_IF_ERROR(missing);
    return Accept(t, std::move(task), request, outputs, &verdict);
  }));
  return verdict;
}

}  // namespace bitwright
