#include "server/rpc/server_options.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdlib>
#include <iostream>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/exit_code.h"
#include "common/base/file.h"

namespace bitwright {
namespace {

constexpr char kFooter[] =
    "Every option can also be given as BITWRIGHT_<NAME>, e.g. "
    "BITWRIGHT_STATE_DIR.\n\n"
    "Security: this version has no TLS and no access tokens yet. It listens on "
    "the\nloopback interface or on a Unix socket (mode 0600) only, unless "
    "--insecure-allow-remote\nis given: then everybody who reaches the port "
    "may "
    "read every model below --model-root\nand run jobs.\n\n"
    "Exit codes: 0 after SIGTERM or SIGINT, 1 internal error, 2 cannot start "
    "(state directory\nor address in use, disk full), 3 bad option, 4 not "
    "permitted.";

// "30s", "1m30s".
std::string CheckDuration(const std::string& text) {
  absl::Duration duration;
  if (absl::ParseDuration(text, &duration) && duration > absl::ZeroDuration() &&
      duration < absl::Hours(24 * 365)) {
    return "";
  }
  return absl::StrCat("\"", text, "\" is not a duration such as 30s or 2m");
}

std::string DefaultStateDir() {
  const char* home = std::getenv("HOME");
  return absl::StrCat(home == nullptr ? "/tmp" : home,
                      "/.local/state/bitwright/server");
}

struct Raw {
  std::string lease_duration, session_timeout;
};

void AddServingOptions(CLI::App* app, ServerOptions* options) {
  app->add_option("--listen", options->listen,
                  "Address to serve on: host:port (port 0: a free one), "
                  "[ipv6]:port or unix:/path; may be repeated")
      ->envname("BITWRIGHT_LISTEN")
      ->delimiter(',')
      ->capture_default_str();
  app->add_flag("--insecure-allow-remote", options->insecure_allow_remote,
                "Serve on addresses that other machines can reach, without "
                "encryption or access control")
      ->envname("BITWRIGHT_INSECURE_ALLOW_REMOTE");
  app->add_option("--metrics-address", options->metrics_address,
                  "host:port of the Prometheus page /metrics (default: none)")
      ->envname("BITWRIGHT_METRICS_ADDRESS");
  app->add_flag("--enable-reflection", options->enable_reflection,
                "Serve gRPC reflection, for grpcurl and the like")
      ->envname("BITWRIGHT_ENABLE_REFLECTION");
  app->add_option("--log-level", options->log_level, "Messages to stderr")
      ->envname("BITWRIGHT_LOG_LEVEL")
      ->check(CLI::IsMember(
          {"trace", "debug", "info", "warn", "error", "critical", "off"}))
      ->capture_default_str();
}

void AddStateOptions(CLI::App* app, ServerOptions* options, Raw* raw) {
  options->state_dir = DefaultStateDir();
  app->add_option("--state-dir", options->state_dir,
                  "Jobs, blobs and checkpoints; one server at a time")
      ->envname("BITWRIGHT_STATE_DIR")
      ->capture_default_str();
  app->add_option("--model-root", options->model_roots,
                  "Directory below which models may be read; may be repeated "
                  "(default: none, so no job is accepted)")
      ->envname("BITWRIGHT_MODEL_ROOT")
      ->delimiter(',');
  raw->lease_duration = absl::FormatDuration(options->scheduler.lease_duration);
  app->add_option(
         "--lease-duration", raw->lease_duration,
         "A task is taken back from a worker that was silent this long")
      ->envname("BITWRIGHT_LEASE_DURATION")
      ->check(CheckDuration)
      ->capture_default_str();
  raw->session_timeout =
      absl::FormatDuration(options->scheduler.session_timeout);
  app->add_option("--session-timeout", raw->session_timeout,
                  "A worker that was silent this long counts as gone")
      ->envname("BITWRIGHT_SESSION_TIMEOUT")
      ->check(CheckDuration)
      ->capture_default_str();
  app->add_option("--max-attempts", options->scheduler.max_attempts,
                  "Attempts after which a failing task fails its job")
      ->envname("BITWRIGHT_MAX_ATTEMPTS")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
}

void AddProcessOptions(CLI::App* app, ServerOptions* options) {
  app->add_flag("--exit-with-parent", options->exit_with_parent,
                "End when the process that started this one ends");
  app->add_option("--ready-fd", options->ready_fd,
                  "File descriptor to write the addresses to, one a line, once "
                  "they are served");
  app->add_option("--ready-file", options->ready_file,
                  "The same, to a file that appears whole");
}

}  // namespace

std::optional<int> ParseServerOptions(int argc, const char* const* argv,
                                      ServerOptions* options) {
  CLI::App app("bitwright-server: coordinates quantization jobs.",
               "bitwright-server");
  app.set_version_flag("--version", BITWRIGHT_VERSION);
  app.footer(kFooter);
  Raw raw;
  AddServingOptions(&app, options);
  AddStateOptions(&app, options, &raw);
  AddProcessOptions(&app, options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error, std::cout, std::cerr);
    return code == 0 ? kExitDone : kExitBadInput;
  }
  absl::ParseDuration(raw.lease_duration, &options->scheduler.lease_duration);
  absl::ParseDuration(raw.session_timeout, &options->scheduler.session_timeout);
  return std::nullopt;
}

absl::Status AnnounceReady(const ServerOptions& options,
                           const std::vector<std::string>& addresses) {
  const std::string text = absl::StrCat(absl::StrJoin(addresses, "\n"), "\n");
  if (options.ready_fd >= 0) {
    const ssize_t written = write(options.ready_fd, text.data(), text.size());
    const int error_number = errno;
    close(options.ready_fd);
    if (written != static_cast<ssize_t>(text.size())) {
      return ErrnoStatus(error_number, "cannot write to",
                         absl::StrCat("--ready-fd ", options.ready_fd));
    }
  }
  if (options.ready_file.empty()) return absl::OkStatus();
  return WriteFileAtomically(options.ready_file, text);
}

}  // namespace bitwright
