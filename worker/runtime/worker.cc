#include "worker/runtime/worker.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/status_macros.h"
#include "proto/algorithm_version.h"
#include "spdlog/spdlog.h"
#include "worker/quant/raw_vector.h"

namespace bitwright {
namespace {

// Trouble of the server's own that may pass, e.g. its disk is full. That it was
// away for too long (UNAVAILABLE) has been waited for already.
bool IsTransient(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kUnknown:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kDataLoss:
      return true;
    default:
      return false;
  }
}

}  // namespace

Worker::Worker(ServerApi* api, TaskRunner* runner, Patience* patience,
               WorkerMetrics* metrics, WorkerOptions options)
    : api_(api),
      runner_(runner),
      patience_(patience),
      metrics_(metrics),
      options_(std::move(options)),
      idle_patience_(options_.give_up_after),
      keeper_(api),
      reporter_(api, runner, patience, &keeper_, metrics) {}

bool Worker::draining() const {
  absl::MutexLock lock(&mutex_);
  return draining_;
}

void Worker::Drain(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  {
    absl::MutexLock lock(&mutex_);
    draining_ = true;
    drain_deadline_ = std::min(drain_deadline_, deadline);
  }
  idle_patience_.StopAt(absl::InfinitePast());
  patience_->StopAt(deadline);
  reporter_.SetDraining();
}

absl::Status Worker::Run() {
  std::thread watch([this] { WatchDrain(); });
  absl::Status status;
  while (status.ok() && !draining()) status = RunSession();
  // A server that is away does not keep a worker from leaving.
  if (draining() && absl::IsUnavailable(status)) status = absl::OkStatus();
  {
    absl::MutexLock lock(&mutex_);
    ended_ = true;
  }
  watch.join();
  return status;
}

absl::Status Worker::RunSession() {
  v1::OpenSessionRequest request;
  request.set_worker(options_.name);
  request.set_device(options_.device);
  request.set_version(options_.version);
  v1::Session session;
  BW_RETURN_IF_ERROR(
      idle_patience_.Retry("open session", [&]() -> absl::Status {
        BW_ASSIGN_OR_RETURN(session, api_->OpenSession(request));
        return absl::OkStatus();
      }));
  spdlog::info("{} open as worker {}", session.name(), options_.name);
  {
    absl::MutexLock lock(&mutex_);
    session_name_ = session.name();
  }
  keeper_.Start(session);
  reporter_.Start(session.name());

  absl::Status status;
  while (!draining() && !keeper_.session_lost()) {
    absl::StatusOr<bool> alive = Lease();
    if (!alive.ok()) status = alive.status();
    if (!alive.ok() || !*alive) break;
    while (!queue_.empty() && !draining()) ComputeNext();
  }
  ReleaseQueue();
  reporter_.Stop();
  keeper_.Stop();
  if (draining()) {
    // Best effort: the server closes silent sessions by itself.
    api_->CloseSession(session.name()).IgnoreError();
  }
  return status;
}

absl::StatusOr<bool> Worker::Lease() {
  v1::LeaseTasksRequest request;
  {
    absl::MutexLock lock(&mutex_);
    request.set_session(session_name_);
  }
  request.set_algorithms(AlgorithmVersions());
  request.set_max_tasks(1 + options_.lease_ahead);
  request.mutable_wait()->set_seconds(
      absl::ToInt64Seconds(options_.lease_wait));
  request.mutable_wait()->set_nanos(static_cast<int32_t>(
      absl::ToInt64Nanoseconds(options_.lease_wait % absl::Seconds(1))));
  v1::LeaseTasksResponse response;
  const absl::Status status =
      idle_patience_.Retry("lease", [&]() -> absl::Status {
        BW_ASSIGN_OR_RETURN(response, api_->LeaseTasks(request));
        return absl::OkStatus();
      });
  if (absl::IsNotFound(status)) return false;
  if (!status.ok() && !IsTransient(status)) return status;
  if (!status.ok()) {
    spdlog::warn("asking for work: {}", status.ToString());
    absl::MutexLock lock(&mutex_);
    mutex_.AwaitWithTimeout(absl::Condition(&draining_), absl::Seconds(1));
    return true;
  }
  if (response.tasks().empty()) quant::FreeKeptBuffers();
  for (v1::LeasedTask& task : *response.mutable_tasks()) {
    Queued queued{std::move(task), std::make_shared<TaskControl>()};
    keeper_.Add(queued.task, queued.control);
    queue_.push_back(std::move(queued));
  }
  return true;
}

void Worker::ComputeNext() {
  Queued current = std::move(queue_.front());
  queue_.pop_front();
  std::thread prefetch;
  if (!queue_.empty()) {
    prefetch = std::thread(
        [this, next = &queue_.front().task] { runner_->Prefetch(*next); });
  }
  spdlog::info("{} starts (attempt {})", current.task.task(),
               current.task.attempt());
  const absl::Time start = absl::Now();
  absl::StatusOr<ComputedTask> result =
      current.control->cancelled()
          ? absl::CancelledError("the lease was lost before the start")
          : runner_->Compute(current.task, current.control.get());
  reporter_.Submit({std::move(current.task), std::move(current.control),
                    std::move(result), absl::Now() - start});
  if (prefetch.joinable()) prefetch.join();
#ifdef __GLIBC__
  // Else what tasks leave free stays scattered over the allocator's arenas, and
  // the peak grows with the number of tasks.
  malloc_trim(0);
#endif
}

void Worker::ReleaseQueue() {
  if (queue_.empty()) return;
  v1::ReleaseLeasesRequest request;
  {
    absl::MutexLock lock(&mutex_);
    request.set_session(session_name_);
  }
  for (const Queued& queued : queue_) {
    *request.add_leases() = LeaseOf(queued.task);
    keeper_.Remove(queued.task);
    metrics_->CountTask(KindName(queued.task.action().kind()), "released",
                        absl::ZeroDuration());
  }
  queue_.clear();
  // Best effort: leases that are not released run out by themselves.
  api_->ReleaseLeases(request).IgnoreError();
}

void Worker::WatchDrain() {
  v1::ReleaseLeasesRequest request;
  {
    absl::MutexLock lock(&mutex_);
    auto draining_or_ended = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return draining_ || ended_;
    };
    mutex_.Await(absl::Condition(&draining_or_ended));
    absl::Time deadline = drain_deadline_;
    auto ended_or_sooner = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return ended_ || drain_deadline_ < deadline;
    };
    while (
        mutex_.AwaitWithDeadline(absl::Condition(&ended_or_sooner), deadline)) {
      if (ended_) return;
      deadline = drain_deadline_;
    }
    request.set_session(session_name_);
  }
  const std::vector<v1::LeaseRef> leases = keeper_.CancelAll();
  request.mutable_leases()->Assign(leases.begin(), leases.end());
  if (!leases.empty()) api_->ReleaseLeases(request).IgnoreError();
  spdlog::warn("the time to drain is over; {} tasks given back", leases.size());
  if (options_.on_drain_expired) options_.on_drain_expired();
}

}  // namespace bitwright
