// A server in memory, for tests of sessions and leases.
#ifndef BITWRIGHT_TESTS_UNIT_WORKER_RUNTIME_FAKE_SERVER_H_
#define BITWRIGHT_TESTS_UNIT_WORKER_RUNTIME_FAKE_SERVER_H_

#include <deque>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/digest.h"
#include "common/base/file.h"
#include "worker/runtime/server_api.h"

namespace bitwright {

// Thread-safe. Hands out `ready` in order; what happened is told by the other
// members, all under `mutex`.
class FakeServer : public ServerApi {
 public:
  absl::Mutex mutex;
  bool away = false;            // Every call is UNAVAILABLE.
  bool forget_session = false;  // The next call with a session is NOT_FOUND.
  absl::Duration lease_duration = absl::Milliseconds(60);
  absl::Status complete_status;
  std::deque<v1::LeasedTask> ready;
  std::vector<std::string> lose;  // Tasks to name as lost.
  int sessions = 0, renewals = 0, closed = 0;
  std::vector<v1::CompleteTaskRequest> completed;
  std::vector<v1::FailTaskRequest> failed;
  std::vector<std::string> released;
  std::map<std::string, double> fractions;
  std::map<std::string, std::string> notes;
  std::map<std::string, std::string> blobs;  // By SHA-256.
  int downloads = 0;

  void AddTask(const std::string& name) {
    absl::MutexLock lock(&mutex);
    v1::LeasedTask& task = ready.emplace_back();
    task.set_task(name);
    task.set_lease_epoch(1);
    task.mutable_action()->set_kind(v1::TASK_KIND_QUANTIZE);
  }

  // Waits until `done` holds; `done` runs under `mutex`. False after 20 s.
  template <typename F>
  bool WaitFor(F done) {
    absl::MutexLock lock(&mutex);
    return mutex.AwaitWithTimeout(absl::Condition(&done), absl::Seconds(20));
  }

  absl::StatusOr<v1::Session> OpenSession(
      const v1::OpenSessionRequest& request) override {
    absl::MutexLock lock(&mutex);
    if (away) return absl::UnavailableError("away");
    v1::Session session;
    session.set_name(absl::StrCat("sessions/", ++sessions));
    session.set_worker(request.worker());
    session.mutable_lease_duration()->set_nanos(
        static_cast<int32_t>(absl::ToInt64Nanoseconds(lease_duration)));
    return session;
  }

  absl::StatusOr<v1::LeaseTasksResponse> LeaseTasks(
      const v1::LeaseTasksRequest& request) override {
    absl::MutexLock lock(&mutex);
    if (absl::Status s = Check(request.session()); !s.ok()) return s;
    auto any = [this] { return !ready.empty() || forget_session || away; };
    mutex.AwaitWithTimeout(absl::Condition(&any), absl::Milliseconds(20));
    v1::LeaseTasksResponse response;
    while (!ready.empty() && response.tasks_size() < request.max_tasks()) {
      *response.add_tasks() = ready.front();
      ready.pop_front();
    }
    return response;
  }

  absl::StatusOr<v1::RenewLeasesResponse> RenewLeases(
      const v1::RenewLeasesRequest& request) override {
    absl::MutexLock lock(&mutex);
    if (absl::Status s = Check(request.session()); !s.ok()) return s;
    ++renewals;
    v1::RenewLeasesResponse response;
    for (const v1::LeaseRef& lease : request.leases()) {
      fractions[lease.task()] = lease.fraction_done();
      notes[lease.task()] = lease.note();
      for (const std::string& task : lose) {
        if (task == lease.task()) *response.add_lost() = lease;
      }
    }
    return response;
  }

  absl::Status CompleteTask(const v1::CompleteTaskRequest& request) override {
    absl::MutexLock lock(&mutex);
    if (absl::Status s = Check(request.session()); !s.ok()) return s;
    if (!complete_status.ok()) return complete_status;
    completed.push_back(request);
    return absl::OkStatus();
  }
  absl::Status FailTask(const v1::FailTaskRequest& request) override {
    absl::MutexLock lock(&mutex);
    if (absl::Status s = Check(request.session()); !s.ok()) return s;
    failed.push_back(request);
    return absl::OkStatus();
  }
  absl::Status ReleaseLeases(const v1::ReleaseLeasesRequest& request) override {
    absl::MutexLock lock(&mutex);
    if (absl::Status s = Check(request.session()); !s.ok()) return s;
    for (const v1::LeaseRef& lease : request.leases()) {
      released.push_back(lease.task());
    }
    return absl::OkStatus();
  }
  absl::Status CloseSession(const std::string& session) override {
    absl::MutexLock lock(&mutex);
    if (absl::Status s = Check(session); !s.ok()) return s;
    ++closed;
    return absl::OkStatus();
  }

  absl::StatusOr<Digest> UploadFile(const std::string& path) override {
    auto bytes = ReadFile(path);
    if (!bytes.ok()) return bytes.status();
    absl::MutexLock lock(&mutex);
    if (away) return absl::UnavailableError("away");
    const Digest digest = DigestOf(*bytes);
    blobs[digest.sha256] = *bytes;
    return digest;
  }
  absl::Status DownloadFile(const Digest& digest,
                            const std::string& path) override {
    absl::MutexLock lock(&mutex);
    if (away) return absl::UnavailableError("away");
    auto it = blobs.find(digest.sha256);
    if (it == blobs.end()) return absl::NotFoundError(digest.ToString());
    ++downloads;
    return WriteFileAtomically(path, it->second);
  }

 private:
  absl::Status Check(const std::string& session) {
    if (away) return absl::UnavailableError("away");
    if (forget_session || session != absl::StrCat("sessions/", sessions)) {
      forget_session = false;
      ++sessions;  // The one that was is no more.
      return absl::NotFoundError(absl::StrCat("no session ", session));
    }
    return absl::OkStatus();
  }
};

}  // namespace bitwright

#endif  // BITWRIGHT_TESTS_UNIT_WORKER_RUNTIME_FAKE_SERVER_H_
