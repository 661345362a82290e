// `bitwright quantize` and `bitwright eval`: one job from start to end, on a
// private service or on a given server.
#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/api/client.h"
#include "client/cli/commands.h"
#include "client/cli/console.h"
#include "client/cli/interrupt.h"
#include "client/cli/job_run.h"
#include "client/cli/prediction.h"
#include "client/cli/progress.h"
#include "client/cli/spec_options.h"
#include "client/cli/watch.h"
#include "common/base/exit_code.h"
#include "common/base/status_macros.h"
#include "common/checkpoint/checkpoint_writer.h"

namespace bitwright {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct RunOptions {
  SpecOptions spec;
  ServiceOptions service;
  std::string output;
};

absl::StatusOr<std::optional<v1::Job>> FindJob(Client* client,
                                               const std::string& request_id) {
  v1::ListJobsRequest request;
  request.set_page_size(1000);
  while (true) {
    BW_ASSIGN_OR_RETURN(v1::ListJobsResponse page, client->ListJobs(request));
    for (const v1::Job& job : page.jobs()) {
      if (job.request_id() == request_id) return job;
    }
    if (page.next_page_token().empty()) return std::nullopt;
    request.set_page_token(page.next_page_token());
  }
}

bool IsNonEmptyDirectory(const std::string& path) {
  std::error_code error;
  return fs::is_directory(path, error) && !fs::is_empty(path, error);
}

// Whether `directory` holds exactly the files of `manifest`.
absl::StatusOr<bool> HoldsCheckpoint(const std::string& directory,
                                     const v1::CheckpointManifest& manifest) {
  int64_t files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    files += entry.is_regular_file();
  }
  if (files != manifest.files_size()) return false;
  for (const v1::CheckpointFile& file : manifest.files()) {
    absl::StatusOr<Digest> digest =
        DigestOfFile(absl::StrCat(directory, "/", file.path()));
    if (absl::IsNotFound(digest.status())) return false;
    BW_RETURN_IF_ERROR(digest.status());
    if (*digest != FromProto(file.digest())) return false;
  }
  return true;
}

absl::Status CheckManifestPath(const std::string& path) {
  const fs::path relative(path);
  bool escapes = path.empty() || relative.is_absolute();
  for (const fs::path& part : relative) escapes = escapes || part == "..";
  if (!escapes) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("the checkpoint names a file outside itself: ", path));
}

absl::Status Download(Client* client, const v1::CheckpointManifest& manifest,
                      const std::string& output) {
  return PublishDirectory(
      output, [&](const std::string& temporary) -> absl::Status {
        for (const v1::CheckpointFile& file : manifest.files()) {
          BW_RETURN_IF_ERROR(CheckManifestPath(file.path()));
          const fs::path target = fs::path(temporary) / file.path();
          std::error_code error;
          fs::create_directories(target.parent_path(), error);
          BW_RETURN_IF_ERROR(
              client->DownloadFile(FromProto(file.digest()), target.string()));
        }
        BW_ASSIGN_OR_RETURN(VerifyReport report, VerifyCheckpoint(temporary));
        if (!report.problems.empty()) {
          return absl::DataLossError(
              absl::StrCat("the checkpoint that was made does not verify: ",
                           report.problems.front()));
        }
        return absl::OkStatus();
      });
}

// Refuses an output that is taken, unless an earlier run of the same command
// may have put its checkpoint there.
absl::Status CheckOutput(const RunOptions& options) {
  if (options.output.empty()) {
    return absl::InvalidArgumentError("-o needs a directory to make");
  }
  if (IsNonEmptyDirectory(options.output) &&
      fs::exists(options.output + "/bitwright.json")) {
    return absl::OkStatus();
  }
  return CheckPublishable(options.output);
}

absl::Status RefuseForeignOutput(Client* client, const v1::JobSpec& spec,
                                 const std::string& output) {
  if (!IsNonEmptyDirectory(output)) return absl::OkStatus();
  BW_ASSIGN_OR_RETURN(std::optional<v1::Job> job,
                      FindJob(client, RequestIdFor(spec)));
  if (job.has_value() && job->state() == v1::JOB_STATE_SUCCEEDED) {
    BW_ASSIGN_OR_RETURN(v1::Checkpoint checkpoint,
                        client->GetCheckpoint(job->result().checkpoint()));
    BW_ASSIGN_OR_RETURN(bool same,
                        HoldsCheckpoint(output, checkpoint.manifest()));
    if (same) return absl::OkStatus();
  }
  return absl::AlreadyExistsError(absl::StrCat(
      output,
      " holds another checkpoint; give an -o that does not exist or is empty"));
}

