// One server at a time on a state directory: an flock that the kernel frees
// however the holder ends.
#ifndef BITWRIGHT_SERVER_RPC_STATE_LOCK_H_
#define BITWRIGHT_SERVER_RPC_STATE_LOCK_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace bitwright {

class StateLock {
 public:
  // Creates the directory, for its owner only. ABORTED names the process that
  // has the lock.
  static absl::StatusOr<std::unique_ptr<StateLock>> Acquire(
      const std::string& directory);
  ~StateLock();
  StateLock(const StateLock&) = delete;
  StateLock& operator=(const StateLock&) = delete;

 private:
  explicit StateLock(int fd) : fd_(fd) {}
  const int fd_;
};

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_RPC_STATE_LOCK_H_
