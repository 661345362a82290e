// bitwright-server: the coordinator. See server/rpc/server_app.h.
#include <signal.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <optional>
#include <string>

#include "common/base/exit_code.h"
#include "server/rpc/server_app.h"
#include "server/rpc/server_options.h"

namespace bitwright {
namespace {

// What keeps the server from starting is a bad option, a missing permission, or
// the machine.
int ExitCodeForStart(const absl::Status& status) {
  if (absl::IsInvalidArgument(status) || absl::IsPermissionDenied(status)) {
    return ExitCodeFor(status);
  }
  return kExitInfrastructure;
}

// Until SIGTERM or SIGINT, or until the parent is not `parent` any more.
std::string AwaitEnd(const sigset_t& signals, std::optional<pid_t> parent) {
  while (true) {
    const timespec second = {1, 0};
    const int signal = sigtimedwait(&signals, nullptr, &second);
    if (signal > 0) return strsignal(signal);
    if (parent && getppid() != *parent) return "the end of the parent process";
  }
}

int Main(int argc, char** argv) {
  const pid_t parent = getppid();
  // Before any thread starts: all of them inherit it.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);

  ServerOptions options;
  if (std::optional<int> code = ParseServerOptions(argc, argv, &options)) {
    return *code;
  }
  spdlog::set_default_logger(spdlog::stderr_color_mt("server"));
  spdlog::set_level(spdlog::level::from_str(options.log_level));
  if (options.exit_with_parent) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) return kExitDone;
  }

  auto server = ServerApp::Start(options);
  if (!server.ok()) {
    spdlog::critical("{}", std::string(server.status().message()));
    return ExitCodeForStart(server.status());
  }
  for (const std::string& address : (*server)->addresses()) {
    spdlog::info("serving on {}, state in {}", address, options.state_dir);
  }
  if (!(*server)->metrics_address().empty()) {
    spdlog::info("metrics on http://{}/metrics", (*server)->metrics_address());
  }
  absl::Status ready = AnnounceReady(options, (*server)->addresses());
  if (!ready.ok()) {
    spdlog::critical("{}", std::string(ready.message()));
    return kExitInfrastructure;
  }
  const std::string why =
      AwaitEnd(signals, options.exit_with_parent ? std::optional<pid_t>(parent)
                                                 : std::nullopt);
  spdlog::info("shutting down after {}", why);
  (*server)->Shutdown();
  return kExitDone;
}

}  // namespace
}  // namespace bitwright

int main(int argc, char** argv) { return bitwright::Main(argc, argv); }
