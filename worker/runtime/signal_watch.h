// SIGTERM and SIGINT as a call on an ordinary thread.
//
//   BW_ASSIGN_OR_RETURN(auto signals, SignalWatch::Start());
//   signals->OnSignal([&](int signal) { worker.Drain(timeout); });
//   ...
//   signals->OnSignal(nullptr);   // Before what it calls goes away.
//
// A second signal ends the process at once, with 128 + signal.
#ifndef BITWRIGHT_WORKER_RUNTIME_SIGNAL_WATCH_H_
#define BITWRIGHT_WORKER_RUNTIME_SIGNAL_WATCH_H_

#include <functional>
#include <memory>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"

namespace bitwright {

// One in a process. Thread-safe.
class SignalWatch {
 public:
  static absl::StatusOr<std::unique_ptr<SignalWatch>> Start();
  ~SignalWatch();

  // Replaces the callback, and waits for one that runs. If a signal came
  // before, calls the new one at once.
  void OnSignal(std::function<void(int)> callback);

 private:
  SignalWatch() : thread_([this] { Loop(); }) {}
  void Loop();

  absl::Mutex mutex_;
  int received_ ABSL_GUARDED_BY(mutex_) = 0;
  std::function<void(int)> callback_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace bitwright

#endif  // BITWRIGHT_WORKER_RUNTIME_SIGNAL_WATCH_H_
