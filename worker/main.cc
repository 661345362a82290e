// bitwright-worker: computes what a server has to compute.
//
//   bitwright-worker --server host:8470
//   bitwright-worker quantize-layer IN.safetensors -o OUT.safetensors ...
//   bitwright-worker solve-ratio PROBLEM.json --json
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>

#include "CLI/CLI.hpp"
#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "client/api/client.h"
#include "common/base/exit_code.h"
#include "common/base/status_macros.h"
#include "common/base/version.h"
#include "spdlog/sinks/stdout_color_sinks.h"
#include "spdlog/spdlog.h"
#include "worker/model/decoder_model.h"
#include "worker/quant/blas_kernels.h"
#include "worker/quant/parallel.h"
#include "worker/runtime/quantize_layer.h"
#include "worker/runtime/signal_watch.h"
#include "worker/runtime/solve_ratio_command.h"
#include "worker/runtime/worker.h"
#include "worker/runtime/worker_place.h"

namespace bitwright {
namespace {

// Longer than the default --drain-timeout of the worker that leaves.
constexpr absl::Duration kHandover = absl::Seconds(15);

struct Flags {
  std::string server = "localhost:8470";
  std::string name;
  std::string device = "auto";
  int threads = 0;
  std::string cache_dir;
  uint64_t cache_bytes = uint64_t{8} << 30;
  std::string metrics_address;
  std::string log_level = "info";
  double drain_timeout = 10;
  double give_up_after = 0;
  int lease_ahead = 0;
  bool exit_with_parent = false;
};

void AddFlags(CLI::App* app, Flags* flags) {
  auto env = [](CLI::Option* option, const char* name) {
    return option->envname(name)->capture_default_str();
  };
  env(app->add_option("--server", flags->server,
                      "The server: host:port or unix:/path"),
      "BITWRIGHT_SERVER");
  env(app->add_option("--name", flags->name,
                      "Stable name, unique among the server's workers "
                      "(default: from the host and the cache directory)"),
      "BITWRIGHT_WORKER_NAME");
  env(app->add_option("--device", flags->device, "auto, cpu or cuda")
          ->check(CLI::IsMember({"auto", "cpu", "cuda"})),
      "BITWRIGHT_DEVICE");
  env(app->add_option("--threads", flags->threads,
                      "Threads to compute with; 0: one a core. Results do not "
                      "depend on it")
          ->check(CLI::Range(0, 4096)),
      "BITWRIGHT_THREADS");
  env(app->add_option("--cache-dir", flags->cache_dir,
                      "Where blobs are kept; not shared between workers: "
                      "another one's is waited for, 15 seconds long "
                      "(default: a free one below ~/.cache/bitwright)"),
      "BITWRIGHT_CACHE_DIR");
  env(app->add_option("--cache-bytes", flags->cache_bytes,
                      "Size that the cache is kept to, e.g. 8GB")
          ->transform(CLI::AsSizeValue(false)),
      "BITWRIGHT_CACHE_BYTES");
  env(app->add_option("--metrics-address", flags->metrics_address,
                      "host:port to serve Prometheus metrics on, at /metrics"),
      "BITWRIGHT_METRICS_ADDRESS");
  env(app->add_option("--log-level", flags->log_level,
                      "trace, debug, info, warn, error, critical or off")
          ->check(CLI::IsMember(
              {"trace", "debug", "info", "warn", "error", "critical", "off"})),
      "BITWRIGHT_LOG_LEVEL");
  env(app->add_option("--drain-timeout", flags->drain_timeout,
                      "Seconds that a running task may take to finish after "
                      "SIGTERM")
          ->check(CLI::NonNegativeNumber),
      "BITWRIGHT_DRAIN_TIMEOUT");
  env(app->add_option("--give-up-after", flags->give_up_after,
                      "Seconds without the server after which to exit; 0: "
                      "never")
          ->check(CLI::NonNegativeNumber),
      "BITWRIGHT_GIVE_UP_AFTER");
  env(app->add_option("--lease-ahead", flags->lease_ahead,
                      "Tasks to hold beside the running one, so that their "
                      "inputs arrive meanwhile; for slow networks")
          ->check(CLI::Range(0, 16)),
      "BITWRIGHT_LEASE_AHEAD");
  app->add_flag("--exit-with-parent", flags->exit_with_parent,
                "End when the process that started this one ends");
}

absl::StatusOr<std::unique_ptr<ServerApi>> Connect(const Flags& flags,
                                                   Patience* patience) {
  std::unique_ptr<Client> client;
  BW_RETURN_IF_ERROR(patience->Retry("connect", [&]() -> absl::Status {
    // Patience is this process's own, so that it can be interrupted.
    BW_ASSIGN_OR_RETURN(client, Client::Connect({.address = flags.server,
                                                 .retry_for = absl::Seconds(1)},
                                                absl::Seconds(2)));
    return absl::OkStatus();
  }));
  return MakeServerApi(std::move(client));
}

// `parent` started this process: when it has gone there is nobody to wait for.
absl::Duration DrainTime(const Flags& flags, pid_t parent) {
  if (flags.exit_with_parent && getppid() != parent) {
    return absl::ZeroDuration();
  }
  return absl::Seconds(flags.drain_timeout);
}

absl::Status Serve(const Flags& flags, pid_t parent) {
  BW_ASSIGN_OR_RETURN(std::unique_ptr<SignalWatch> signals,
                      SignalWatch::Start());
  // A device that is not there is this worker's trouble, not its tasks'.
  BW_ASSIGN_OR_RETURN(const std::string device,
                      model::ResolveDevice(flags.device));
  const absl::Duration give_up = flags.give_up_after > 0
                                     ? absl::Seconds(flags.give_up_after)
                                     : absl::InfiniteDuration();
  Patience connecting(give_up), patience(give_up);
  absl::Notification interrupted;
  signals->OnSignal([&](int) {
    interrupted.Notify();
    connecting.StopAt(absl::InfinitePast());
  });
  const absl::Cleanup no_callback = [&] { signals->OnSignal(nullptr); };
  // The place first: it is the worker before this one that gives it up, and
  // with it the metrics' address.
  auto place = OpenWorkerPlace(flags.cache_dir, flags.cache_bytes, kHandover,
                               interrupted);
  if (interrupted.HasBeenNotified()) return absl::OkStatus();
  BW_RETURN_IF_ERROR(place.status());
  WorkerMetrics metrics;
  if (!flags.metrics_address.empty()) {
    BW_RETURN_IF_ERROR(metrics.Serve(flags.metrics_address));
  }
  auto api = Connect(flags, &connecting);
  if (interrupted.HasBeenNotified()) return absl::OkStatus();
  BW_RETURN_IF_ERROR(api.status());

  quant::SetThreads(flags.threads);
  BlobFetcher fetcher(api->get(), place->cache.get(), &patience, &metrics);
  ModelProvider models(&fetcher, device);
  std::unique_ptr<TaskRunner> runner =
      MakeTaskRunner(&fetcher, &models, &metrics);
  Worker worker(api->get(), runner.get(), &patience, &metrics,
                {.name = flags.name.empty() ? place->name : flags.name,
                 .device = device,
                 .version = kVersion,
                 .give_up_after = give_up,
                 .lease_ahead = flags.lease_ahead,
                 .on_drain_expired = [] {
                   // What still computes is nobody's any more, and whatever is
                   // on disk is whole.
                   spdlog::default_logger()->flush();
                   _exit(kExitDone);
                 }});
  signals->OnSignal([&](int signal) {
    spdlog::info("signal {}: draining", signal);
    worker.Drain(DrainTime(flags, parent));
  });
  const absl::Status status = worker.Run();
  signals->OnSignal(nullptr);
  return status;
}

int RunWorker(int argc, char** argv) {
  CLI::App app(
      "Computes the tasks of a Bitwright server until it is stopped.\n"
      "`bitwright-worker quantize-layer --help`: one matrix, without a "
      "server.\n"
      "`bitwright-worker solve-ratio --help`: one choice of ratios, likewise.",
      "bitwright-worker");
  app.set_version_flag("--version", kVersion);
  Flags flags;
  AddFlags(&app, &flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? kExitDone : kExitBadInput;
  }
  const pid_t parent = getppid();
  if (flags.exit_with_parent) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) return kExitDone;
  }
  spdlog::set_default_logger(spdlog::stderr_color_mt("worker"));
  spdlog::set_level(spdlog::level::from_str(flags.log_level));
  const absl::Status status = Serve(flags, parent);
  if (!status.ok()) {
    std::fprintf(stderr, "bitwright-worker: %s\n", status.ToString().c_str());
  }
  return ExitCodeFor(status);
}

}  // namespace
}  // namespace bitwright

int main(int argc, char** argv) {
  bitwright::quant::RestartWithFastBlas(argv);
  if (argc > 1 && std::string(argv[1]) == "quantize-layer") {
    return bitwright::QuantizeLayerCommand(argc - 1, argv + 1);
  }
  if (argc > 1 && std::string(argv[1]) == "solve-ratio") {
    return bitwright::SolveRatioCommand(argc - 1, argv + 1);
  }
  if (argc > 1 && std::string(argv[1]) == "run") {
    --argc;
    ++argv;
  }
  return bitwright::RunWorker(argc, argv);
}