Json QuantizeJson(const v1::Job& job, const std::string& output,
                  double seconds) {
  const v1::JobResult& result = job.result();
  Json json;
  json["job"] = job.name();
  json["checkpoint"] = output;
  json["bits_per_weight"] = {{"codes", result.code_bits_per_weight()},
                             {"file", result.file_bits_per_weight()}};
  json["perplexity"] = {{"before", nullptr}, {"after", nullptr}};
  if (result.has_perplexity_before()) {
    json["perplexity"]["before"] = result.perplexity_before().perplexity();
  }
  if (result.has_perplexity_after()) {
    json["perplexity"]["after"] = result.perplexity_after().perplexity();
    json["perplexity"]["seqlen"] = result.perplexity_after().seqlen();
    json["perplexity"]["windows"] = result.perplexity_after().windows();
  }
  if (job.spec().method().scope() == v1::SCOPE_MODEL &&
      result.predictions_size() == 1) {
    json["predicted"] = PredictionJson(result.predictions(0));
  }
  if (result.has_ratio()) {
    json["ratio"] = {{"objective", result.ratio().objective()},
                     {"bits", result.ratio().bits()},
                     {"optimal", result.ratio().optimal()}};
  }
  json["seconds"] = seconds;
  const JobProgress progress = MeasureProgress(job);
  json["tasks"] = {{"total", progress.total}, {"cached", progress.cached}};
  return json;
}

std::string QuantizeText(const v1::Job& job, const std::string& output,
                         double seconds) {
  const v1::JobResult& result = job.result();
  const JobProgress progress = MeasureProgress(job);
  Table table({"result", ""});
  table.AddRow({"checkpoint", output});
  table.AddRow(
      {"bits per weight",
       absl::StrFormat("%.4f codes, %.4f file", result.code_bits_per_weight(),
                       result.file_bits_per_weight())});
  if (result.has_perplexity_before() && result.has_perplexity_after()) {
    table.AddRow({"perplexity",
                  absl::StrFormat(
                      "%s before, %s after (%d windows of %d tokens)",
                      Significant(result.perplexity_before().perplexity(), 6),
                      Significant(result.perplexity_after().perplexity(), 6),
                      result.perplexity_after().windows(),
                      result.perplexity_after().seqlen())});
  }
  if (job.spec().method().scope() == v1::SCOPE_MODEL &&
      result.predictions_size() == 1) {
    table.AddRow({"predicted", PredictionText(result.predictions(0))});
  }
  if (result.has_ratio()) {
    table.AddRow(
        {"ratios",
         absl::StrFormat("output moves by %s in mean square%s",
                         Significant(result.ratio().objective() / 2, 4),
                         result.ratio().optimal() ? ", proven optimal" : "")});
  }
  table.AddRow({"tasks", absl::StrCat(progress.total, ", ", progress.cached,
                                      " of them reused from earlier work")});
  table.AddRow({"job", job.name()});
  table.AddRow({"time", HumanDuration(absl::Seconds(seconds))});
  return table.Render();
}

