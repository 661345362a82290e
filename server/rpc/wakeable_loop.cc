#include "server/rpc/wakeable_loop.h"

#include <algorithm>
#include <utility>

namespace bitwright {

WakeableLoop::WakeableLoop(std::function<Next()> work)
    : work_(std::move(work)), thread_([this] { Run(); }) {}

void WakeableLoop::Wake() {
  absl::MutexLock lock(&mutex_);
  woken_ = true;
}

bool WakeableLoop::stopping() const {
  absl::MutexLock lock(&mutex_);
  return stopping_;
}

void WakeableLoop::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void WakeableLoop::Run() {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (stopping_) return;
      woken_ = false;
    }
    const Next next = work_();
    absl::MutexLock lock(&mutex_);
    mutex_.AwaitWithTimeout(absl::Condition(&stopping_), next.earliest);
    auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return woken_ || stopping_;
    };
    mutex_.AwaitWithTimeout(
        absl::Condition(&ready),
        std::max(next.latest - next.earliest, absl::ZeroDuration()));
  }
}

}  // namespace bitwright
