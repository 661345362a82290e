// The server's command line and environment. A flag wins over its variable.
#ifndef BITWRIGHT_SERVER_RPC_SERVER_OPTIONS_H_
#define BITWRIGHT_SERVER_RPC_SERVER_OPTIONS_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/scheduler/scheduler.h"

namespace bitwright {

struct ServerOptions {
  std::vector<std::string> listen = {"127.0.0.1:8470"};
  std::string state_dir;
  std::vector<std::string> model_roots;
  SchedulerOptions scheduler;
  std::string metrics_address;  // Empty: no metrics page.
  bool enable_reflection = false;
  bool insecure_allow_remote = false;
  bool exit_with_parent = false;
  std::string log_level = "info";
  int ready_fd = -1;
  std::string ready_file;
};

// Fills in `options`, or returns the exit code with which to end at once, its
// message (help, version or error) printed.
std::optional<int> ParseServerOptions(int argc, const char* const* argv,
                                      ServerOptions* options);

// Tells whoever started the server the addresses it serves, one a line.
absl::Status AnnounceReady(const ServerOptions& options,
                           const std::vector<std::string>& addresses);

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_RPC_SERVER_OPTIONS_H_
