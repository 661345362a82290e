// `bitwright compare`: several methods on one calibration, in one table.
//
//   bitwright compare MODEL --calib a.txt --eval b.txt --seeds 0,1,2
//       --methods "ratio --bits 2.2" "gptq --bits 2" "baq --bits @1"
//
// Each method is a row: its name and the flags that quantize would get. @1
// stands for the file bits that the first row took. Rows are jobs like any
// other, so what they have in common is done once.
#include <cstdint>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cli/commands.h"
#include "client/cli/compare_rows.h"
#include "client/cli/job_run.h"
#include "client/cli/spec_options.h"
#include "common/base/exit_code.h"
#include "common/base/status_macros.h"

namespace bitwright {
namespace {

struct CompareOptions {
  SpecOptions base;
  ServiceOptions service;
  std::vector<std::string> methods;
  std::vector<uint64_t> seeds = {0};
};

// Everything that can be refused is, before the first job.
absl::Status CheckRows(const CompareOptions& options) {
  if (options.base.evaluation.empty() &&
      options.base.evaluation_tokens.empty()) {
    return absl::InvalidArgumentError(
        "compare needs a held-out text to judge by: --eval FILE (or "
        "--eval-tokens FILE)");
  }
  for (size_t i = 0; i < options.methods.size(); ++i) {
    // Some bits that every method takes stand for those of earlier rows.
    const std::vector<double> earlier(i, 3);
    BW_ASSIGN_OR_RETURN(
        SpecOptions row,
        ParseCompareRow(options.methods[i], options.base, earlier));
    if (absl::Status status = CheckOptions(row, /*evaluate_only=*/false);
        !status.ok()) {
      return Annotate(status,
                      absl::StrCat("--methods \"", options.methods[i], "\""));
    }
  }
  return absl::OkStatus();
}

// Runs every row with every seed. The last job that did not succeed, if any, is
// what `failed` is set to.
absl::StatusOr<std::vector<CompareRow>> Run(const CompareOptions& options,
                                            bool quiet, v1::Job* failed) {
  BW_ASSIGN_OR_RETURN(Connection connection, OpenConnection(options.service));
  Client* client = connection.client.get();
  std::vector<CompareRow> rows;
  for (const std::string& method : options.methods) {
    rows.push_back({.method = method, .runs = {}});
  }
  for (uint64_t seed : options.seeds) {
    std::vector<double> file_bits;
    for (CompareRow& row : rows) {
      const absl::Time start = absl::Now();
      BW_ASSIGN_OR_RETURN(SpecOptions spec_options,
                          ParseCompareRow(row.method, options.base, file_bits));
      spec_options.seed = seed;
      if (!quiet) std::cerr << row.method << ", seed " << seed << "\n";
      BW_ASSIGN_OR_RETURN(
          v1::JobSpec spec,
          BuildQuantizeSpec(spec_options, [&](const std::string& path) {
            return client->UploadFile(path);
          }));
      BW_ASSIGN_OR_RETURN(v1::Job job, RunJob(connection, spec, quiet));
      if (job.state() != v1::JOB_STATE_SUCCEEDED) {
        *failed = job;
        return rows;
      }
      file_bits.push_back(job.result().file_bits_per_weight());
      row.runs.push_back(
          {.seed = seed,
           .job = job,
           .seconds = absl::ToDoubleSeconds(absl::Now() - start)});
    }
  }
  return rows;
}

int Compare(const CompareOptions& options, const Globals& globals) {
  if (absl::Status status = CheckRows(options); !status.ok()) {
    return ReportError(status);
  }
  v1::Job last;
  last.set_state(v1::JOB_STATE_SUCCEEDED);
  const absl::StatusOr<std::vector<CompareRow>> rows =
      Run(options, globals.quiet, &last);
  absl::StatusOr<v1::Job> ended = last;
  if (!rows.ok()) ended = rows.status();
  if (const std::optional<int> exit = ExitWithoutResult(ended)) return *exit;
  std::cout << (globals.json ? CompareJson(*rows).dump(2) + "\n"
                             : CompareText(*rows));
  return kExitDone;
}

}  // namespace

void AddCompareCommand(CLI::App* app, Globals* globals) {
  auto options = std::make_shared<CompareOptions>();
  CLI::App* command = app->add_subcommand(
      "compare", "Several methods on one calibration, in one table");
  AddModelArgument(command, &options->base);
  command
      ->add_option("--methods", options->methods,
                   "A row for each: the method and its flags, as quantize has "
                   "them, like \"baq --bits 2.5\"; @1 stands for the file bits "
                   "of row 1")
      ->required();
  command
      ->add_option("--seeds", options->seeds,
                   "Seeds of the calibration set; a row shows the mean over "
                   "them")
      ->delimiter(',')
      ->capture_default_str();
  AddCalibrationOptions(command, &options->base);
  AddEvaluationOptions(command, &options->base);
  AddServiceOptions(command, &options->service);
  AddOutputOptions(command, globals);
  command->callback(
      [options, globals] { globals->exit_code = Compare(*options, *globals); });
}

}  // namespace bitwright
