// Long polls for work without a thread each: LeaseTasks calls wait here, and
// one thread asks the scheduler for each of them when work may have become
// available. Workers are served in the order in which they came.
#ifndef BITWRIGHT_SERVER_RPC_LEASE_DISPATCHER_H_
#define BITWRIGHT_SERVER_RPC_LEASE_DISPATCHER_H_

#include <grpcpp/grpcpp.h>

#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "bitwright/v1/worker.pb.h"
#include "server/rpc/wakeable_loop.h"
#include "server/scheduler/scheduler.h"

namespace bitwright {

inline constexpr absl::Duration kMaxLeaseWait = absl::Seconds(20);
inline constexpr int kMaxLeasedTasks = 64;

// Thread-safe.
class LeaseDispatcher {
 public:
  // `scheduler` must outlive it.
  explicit LeaseDispatcher(Scheduler* scheduler);
  ~LeaseDispatcher() { Stop(); }

  // Finishes `reactor` sooner or later. The request and the response belong to
  // the call, until then.
  void Add(grpc::CallbackServerContext* context,
           const v1::LeaseTasksRequest* request,
           v1::LeaseTasksResponse* response, grpc::ServerUnaryReactor* reactor);
  // Work may have become available.
  void Changed();
  // Ends all waiting calls, and later ones at once, with UNAVAILABLE.
  void Stop();

 private:
  struct Waiter {
    grpc::CallbackServerContext* context;
    const v1::LeaseTasksRequest* request;
    v1::LeaseTasksResponse* response;
    grpc::ServerUnaryReactor* reactor;
    absl::Time deadline;
    bool asked = false;  // The scheduler, at least once.
  };

  WakeableLoop::Next Sweep();
  // True if the call is finished.
  bool Serve(Waiter* waiter, bool ask, absl::Time now);

  Scheduler* const scheduler_;
  absl::Mutex mutex_;
  std::vector<Waiter> waiters_ ABSL_GUARDED_BY(mutex_);
  bool changed_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time last_full_sweep_ = absl::InfinitePast();  // Loop thread only.
  WakeableLoop loop_;                                  // Last: uses the rest.
};

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_RPC_LEASE_DISPATCHER_H_
