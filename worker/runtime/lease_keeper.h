// The heartbeat: renews all leases of a session from a thread of its own, and
// tells running tasks to stop when their lease is gone.
//
//   LeaseKeeper keeper(api);
//   keeper.Start(session);                       // every lease_duration / 3
//   keeper.Add(task, control);                   // shared with the running
//   task
//   ... compute; control->cancelled() once the lease is lost ...
//   keeper.Remove(task);
//   if (keeper.session_lost()) ...               // open a new session
//   keeper.Stop();
#ifndef BITWRIGHT_WORKER_RUNTIME_LEASE_KEEPER_H_
#define BITWRIGHT_WORKER_RUNTIME_LEASE_KEEPER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "bitwright/v1/worker.pb.h"
#include "worker/runtime/cancellation.h"
#include "worker/runtime/server_api.h"

namespace bitwright {

v1::LeaseRef LeaseOf(const v1::LeasedTask& task);

// Thread-safe, but for Start and Stop.
class LeaseKeeper {
 public:
  explicit LeaseKeeper(ServerApi* api) : api_(api) {}  // Borrowed.
  ~LeaseKeeper() { Stop(); }

  void Start(const v1::Session& session);
  void Stop();  // Forgets all leases.

  void Add(const v1::LeasedTask& task, std::shared_ptr<TaskControl> control);
  void Remove(const v1::LeasedTask& task);

  // One heartbeat, as the thread does it. False if the server did not answer.
  bool RenewOnce();
  // Asks every task to stop; returns the leases, to be released.
  std::vector<v1::LeaseRef> CancelAll();

  // The server does not know the session any more; all tasks were cancelled.
  bool session_lost() const;

 private:
  using Key = std::pair<std::string, int64_t>;  // Task and epoch.
  struct Held {
    std::shared_ptr<TaskControl> control;
    std::string logged;  // Its last note.
  };
  void Loop();
  void LoseSession() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  ServerApi* const api_;
  mutable absl::Mutex mutex_;
  std::string session_ ABSL_GUARDED_BY(mutex_);
  absl::Duration interval_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool lost_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<Key, Held> leases_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace bitwright

#endif  // BITWRIGHT_WORKER_RUNTIME_LEASE_KEEPER_H_
