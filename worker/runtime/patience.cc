#include "worker/runtime/patience.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "spdlog/spdlog.h"

namespace bitwright {

absl::Status Patience::Retry(absl::string_view what,
                             absl::FunctionRef<absl::Status()> call) {
  const absl::Time give_up = absl::Now() + give_up_after_;
  absl::Duration pause = first_pause_;
  for (bool told = false;;) {
    absl::Status status = call();
    if (!absl::IsUnavailable(status) && !absl::IsDeadlineExceeded(status)) {
      if (told) spdlog::info("the server is back ({})", std::string(what));
      return status;
    }
    if (!told) {
      spdlog::warn("the server does not answer ({}), trying on: {}",
                   std::string(what), std::string(status.message()));
      told = true;
    }
    if (!Pause(pause, give_up)) return status;
    pause = std::min(2 * pause, longest_pause_);
  }
}

void Patience::StopAt(absl::Time time) {
  absl::MutexLock lock(&mutex_);
  stop_at_ = std::min(stop_at_, time);
}

bool Patience::Pause(absl::Duration pause, absl::Time give_up) {
  absl::MutexLock lock(&mutex_);
  absl::Time until = std::min(absl::Now() + pause, stop_at_);
  // StopAt() holds the mutex, so a change of mind wakes this up.
  auto sooner = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stop_at_ < until;
  };
  while (mutex_.AwaitWithDeadline(absl::Condition(&sooner), until)) {
    until = stop_at_;
  }
  return absl::Now() < std::min(stop_at_, give_up);
}

}  // namespace bitwright
