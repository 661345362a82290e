// A thread that does one piece of work again and again: when it is woken, and
// otherwise after a while.
//
//   WakeableLoop loop([&] { Sweep(); return WakeableLoop::Next{.latest =
//   absl::Seconds(1)}; }); loop.Wake();    // From any thread; many calls make
//   one run. loop.Stop();    // Joins.
#ifndef BITWRIGHT_SERVER_RPC_WAKEABLE_LOOP_H_
#define BITWRIGHT_SERVER_RPC_WAKEABLE_LOOP_H_

#include <functional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace bitwright {

// Thread-safe.
class WakeableLoop {
 public:
  // When to run again, counted from the end of a run: not before `earliest`,
  // even if woken, and not after `latest`.
  struct Next {
    absl::Duration earliest = absl::ZeroDuration();
    absl::Duration latest = absl::Seconds(1);
  };

  // Runs `work` at once, on its own thread.
  explicit WakeableLoop(std::function<Next()> work);
  ~WakeableLoop() { Stop(); }
  WakeableLoop(const WakeableLoop&) = delete;
  WakeableLoop& operator=(const WakeableLoop&) = delete;

  void Wake();
  // Waits for the current run. Not from inside the work.
  void Stop();
  bool stopping() const;

 private:
  void Run();

  const std::function<Next()> work_;
  mutable absl::Mutex mutex_;
  bool woken_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_RPC_WAKEABLE_LOOP_H_
