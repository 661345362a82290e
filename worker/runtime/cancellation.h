// Asks a running task to stop, and tells how far it has come.
//
//   TaskControl control;
//   // In the task, wherever it is cheap:
//   BW_RETURN_IF_ERROR(control.Check());   // CANCELLED once asked to stop
//   control.SetFraction(0.5);
//   // Elsewhere:
//   control.Cancel();
#ifndef BITWRIGHT_WORKER_RUNTIME_CANCELLATION_H_
#define BITWRIGHT_WORKER_RUNTIME_CANCELLATION_H_

#include <atomic>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

namespace bitwright {

// Thread-safe.
class TaskControl {
 public:
  void Cancel() { cancelled_.store(true, std::memory_order_relaxed); }
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }
  // CANCELLED after Cancel(), else OK.
  absl::Status Check() const {
    return cancelled() ? absl::CancelledError("the task was asked to stop")
                       : absl::OkStatus();
  }

  // In [0, 1]; sent with the heartbeat.
  void SetFraction(double fraction) {
    fraction_.store(fraction, std::memory_order_relaxed);
  }
  double fraction() const { return fraction_.load(std::memory_order_relaxed); }
  // For people, e.g. "block 2, iteration 500 of 5000, loss 0.012": logged, and
  // sent with the heartbeat.
  void SetNote(std::string note) {
    absl::MutexLock lock(&mutex_);
    note_ = std::move(note);
  }
  std::string note() const {
    absl::MutexLock lock(&mutex_);
    return note_;
  }

 private:
  std::atomic<bool> cancelled_ = false;
  std::atomic<double> fraction_ = 0;
  mutable absl::Mutex mutex_;
  std::string note_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bitwright

#endif  // BITWRIGHT_WORKER_RUNTIME_CANCELLATION_H_
