// Each command group adds its subcommands to the app; the chosen one runs as a
// CLI11 callback and leaves its exit code in `globals->exit_code`.
#ifndef BITWRIGHT_CLIENT_CLI_COMMANDS_H_
#define BITWRIGHT_CLIENT_CLI_COMMANDS_H_

#include <CLI/CLI.hpp>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bitwright/v1/job.pb.h"

namespace bitwright {

// What every command shares.
struct Globals {
  bool json = false;
  bool quiet = false;
  int exit_code = 0;
};

// Adds --json and --quiet.
void AddOutputOptions(CLI::App* command, Globals* globals);

void AddQuantizeCommand(CLI::App* app, Globals* globals);  // quantize, eval
void AddPlanCommand(CLI::App* app, Globals* globals);
void AddCompareCommand(CLI::App* app, Globals* globals);
void AddJobCommands(CLI::App* app, Globals* globals);  // submit ... workers
void AddCheckpointCommands(CLI::App* app,
                           Globals* globals);  // inspect, verify, export

// Prints "error: ..." to stderr and returns the exit code for `status`.
int ReportError(const absl::Status& status);

// The exit code for a terminal job; prints its error, if any, to stderr.
int ReportJobEnd(const v1::Job& job);

}  // namespace bitwright

#endif  // BITWRIGHT_CLIENT_CLI_COMMANDS_H_