int Quantize(const RunOptions& options, const Globals& globals) {
  const absl::Time start = absl::Now();
  auto run = [&]() -> absl::StatusOr<v1::Job> {
    BW_RETURN_IF_ERROR(CheckOptions(options.spec, /*evaluate_only=*/false));
    BW_RETURN_IF_ERROR(CheckOutput(options));
    BW_ASSIGN_OR_RETURN(Connection connection, OpenConnection(options.service));
    Client* client = connection.client.get();
    BW_ASSIGN_OR_RETURN(
        v1::JobSpec spec,
        BuildQuantizeSpec(options.spec, [&](const std::string& path) {
          return client->UploadFile(path);
        }));
    BW_RETURN_IF_ERROR(RefuseForeignOutput(client, spec, options.output));
    BW_ASSIGN_OR_RETURN(v1::Job job, RunJob(connection, spec, globals.quiet));
    if (job.state() != v1::JOB_STATE_SUCCEEDED) return job;
    BW_ASSIGN_OR_RETURN(v1::Checkpoint checkpoint,
                        client->GetCheckpoint(job.result().checkpoint()));
    if (IsNonEmptyDirectory(options.output)) {
      BW_ASSIGN_OR_RETURN(
          bool same, HoldsCheckpoint(options.output, checkpoint.manifest()));
      if (same) return job;
    }
    BW_RETURN_IF_ERROR(Download(client, checkpoint.manifest(), options.output));
    return job;
  };
  absl::StatusOr<v1::Job> job = run();
  if (const std::optional<int> exit = ExitWithoutResult(job)) return *exit;
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  std::cout << (globals.json
                    ? QuantizeJson(*job, options.output, seconds).dump(2) + "\n"
                    : QuantizeText(*job, options.output, seconds));
  return kExitDone;
}

int Evaluate(const RunOptions& options, const Globals& globals) {
  auto run = [&]() -> absl::StatusOr<v1::Job> {
    BW_RETURN_IF_ERROR(CheckOptions(options.spec, /*evaluate_only=*/true));
    BW_ASSIGN_OR_RETURN(Connection connection, OpenConnection(options.service));
    Client* client = connection.client.get();
    BW_ASSIGN_OR_RETURN(
        v1::JobSpec spec,
        BuildEvaluateSpec(options.spec, [&](const std::string& path) {
          return client->UploadFile(path);
        }));
    return RunJob(connection, spec, globals.quiet);
  };
  absl::StatusOr<v1::Job> job = run();
  if (const std::optional<int> exit = ExitWithoutResult(job)) return *exit;
  const v1::Perplexity& result = job->result().perplexity_before();
  if (globals.json) {
    Json json = {{"perplexity", result.perplexity()},
                 {"tokens", result.text_tokens()},
                 {"predictions", result.tokens()},
                 {"windows", result.windows()},
                 {"seqlen", result.seqlen()}};
    std::cout << json.dump(2) << "\n";
  } else {
    std::cout << absl::StrFormat(
        "perplexity %s  (%d windows of %d tokens, %d predictions)\n",
        Significant(result.perplexity(), 7), result.windows(), result.seqlen(),
        result.tokens());
  }
  return kExitDone;
}

void AddEvalCommand(CLI::App* app, Globals* globals) {
  auto options = std::make_shared<RunOptions>();
  CLI::App* command = app->add_subcommand(
      "eval",
      "Perplexity of a model: an original, a native or a dense checkpoint");
  AddModelArgument(command, &options->spec);
  command->add_option("--text", options->spec.evaluation, "Held-out text");
  command->add_option(
      "--tokens", options->spec.evaluation_tokens,
      "Held-out token ids instead of text: safetensors with `tokens`");
  command->add_option(
      "--seqlen", options->spec.evaluation_seqlen,
      "Tokens a window [2048, or the model's context if shorter]");
  AddServiceOptions(command, &options->service);
  AddOutputOptions(command, globals);
  command->callback([options, globals] {
    if (options->spec.evaluation.empty() &&
        options->spec.evaluation_tokens.empty()) {
      globals->exit_code = ReportError(absl::InvalidArgumentError(
          "eval needs --text FILE (or --tokens FILE)"));
      return;
    }
    globals->exit_code = Evaluate(*options, *globals);
  });
}

}  // namespace

void AddQuantizeCommand(CLI::App* app, Globals* globals) {
  auto options = std::make_shared<RunOptions>();
  CLI::App* command = app->add_subcommand(
      "quantize", "Quantize a model, from directory to directory");
  AddModelArgument(command, &options->spec);
  command
      ->add_option("-o,--output", options->output,
                   "Checkpoint directory to make")
      ->required();
  AddQuantizationOptions(command, &options->spec);
  AddEvaluationOptions(command, &options->spec);
  AddServiceOptions(command, &options->service);
  AddOutputOptions(command, globals);
  command->callback([options, globals] {
    globals->exit_code = Quantize(*options, *globals);
  });
  AddEvalCommand(app, globals);
}

}  // namespace bitwright
