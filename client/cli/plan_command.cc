// `bitwright plan`: what each budget would cost, from one calibration, without
// quantizing.
#include <unistd.h>

#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

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
#include "common/base/exit_code.h"
#include "common/base/status_macros.h"

namespace bitwright {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kPlotWidth = 56, kPlotHeight = 12;

struct PlanOptions {
  SpecOptions spec;
  ServiceOptions service;
  std::string bits = "2..4";
  double step = 0.25;
};

Json PlanJson(const v1::Job& job, double seconds) {
  Json json;
  json["job"] = job.name();
  json["method"] =
      job.spec().method().method() == v1::METHOD_GPTQ ? "gptq" : "baq";
  json["scope"] =
      job.spec().method().scope() == v1::SCOPE_MODEL ? "model" : "layer";
  json["budget"] =
      job.spec().method().budget() == v1::BUDGET_CODES ? "codes" : "file";
  json["points"] = Json::array();
  for (const v1::Prediction& prediction : job.result().predictions()) {
    json["points"].push_back(PredictionJson(prediction));
  }
  json["seconds"] = seconds;
  const JobProgress progress = MeasureProgress(job);
  json["tasks"] = {{"total", progress.total}, {"cached", progress.cached}};
  return json;
}

std::string PlanText(const v1::Job& job, bool terminal) {
  Table table({"bits", "code bits", "file bits", "MiB", "loss", "nats a token",
               "perplexity"});
  std::vector<v1::Prediction> predictions(job.result().predictions().begin(),
                                          job.result().predictions().end());
  for (const v1::Prediction& p : predictions) {
    table.AddRow({absl::StrFormat("%g", p.bits()),
                  absl::StrFormat("%.4f", p.code_bits_per_weight()),
                  absl::StrFormat("%.4f", p.file_bits_per_weight()),
                  absl::StrFormat("%.2f", PredictedBytes(p) / 1048576.0),
                  Significant(p.loss(), 5), Significant(p.nll_rise(), 4),
                  Significant(PredictedPerplexity(p), 5)});
  }
  std::string text = table.Render();
  if (!predictions.empty()) {
    absl::StrAppend(
        &text,
        "\nPredicted to second order, on the calibration set, where the model "
        "as it is\nhas perplexity ",
        Significant(predictions[0].calibration_perplexity(), 5),
        ". Good for comparing budgets; the true rise is larger,\nand at few "
        "bits by far. MiB: the quantized tensors.\n");
  }
  if (terminal) {
    absl::StrAppend(&text, "\n",
                    PlotPredictions(predictions, kPlotWidth, kPlotHeight));
  }
  return text;
}

int RunPlan(PlanOptions options, const Globals& globals) {
  const absl::Time start = absl::Now();
  auto run = [&]() -> absl::StatusOr<v1::Job> {
    BW_ASSIGN_OR_RETURN(options.spec.plan_bits,
                        ParsePlanBits(options.bits, options.step));
    BW_RETURN_IF_ERROR(CheckOptions(options.spec, /*evaluate_only=*/false));
    BW_ASSIGN_OR_RETURN(Connection connection, OpenConnection(options.service));
    Client* client = connection.client.get();
    BW_ASSIGN_OR_RETURN(
        v1::JobSpec spec,
        BuildPlanSpec(options.spec, [&](const std::string& path) {
          return client->UploadFile(path);
        }));
    return RunJob(connection, spec, globals.quiet);
  };
  absl::StatusOr<v1::Job> job = run();
  if (const std::optional<int> exit = ExitWithoutResult(job)) return *exit;
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  std::cout << (globals.json ? PlanJson(*job, seconds).dump(2) + "\n"
                             : PlanText(*job, isatty(STDOUT_FILENO) != 0));
  return kExitDone;
}

}  // namespace

void AddPlanCommand(CLI::App* app, Globals* globals) {
  auto options = std::make_shared<PlanOptions>();
  CLI::App* command = app->add_subcommand(
      "plan",
      "Predict loss against size from one calibration, and quantize "
      "nothing");
  AddModelArgument(command, &options->spec);
  command
      ->add_option("--bits", options->bits,
                   "Budgets: a range like 2..4, or a list like 2,2.5,3")
      ->capture_default_str();
  command->add_option("--step", options->step, "Step of the range")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  AddPlanOptions(command, &options->spec);
  AddServiceOptions(command, &options->service);
  AddOutputOptions(command, globals);
  command->callback(
      [options, globals] { globals->exit_code = RunPlan(*options, *globals); });
}

}  // namespace bitwright
