#include "server/rpc/lease_dispatcher.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "proto/status_conversion.h"

namespace bitwright {
namespace {

// Everybody is asked for this often even if nothing seems to have changed:
// another coordinator may have.
constexpr absl::Duration kFullSweepInterval = absl::Seconds(5);

absl::Duration WaitOf(const v1::LeaseTasksRequest& request) {
  const absl::Duration wait = absl::Seconds(request.wait().seconds()) +
                              absl::Nanoseconds(request.wait().nanos());
  return std::clamp(wait, absl::ZeroDuration(), kMaxLeaseWait);
}

grpc::Status ShuttingDown() {
  return ToGrpcStatus(absl::UnavailableError("the server is shutting down"));
}

}  // namespace

LeaseDispatcher::LeaseDispatcher(Scheduler* scheduler)
    : scheduler_(scheduler), loop_([this] { return Sweep(); }) {}

void LeaseDispatcher::Add(grpc::CallbackServerContext* context,
                          const v1::LeaseTasksRequest* request,
                          v1::LeaseTasksResponse* response,
                          grpc::ServerUnaryReactor* reactor) {
  {
    absl::MutexLock lock(&mutex_);
    if (!stopped_) {
      waiters_.push_back({context, request, response, reactor,
                          absl::Now() + WaitOf(*request)});
      reactor = nullptr;
    }
  }
  if (reactor != nullptr) return reactor->Finish(ShuttingDown());
  loop_.Wake();
}

void LeaseDispatcher::Changed() {
  {
    absl::MutexLock lock(&mutex_);
    changed_ = true;
  }
  loop_.Wake();
}

void LeaseDispatcher::Stop() {
  loop_.Stop();
  std::vector<Waiter> waiters;
  {
    absl::MutexLock lock(&mutex_);
    stopped_ = true;
    waiters.swap(waiters_);
  }
  for (Waiter& waiter : waiters) waiter.reactor->Finish(ShuttingDown());
}

bool LeaseDispatcher::Serve(Waiter* waiter, bool ask, absl::Time now) {
  // A task leased for somebody who is gone would wait for its lease to expire.
  if (waiter->context->IsCancelled()) {
    waiter->reactor->Finish(grpc::Status::CANCELLED);
    return true;
  }
  if (ask || !waiter->asked) {
    waiter->asked = true;
    auto tasks = scheduler_->LeaseTasks(
        waiter->request->session(),
        std::clamp(waiter->request->max_tasks(), 1, kMaxLeasedTasks));
    if (!tasks.ok()) {
      waiter->reactor->Finish(ToGrpcStatus(tasks.status()));
      return true;
    }
    for (v1::LeasedTask& task : *tasks) {
      *waiter->response->add_tasks() = std::move(task);
    }
  }
  if (waiter->response->tasks_size() == 0 && now < waiter->deadline) {
    return false;
  }
  waiter->reactor->Finish(grpc::Status::OK);
  return true;
}

WakeableLoop::Next LeaseDispatcher::Sweep() {
  const absl::Time start = absl::Now();
  std::vector<Waiter> waiters;
  bool ask;
  {
    absl::MutexLock lock(&mutex_);
    waiters.swap(waiters_);
    ask = std::exchange(changed_, false);
  }
  if (start - last_full_sweep_ >= kFullSweepInterval) ask = true;
  if (ask) last_full_sweep_ = start;

  std::vector<Waiter> left;
  absl::Time next_deadline = start + absl::Seconds(1);
  for (Waiter& waiter : waiters) {
    if (Serve(&waiter, ask, absl::Now())) continue;
    next_deadline = std::min(next_deadline, waiter.deadline);
    left.push_back(waiter);
  }
  {
    absl::MutexLock lock(&mutex_);
    waiters_.insert(waiters_.begin(), left.begin(), left.end());
  }
  // However many wait and however often things change, a fifth of one core.
  const absl::Time end = absl::Now();
  const absl::Duration pause = ask ? 4 * (end - start) : absl::ZeroDuration();
  return {.earliest = std::min(pause, absl::Seconds(1)),
          .latest = std::max(next_deadline - end, absl::Milliseconds(1))};
}

}  // namespace bitwright
