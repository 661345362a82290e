// How long a worker puts up with a server that does not answer: every call that
// finds it away is repeated, with growing pauses, until it is back, the worker
// gives up or the worker is asked to stop.
//
//   Patience patience(/*give_up_after=*/absl::InfiniteDuration());
//   absl::Status status = patience.Retry("CompleteTask", [&] {
//     return api->CompleteTask(request);
//   });
#ifndef BITWRIGHT_WORKER_RUNTIME_PATIENCE_H_
#define BITWRIGHT_WORKER_RUNTIME_PATIENCE_H_

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace bitwright {

// Thread-safe.
class Patience {
 public:
  explicit Patience(absl::Duration give_up_after,
                    absl::Duration first_pause = absl::Milliseconds(100),
                    absl::Duration longest_pause = absl::Seconds(2))
      : give_up_after_(give_up_after),
        first_pause_(first_pause),
        longest_pause_(longest_pause) {}

  // The result of the last call of `call`, which is repeated while it returns
  // UNAVAILABLE or DEADLINE_EXCEEDED. `what` is for the log.
  absl::Status Retry(absl::string_view what,
                     absl::FunctionRef<absl::Status()> call);

  // From `time` on nothing is repeated any more.
  void StopAt(absl::Time time);

 private:
  // False when it is time to stop instead.
  bool Pause(absl::Duration pause, absl::Time give_up);

  const absl::Duration give_up_after_, first_pause_, longest_pause_;
  absl::Mutex mutex_;
  absl::Time stop_at_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
};

}  // namespace bitwright

#endif  // BITWRIGHT_WORKER_RUNTIME_PATIENCE_H_
