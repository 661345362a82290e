#include "worker/runtime/reporter.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "spdlog/spdlog.h"
#include "worker/runtime/executor.h"

namespace bitwright {
namespace {

void SetDuration(absl::Duration duration, google::protobuf::Duration* proto) {
  proto->set_seconds(absl::ToInt64Seconds(duration));
  proto->set_nanos(static_cast<int32_t>(
      absl::ToInt64Nanoseconds(duration % absl::Seconds(1))));
}

}  // namespace

void Reporter::Start(std::string session) {
  session_ = std::move(session);
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = false;
  }
  thread_ = std::thread([this] { Loop(); });
}

void Reporter::Submit(FinishedTask finished) {
  absl::MutexLock lock(&mutex_);
  auto free = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !next_.has_value() && !busy_;
  };
  mutex_.Await(absl::Condition(&free));
  next_ = std::move(finished);
}

void Reporter::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void Reporter::SetDraining() {
  absl::MutexLock lock(&mutex_);
  draining_ = true;
}

bool Reporter::draining() const {
  absl::MutexLock lock(&mutex_);
  return draining_;
}

void Reporter::Loop() {
  for (;;) {
    std::optional<FinishedTask> finished;
    {
      absl::MutexLock lock(&mutex_);
      auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return next_.has_value() || stopping_;
      };
      mutex_.Await(absl::Condition(&ready));
      if (!next_.has_value()) return;
      finished = std::exchange(next_, std::nullopt);
      busy_ = true;
    }
    Report(*std::move(finished));
    absl::MutexLock lock(&mutex_);
    busy_ = false;
  }
}

void Reporter::Report(FinishedTask finished) {
  const v1::LeasedTask& task = finished.task;
  absl::Status status = finished.result.status();
  if (status.ok()) status = Complete(finished);

  std::string outcome = "failed";
  if (status.ok()) {
    outcome = "succeeded";
    spdlog::info("{} done in {}", task.task(),
                 absl::FormatDuration(finished.run_time));
  } else if (finished.control->cancelled()) {
    outcome = "cancelled";
    Release(task);
  } else if (absl::IsAborted(status)) {
    // Fenced: the lease ran out and somebody else has the task.
    outcome = "cancelled";
    spdlog::warn("{}: {}", task.task(), status.ToString());
  } else if (draining() && absl::IsUnavailable(status)) {
    outcome = "released";
    Release(task);
  } else {
    Fail(task, status);
  }
  keeper_->Remove(task);
  metrics_->CountTask(KindName(task.action().kind()), outcome,
                      finished.run_time);
}

absl::Status Reporter::Complete(const FinishedTask& finished) {
  BW_ASSIGN_OR_RETURN(std::vector<v1::NamedBlob> outputs,
                      runner_->Upload(*finished.result));
  v1::CompleteTaskRequest request;
  request.set_session(session_);
  *request.mutable_lease() = LeaseOf(finished.task);
  request.mutable_outputs()->Assign(outputs.begin(), outputs.end());
  *request.mutable_summary() = finished.result->summary;
  SetDuration(finished.run_time, request.mutable_run_time());
  const absl::Status status =
      patience_->Retry("complete", [&] { return api_->CompleteTask(request); });
  // The server's complaint is about this result or session, not about the
  // task's input: another attempt may do better.
  if (absl::IsFailedPrecondition(status) || absl::IsInvalidArgument(status)) {
    return absl::InternalError(
        absl::StrCat("the server refused the result: ", status.message()));
  }
  if (absl::IsNotFound(status)) return absl::AbortedError(status.message());
  return status;
}

void Reporter::Fail(const v1::LeasedTask& task, const absl::Status& status) {
  spdlog::error("{} failed (attempt {}): {}", task.task(), task.attempt(),
                status.ToString());
  v1::FailTaskRequest request;
  request.set_session(session_);
  *request.mutable_lease() = LeaseOf(task);
  request.mutable_error()->set_code(static_cast<int>(status.code()));
  request.mutable_error()->set_message(std::string(status.message()));
  request.mutable_error()->set_task(task.task());
  request.set_retryable(IsRetryable(status));
  const absl::Status told =
      patience_->Retry("fail", [&] { return api_->FailTask(request); });
  if (!told.ok()) {
    spdlog::warn("{}: the failure was not reported: {}", task.task(),
                 told.ToString());
  }
}

// Best effort: a lease that is not released runs out by itself.
void Reporter::Release(const v1::LeasedTask& task) {
  v1::ReleaseLeasesRequest request;
  request.set_session(session_);
  *request.add_leases() = LeaseOf(task);
  const absl::Status status = api_->ReleaseLeases(request);
  spdlog::info("{} given back{}", task.task(),
               status.ok() ? "" : absl::StrCat(" (", status.message(), ")"));
}

}  // namespace bitwright
