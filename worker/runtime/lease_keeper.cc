#include "worker/runtime/lease_keeper.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "spdlog/spdlog.h"

namespace bitwright {

v1::LeaseRef LeaseOf(const v1::LeasedTask& task) {
  v1::LeaseRef lease;
  lease.set_task(task.task());
  lease.set_lease_epoch(task.lease_epoch());
  return lease;
}

void LeaseKeeper::Start(const v1::Session& session) {
  const absl::Duration lease =
      absl::Seconds(session.lease_duration().seconds()) +
      absl::Nanoseconds(session.lease_duration().nanos());
  {
    absl::MutexLock lock(&mutex_);
    session_ = session.name();
    interval_ = std::max(lease / 3, absl::Milliseconds(10));
    stopping_ = lost_ = false;
  }
  thread_ = std::thread([this] { Loop(); });
}

void LeaseKeeper::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    leases_.clear();
  }
  if (thread_.joinable()) thread_.join();
}

void LeaseKeeper::Add(const v1::LeasedTask& task,
                      std::shared_ptr<TaskControl> control) {
  absl::MutexLock lock(&mutex_);
  if (lost_) control->Cancel();
  leases_[{task.task(), task.lease_epoch()}] = {std::move(control), ""};
}

void LeaseKeeper::Remove(const v1::LeasedTask& task) {
  absl::MutexLock lock(&mutex_);
  leases_.erase({task.task(), task.lease_epoch()});
}

bool LeaseKeeper::session_lost() const {
  absl::MutexLock lock(&mutex_);
  return lost_;
}

std::vector<v1::LeaseRef> LeaseKeeper::CancelAll() {
  absl::MutexLock lock(&mutex_);
  std::vector<v1::LeaseRef> all;
  for (const auto& [key, held] : leases_) {
    held.control->Cancel();
    v1::LeaseRef& lease = all.emplace_back();
    lease.set_task(key.first);
    lease.set_lease_epoch(key.second);
  }
  return all;
}

void LeaseKeeper::LoseSession() {
  spdlog::warn("the server does not know {} any more", session_);
  lost_ = true;
  for (const auto& [key, held] : leases_) held.control->Cancel();
}

bool LeaseKeeper::RenewOnce() {
  v1::RenewLeasesRequest request;
  std::vector<std::string> news;
  {
    absl::MutexLock lock(&mutex_);
    if (lost_) return true;
    request.set_session(session_);
    for (auto& [key, held] : leases_) {
      v1::LeaseRef* lease = request.add_leases();
      lease->set_task(key.first);
      lease->set_lease_epoch(key.second);
      lease->set_fraction_done(held.control->fraction());
      lease->set_note(held.control->note());
      if (lease->note() == held.logged) continue;
      held.logged = lease->note();
      news.push_back(absl::StrCat(key.first, ": ", held.logged));
    }
  }
  for (const std::string& line : news) spdlog::info("{}", line);
  const absl::StatusOr<v1::RenewLeasesResponse> response =
      api_->RenewLeases(request);
  absl::MutexLock lock(&mutex_);
  if (!response.ok()) {
    if (absl::IsNotFound(response.status())) {
      LoseSession();
      return true;
    }
    spdlog::warn("heartbeat: {}", response.status().ToString());
    return false;
  }
  for (const v1::LeaseRef& lease : response->lost()) {
    auto it = leases_.find({lease.task(), lease.lease_epoch()});
    if (it == leases_.end()) continue;
    spdlog::info("{}: cancelled, or no longer ours", lease.task());
    it->second.control->Cancel();
  }
  return true;
}

void LeaseKeeper::Loop() {
  bool answered = true;
  for (;;) {
    {
      absl::MutexLock lock(&mutex_);
      const absl::Duration pause =
          answered ? interval_ : std::min(interval_, absl::Seconds(1));
      if (mutex_.AwaitWithTimeout(absl::Condition(&stopping_), pause)) return;
    }
    answered = RenewOnce();
  }
}

}  // namespace bitwright
