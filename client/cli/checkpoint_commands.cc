// `bitwright inspect`, `verify` and `export`: what needs no server.
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/commands.h"
#include "client/cli/console.h"
#include "client/cli/equal_loss.h"
#include "client/cli/ratio_table.h"
#include "common/base/exit_code.h"
#include "common/checkpoint/checkpoint_writer.h"

namespace bitwright {
namespace {

using Json = nlohmann::ordered_json;

Json LayerJson(const LayerDescription& layer) {
  Json json = {{"name", layer.name},
               {"rows", layer.rows},
               {"cols", layer.cols},
               {"bits", layer.code_bits},
               {"file_bits", layer.file_bits},
               {"loss", layer.loss},
               {"uniform_loss", layer.uniform_loss}};
  Json report =
      Json::parse(layer.report_json, nullptr, /*allow_exceptions=*/false);
  if (!report.is_discarded()) json["report"] = std::move(report);
  if (auto losses = EqualLossOf(layer); losses.has_value()) {
    json["equal_loss"] = EqualLossJson(*losses);
  }
  return json;
}

Json DescriptionJson(const CheckpointDescription& description) {
  Json layers = Json::array();
  std::vector<LayerEqualLoss> losses;
  for (const LayerDescription& layer : description.layers) {
    layers.push_back(LayerJson(layer));
    if (auto found = EqualLossOf(layer)) losses.push_back(*std::move(found));
  }
  Json json = {{"format", description.format},
               {"method", description.method},
               {"bits_per_weight",
                {{"codes", description.code_bits_per_weight},
                 {"file", description.file_bits_per_weight}}},
               {"quantized_weights", description.quantized_weights},
               {"other_weights", description.other_weights},
               {"layers", std::move(layers)}};
  if (!losses.empty()) json["equal_loss"] = EqualLossJson(Together(losses));
  return json;
}

std::string DescriptionText(const CheckpointDescription& description) {
  std::string ratios = RatioTableText(description);
  if (!ratios.empty()) ratios += "\n";
  Table table(
      {"layer", "rows", "cols", "bits", "file bits", "loss", "uniform loss"});
  for (const LayerDescription& layer : description.layers) {
    table.AddRow(
        {layer.name, absl::StrCat(layer.rows), absl::StrCat(layer.cols),
         absl::StrFormat("%.4f", layer.code_bits),
         absl::StrFormat("%.4f", layer.file_bits), Significant(layer.loss, 5),
         Significant(layer.uniform_loss, 5)});
  }
  return absl::StrCat(
      "format ", description.format, ", method ", description.method, "\n",
      absl::StrFormat("bits per weight: %.4f codes, %.4f file (%d quantized "
                      "weights, %d others)\n\n",
                      description.code_bits_per_weight,
                      description.file_bits_per_weight,
                      description.quantized_weights, description.other_weights),
      ratios, table.Render(),
      "\nuniform loss: every column at 2^bits levels, side information not "
      "counted\n\n",
      EqualLossText(description));
}

int Inspect(const std::string& checkpoint, const std::string& linear,
            const Globals& globals) {
  absl::StatusOr<CheckpointDescription> description =
      DescribeCheckpoint(checkpoint);
  if (!description.ok()) return ReportError(description.status());
  if (!linear.empty()) {
    absl::StatusOr<LayerDescription> layer = FindLinear(*description, linear);
    if (!layer.ok()) return ReportError(layer.status());
    std::cout << (globals.json ? LayerJson(*layer).dump(2) + "\n"
                               : LinearText(*layer));
    return kExitDone;
  }
  std::cout << (globals.json ? DescriptionJson(*description).dump(2) + "\n"
                             : DescriptionText(*description));
  return kExitDone;
}

int Verify(const std::string& checkpoint, const Globals& globals) {
  absl::StatusOr<VerifyReport> report = VerifyCheckpoint(checkpoint);
  if (!report.ok()) return ReportError(report.status());
  if (globals.json) {
    Json json = {{"ok", report->problems.empty()},
                 {"files", report->files},
                 {"tensors", report->tensors},
                 {"quantized_linears", report->quantized_linears},
                 {"bytes", report->bytes},
                 {"problems", report->problems}};
    std::cout << json.dump(2) << "\n";
  } else if (report->problems.empty()) {
    std::cout << absl::StrFormat(
        "%s is whole: %d files, %s, %d tensors, %d quantized linears\n",
        checkpoint, report->files, HumanBytes(report->bytes), report->tensors,
        report->quantized_linears);
  }
  for (const std::string& problem : report->problems)
    std::cerr << "problem: " << problem << "\n";
  return report->problems.empty() ? kExitDone : kExitBadInput;
}

int Export(const std::string& checkpoint, const std::string& output,
           const Globals& globals) {
  if (absl::Status status = ExportDense(checkpoint, output); !status.ok()) {
    return ReportError(status);
  }
  if (globals.json) {
    std::cout << Json{{"checkpoint", output}, {"format", "dense"}}.dump(2)
              << "\n";
  } else {
    std::cout << "dense checkpoint: " << output << "\n";
  }
  return kExitDone;
}

}  // namespace

void AddCheckpointCommands(CLI::App* app, Globals* globals) {
  auto checkpoint = std::make_shared<std::string>();
  auto output = std::make_shared<std::string>();

  CLI::App* inspect =
      app->add_subcommand("inspect", "What a checkpoint holds, layer by layer");
  inspect->add_option("CKPT", *checkpoint, "Checkpoint directory")->required();
  auto linear = std::make_shared<std::string>();
  inspect->add_option("--linear", *linear,
                      "One linear in detail: its name, or how it ends");
  AddOutputOptions(inspect, globals);
  inspect->callback(
      [=] { globals->exit_code = Inspect(*checkpoint, *linear, *globals); });

  CLI::App* verify = app->add_subcommand(
      "verify", "Whether a checkpoint is whole and consistent");
  verify->add_option("CKPT", *checkpoint, "Checkpoint directory")->required();
  AddOutputOptions(verify, globals);
  verify->callback([=] { globals->exit_code = Verify(*checkpoint, *globals); });

  CLI::App* export_command =
      app->add_subcommand("export", "A native checkpoint in another format");
  export_command->add_option("CKPT", *checkpoint, "Native checkpoint directory")
      ->required();
  export_command->add_option("--format", "Target format")
      ->check(CLI::IsMember({"dense"}))
      ->default_str("dense");
  export_command->add_option("-o,--output", *output, "Directory to make")
      ->required();
  AddOutputOptions(export_command, globals);
  export_command->callback(
      [=] { globals->exit_code = Export(*checkpoint, *output, *globals); });
}

}  // namespace bitwright
