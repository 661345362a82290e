#include "client/cli/cli.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "client/cli/commands.h"
#include "client/cli/interrupt.h"
#include "client/cli/progress.h"
#include "common/base/exit_code.h"
#include "common/base/version.h"

namespace bitwright {
namespace {

// CLI11 reads the config file before the environment, so that it would come
// too late to name it.
const char* ConfigFromEnvironment() {
  const char* path = std::getenv("BITWRIGHT_CONFIG");
  return path != nullptr && *path != '\0' ? path : nullptr;
}

std::string DefaultConfigPath() {
  if (ConfigFromEnvironment() != nullptr) return ConfigFromEnvironment();
  const char* config_home = std::getenv("XDG_CONFIG_HOME");
  const char* home = std::getenv("HOME");
  const std::string base = config_home != nullptr && *config_home != '\0'
                               ? config_home
                               : absl::StrCat(home ? home : "", "/.config");
  return base + "/bitwright/config.toml";
}

// The environment variable of a flag: "--group-size" is BITWRIGHT_GROUP_SIZE.
std::string EnvironmentName(absl::string_view flag) {
  return absl::StrCat("BITWRIGHT_", absl::AsciiStrToUpper(absl::StrReplaceAll(
                                        flag, {{"-", "_"}})));
}

// CLI11 lets a config file go over the environment; here it is the other way.
class ConfigBelowEnvironment : public CLI::ConfigTOML {
 public:
  std::vector<CLI::ConfigItem> from_config(std::istream& in) const override {
    std::vector<CLI::ConfigItem> items = CLI::ConfigTOML::from_config(in);
    items.erase(std::remove_if(
                    items.begin(), items.end(),
                    [](const CLI::ConfigItem& item) {
                      return std::getenv(EnvironmentName(item.name).c_str()) !=
                             nullptr;
                    }),
                items.end());
    return items;
  }
};

// Lets every long flag of `command` come from the environment too, but for the
// output, which belongs to one call. (An option group is a command without a
// name to CLI11.)
void NameEnvironment(CLI::App* command) {
  for (CLI::Option* option : command->get_options()) {
    if (option->get_lnames().empty() || option == command->get_help_ptr() ||
        option->get_lnames().front() == "output") {
      continue;
    }
    option->envname(EnvironmentName(option->get_lnames().front()));
  }
  for (CLI::App* group : command->get_subcommands({})) NameEnvironment(group);
}

// The command that the arguments call, or null.
CLI::App* CalledCommand(CLI::App* app, int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    for (CLI::App* command : app->get_subcommands({})) {
      if (command->get_name() == argv[i]) return command;
    }
  }
  return nullptr;
}

}  // namespace

void AddOutputOptions(CLI::App* command, Globals* globals) {
  command->add_flag("--json", globals->json, "Results as JSON on stdout");
  command->add_flag("-q,--quiet", globals->quiet, "No progress on stderr");
}

int ReportError(const absl::Status& status) {
  std::cerr << "error: " << status.message() << "\n";
  return ExitCodeFor(status);
}

int ReportJobEnd(const v1::Job& job) {
  switch (job.state()) {
    case v1::JOB_STATE_SUCCEEDED:
      return kExitDone;
    case v1::JOB_STATE_FAILED: {
      const absl::Status error(
          static_cast<absl::StatusCode>(job.error().code()),
          job.error().message());
      std::cerr << "error: " << job.name() << " failed: " << error.message()
                << "\n";
      const ExitCode code = ExitCodeFor(error);
      return code == kExitBadInput || code == kExitNotPermitted ||
                     absl::IsResourceExhausted(error)
                 ? code
                 : kExitJobFailed;
    }
    case v1::JOB_STATE_CANCELLED:
      std::cerr << job.name() << " was cancelled\n";
      return kExitJobFailed;
    default:
      std::cerr << job.name() << " is " << JobStateName(job.state()) << "\n";
      return kExitStillRunning;
  }
}

int RunCli(int argc, char** argv) {
  CatchInterrupts();
  CLI::App app(
      "Bitwright quantizes large language models.\n"
      "Flags go over environment variables, which go over the config file.",
      "bitwright");
  Globals globals;
  app.set_version_flag("--version", absl::StrCat("bitwright ", kVersion));
  // One that was asked for must be there.
  app.set_config("--config", DefaultConfigPath(), "Config file (TOML)",
                 /*config_required=*/ConfigFromEnvironment() != nullptr)
      ->envname("BITWRIGHT_CONFIG");
  app.require_subcommand(1);
  AddQuantizeCommand(&app, &globals);
  AddPlanCommand(&app, &globals);
  AddCompareCommand(&app, &globals);
  AddJobCommands(&app, &globals);
  AddCheckpointCommands(&app, &globals);
  app.config_formatter(std::make_shared<ConfigBelowEnvironment>());
  app.allow_config_extras(CLI::config_extras_mode::error);
  // Of the others even the environment's mistakes do not matter.
  if (CLI::App* called = CalledCommand(&app, argc, argv))
    NameEnvironment(called);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error, std::cout, std::cerr);
    return code == 0 ? kExitDone : kExitBadInput;
  }
  return globals.exit_code;
}

}  // namespace bitwright
