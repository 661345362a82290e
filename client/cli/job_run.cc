#include "client/cli/job_run.h"

#include <iostream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/interrupt.h"
#include "client/cli/spec_options.h"
#include "client/cli/watch.h"
#include "common/base/exit_code.h"
#include "common/base/status_macros.h"

namespace bitwright {
namespace {

// On a private server nobody else waits for the jobs of commands that were
// abandoned; they continue, from what they have, when their command is run
// again.
absl::Status CancelOthers(Client* client, const std::string& request_id) {
  v1::ListJobsRequest request;
  request.set_page_size(1000);
  BW_ASSIGN_OR_RETURN(v1::ListJobsResponse jobs, client->ListJobs(request));
  for (const v1::Job& job : jobs.jobs()) {
    if (job.request_id() == request_id || IsTerminal(job.state())) continue;
    BW_RETURN_IF_ERROR(client->CancelJob(job.name()).status());
  }
  return absl::OkStatus();
}

}  // namespace

void AddServiceOptions(CLI::App* command, ServiceOptions* options) {
  CLI::Option_group* service = command->add_option_group("Service");
  service->add_option("--server", options->server,
                      "Server to use (host:port or unix:/path); without it a "
                      "private one is started");
  service->add_option("--state-dir", options->local.state_dir,
                      "State of the private server [~/.local/state/bitwright]");
  service->add_option("--workers", options->local.workers, "Private workers")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  service
      ->add_option("--threads", options->local.threads,
                   "Threads of each private worker [the cores, shared out]")
      ->check(CLI::Range(1, 4096));
  service->add_option("--device", options->local.device, "auto, cpu or cuda")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
}

absl::StatusOr<Connection> OpenConnection(const ServiceOptions& options) {
  Connection connection;
  ClientOptions client_options;
  client_options.address = options.server;
  if (options.server.empty()) {
    LocalServiceOptions local = options.local;
    if (local.state_dir.empty()) local.state_dir = DefaultStateDir();
    BW_ASSIGN_OR_RETURN(connection.service, LocalService::Start(local));
    client_options.address = connection.service->address();
  }
  connection.address = client_options.address;
  BW_ASSIGN_OR_RETURN(connection.client, Client::Connect(client_options));
  return connection;
}

absl::StatusOr<v1::Job> RunJob(const Connection& connection,
                               const v1::JobSpec& spec, bool quiet) {
  Client* client = connection.client.get();
  if (connection.service) {
    BW_RETURN_IF_ERROR(CancelOthers(client, RequestIdFor(spec)));
  }
  v1::CreateJobRequest request;
  *request.mutable_spec() = spec;
  request.set_request_id(RequestIdFor(spec));
  BW_ASSIGN_OR_RETURN(v1::Job job, CreateOrContinue(client, request));
  WatchOptions watch;
  watch.quiet = quiet;
  watch.check = [&] { return connection.health(); };
  absl::StatusOr<v1::Job> ended =
      WatchToEnd(connection.client, job.name(), watch);
  if (Interrupted() != 0) {
    std::cerr << (connection.service
                      ? "stopped; run the same command again to continue\n"
                      : absl::StrCat("detached; ", job.name(),
                                     " goes on: bitwright watch ", job.name(),
                                     " --server ", connection.address, "\n"));
  }
  return ended;
}

std::optional<int> ExitWithoutResult(const absl::StatusOr<v1::Job>& job) {
  if (Interrupted() != 0) return kExitSignalBase + Interrupted();
  if (!job.ok()) return ReportError(job.status());
  if (job->state() != v1::JOB_STATE_SUCCEEDED) return ReportJobEnd(*job);
  return std::nullopt;
}

}  // namespace bitwright
