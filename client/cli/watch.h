// Following a job to its end, with progress on stderr.
#ifndef BITWRIGHT_CLIENT_CLI_WATCH_H_
#define BITWRIGHT_CLIENT_CLI_WATCH_H_

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "bitwright/v1/job.pb.h"
#include "client/api/client.h"

namespace bitwright {

struct WatchOptions {
  bool quiet = false;
  absl::Duration timeout = absl::InfiniteDuration();
  // Asked every moment; an error ends the watch with it.
  std::function<absl::Status()> check;
};

// Returns the job in its terminal state. CANCELLED: the user pressed Ctrl-C
// (Interrupted() says so); DEADLINE_EXCEEDED: the timeout passed. The job
// itself goes on in both cases.
absl::StatusOr<v1::Job> WatchToEnd(std::shared_ptr<Client> client,
                                   const std::string& job,
                                   const WatchOptions& options);

// The job for the request: the one that an earlier run of the same command
// made, taken up again if it had failed or been cancelled, or a new one.
absl::StatusOr<v1::Job> CreateOrContinue(Client* client,
                                         const v1::CreateJobRequest& request);

bool IsTerminal(v1::JobState state);

}  // namespace bitwright

#endif  // BITWRIGHT_CLIENT_CLI_WATCH_H_
