// The exit codes of every binary: scripts rely on them.
#ifndef BITWRIGHT_COMMON_BASE_EXIT_CODE_H_
#define BITWRIGHT_COMMON_BASE_EXIT_CODE_H_

#include "absl/status/status.h"

namespace bitwright {

enum ExitCode : int {
  kExitDone = 0,
  kExitInternal = 1,
  kExitInfrastructure = 2,  // Disk full, a child that does not start, ...
  kExitBadInput = 3,
  kExitNotPermitted = 4,
  kExitJobFailed = 5,
  kExitTimedOut = 6,
  kExitStillRunning = 8,
  kExitCannotConnect = 11,
  kExitSignalBase = 128,  // 128 + n: ended by signal n.
};

// OK 0; INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, FAILED_PRECONDITION,
// OUT_OF_RANGE, UNIMPLEMENTED 3; PERMISSION_DENIED, UNAUTHENTICATED 4;
// DEADLINE_EXCEEDED 6; UNAVAILABLE 11; RESOURCE_EXHAUSTED, DATA_LOSS,
// ABORTED 2; everything else 1.
ExitCode ExitCodeFor(const absl::Status& status);

}  // namespace bitwright

#endif  // BITWRIGHT_COMMON_BASE_EXIT_CODE_H_
