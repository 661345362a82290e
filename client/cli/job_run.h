// One job from start to end, on a private service or on a given server: what
// quantize, eval and plan share.
//
//   ServiceOptions options;
//   AddServiceOptions(command, &options);
//   ... BW_ASSIGN_OR_RETURN(Connection connection, OpenConnection(options));
//   BW_ASSIGN_OR_RETURN(v1::Job job, RunJob(connection, spec, quiet));
#ifndef BITWRIGHT_CLIENT_CLI_JOB_RUN_H_
#define BITWRIGHT_CLIENT_CLI_JOB_RUN_H_

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bitwright/v1/job.pb.h"
#include "client/api/client.h"
#include "client/cli/local_service.h"

namespace bitwright {

struct ServiceOptions {
  LocalServiceOptions local;
  std::string server;  // Empty: a private one.
};

void AddServiceOptions(CLI::App* command, ServiceOptions* options);

// A server to talk to, and the private service behind it if there is one.
struct Connection {
  std::unique_ptr<LocalService> service;
  std::shared_ptr<Client> client;
  std::string address;

  absl::Status health() const {
    return service ? service->health() : absl::OkStatus();
  }
};

absl::StatusOr<Connection> OpenConnection(const ServiceOptions& options);

// Runs the job to its end. On Ctrl-C says how to go on.
absl::StatusOr<v1::Job> RunJob(const Connection& connection,
                               const v1::JobSpec& spec, bool quiet);

// What RunJob ended as, or why it did not begin, said on stderr: the exit code.
// None when the job succeeded and its result is to be shown.
std::optional<int> ExitWithoutResult(const absl::StatusOr<v1::Job>& job);

}  // namespace bitwright

#endif  // BITWRIGHT_CLIENT_CLI_JOB_RUN_H_
