// WatchJob streams without a thread each: one thread reads each watched job
// when something changed, at most five times a second, and offers the snapshot
// to all of its watchers. A slow reader skips snapshots; it never holds others
// up.
#ifndef BITWRIGHT_SERVER_RPC_WATCH_HUB_H_
#define BITWRIGHT_SERVER_RPC_WATCH_HUB_H_

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "bitwright/v1/job.pb.h"
#include "server/rpc/wakeable_loop.h"
#include "server/scheduler/scheduler.h"

namespace bitwright {

// Thread-safe.
class WatchHub {
 public:
  // `scheduler` must outlive it; it must outlive the gRPC server.
  explicit WatchHub(Scheduler* scheduler);
  ~WatchHub() { Stop(); }

  // The reactor of one WatchJob call; it belongs to the call.
  grpc::ServerWriteReactor<v1::Job>* Watch(const v1::WatchJobRequest& request);
  void Changed() { loop_.Wake(); }
  // Ends all streams, and later ones at once, with UNAVAILABLE.
  void Stop();

 private:
  class Watcher;

  WakeableLoop::Next Sweep();
  void Remove(Watcher* watcher);

  Scheduler* const scheduler_;
  absl::Mutex mutex_;
  absl::flat_hash_map<Watcher*, std::shared_ptr<Watcher>> watchers_
      ABSL_GUARDED_BY(mutex_);
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  WakeableLoop loop_;  // Last: uses the rest.
};

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_RPC_WATCH_HUB_H_
