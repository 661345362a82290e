// allocate: one budget over all linears, from their curves and sensitivities
// (worker.proto, AllocateParameters; math.md §3c).
//
// What a rounding error costs: let E = Ŵ − W, x_t a linear's input and g_t the
// gradient of a sequence's negative log-likelihood at its output for token t.
// To second order, with the expected Hessian in the form of the Fisher
// information, that sequence loses ½ (Σ_t g_t·E x_t)² on average. Different
// tokens taken as uncorrelated, and g as independent of x and between rows, as
// K-FAC does:
//
//   ½ Σ_i γ_i Σ_t (E x_t)_i² = ½ Σ_i γ_i (E (½H) Eᵀ)_ii  ≈  ¼ s · tr(E H Eᵀ)
//
// because H = (2/n) Σ x xᵀ sums over the tokens of the mean sequence; γ_i is
// the mean squared gradient of row i. The sensitivity s is the mean of γ over
// the rows, each by its share of the error, which goes with the square of the
// range that its grid spans. Linears add. nll_rise is that, per predicted
// token.
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status_macros.h"
#include "worker/quant/baq.h"
#include "worker/quant/model_scope.h"
#include "worker/quant/parallel.h"
#include "worker/runtime/allocation_blob.h"
#include "worker/runtime/executor.h"
#include "worker/runtime/task_inputs.h"

namespace bitwright {
namespace {

// A linear of the model and where its curves are.
struct Source {
  LinearSpec linear;
  int module = 0;  // Fusion group: linears that read one tensor.
  std::string path;
};

struct Calibration {
  std::vector<double> sensitivities;  // By linear, in the model's order.
  int64_t sequences = 0, predictions = 0;
  double nll = 0;
};

absl::StatusOr<std::vector<Source>> FindSources(const TaskContext& context) {
  const ModelConfig& config = context.model->config();
  std::vector<Source> sources;
  int module = -1;
  for (int64_t block = 0; block < config.num_layers; ++block) {
    std::string group;
    for (const LinearSpec& linear : BlockLinears(config, block)) {
      if (linear.hessian_group != group) ++module;
      group = linear.hessian_group;
      BW_ASSIGN_OR_RETURN(std::string path, context.inputs->Path(absl::StrCat(
                                                "curves.", linear.name)));
      sources.push_back({linear, module, std::move(path)});
    }
  }
  return sources;
}

// Σ_i spread_i · squares_i / Σ_i spread_i.
double MeanOverRows(const std::vector<double>& squares,
                    const std::vector<double>& spreads) {
  double weighted = 0, total = 0;
  for (size_t i = 0; i < squares.size(); ++i) {
    weighted += spreads[i] * squares[i];
    total += spreads[i];
  }
  return total > 0 ? weighted / total : 0;  // All weights are zero.
}

// Adds one block's shards, in shard order: s = mean over rows of Σ g² / tokens.
absl::Status AddSensitivities(const TaskContext& context, int64_t block,
                              Calibration* out) {
  const ModelConfig& config = context.model->config();
  const std::vector<LinearSpec> linears = BlockLinears(config, block);
  std::vector<std::vector<double>> spreads;
  for (const LinearSpec& linear : linears) {
    BW_ASSIGN_OR_RETURN(
        std::unique_ptr<SafetensorsFile> file,
        OpenInput(context, absl::StrCat("curves.", linear.name)));
    BW_ASSIGN_OR_RETURN(spreads.emplace_back(),
                        ReadDoubles(*file, "row_spread", {linear.rows}));
  }
  std::vector<double> sums(linears.size());
  int64_t tokens = 0;
  for (const std::string& name : InputsWithPrefix(
           *context.action, absl::StrFormat("sensitivity.%04d.", block))) {
    BW_ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file,
                        OpenInput(context, name));
    BW_ASSIGN_OR_RETURN(int64_t count, IntegerOf(*file, name, "tokens"));
    tokens += count;
    for (size_t l = 0; l < linears.size(); ++l) {
      BW_ASSIGN_OR_RETURN(
          std::vector<double> squares,
          ReadDoubles(*file, linears[l].name, {linears[l].rows}));
      sums[l] += MeanOverRows(squares, spreads[l]);
    }
    if (block < config.num_layers - 1) continue;
    BW_ASSIGN_OR_RETURN(double nll, DoubleOf(*file, name, "nll"));
    BW_ASSIGN_OR_RETURN(int64_t sequences, IntegerOf(*file, name, "sequences"));
    BW_ASSIGN_OR_RETURN(int64_t predictions,
                        IntegerOf(*file, name, "predictions"));
    out->nll += nll;
    out->sequences += sequences;
    out->predictions += predictions;
  }
  if (tokens == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the task has no sensitivities of block ", block, " over any token"));
  }
  for (double sum : sums) {
    out->sensitivities.push_back(sum / static_cast<double>(tokens));
  }
  return absl::OkStatus();
}

absl::StatusOr<quant::TradeOff> ReadTradeOff(const Source& source,
                                             quant::Budget budget) {
  const LinearSpec& linear = source.linear;
  const std::string input = absl::StrCat("curves.", linear.name);
  auto file = SafetensorsFile::Open(source.path);
  if (!file.ok()) {
    return Annotate(file.status(), absl::StrCat("input ", input));
  }
  BW_ASSIGN_OR_RETURN(int64_t groups, IntegerOf(**file, input, "groups"));
  BW_ASSIGN_OR_RETURN(std::vector<int64_t> counts,
                      (*file)->ReadIntegers("counts"));
  const std::vector<int>& measured = quant::MeasuredLevelCounts();
  if (counts != std::vector<int64_t>(measured.begin(), measured.end())) {
    return absl::InvalidArgumentError(absl::StrCat(
        "input ", input,
        " was measured at other level counts; run workers of one version"));
  }
  BW_ASSIGN_OR_RETURN(
      std::vector<double> distortion,
      ReadDoubles(**file, "distortion",
                  {linear.cols, static_cast<int64_t>(counts.size())}));
  // The columns' weights, and the half, are in the curves already.
  const std::vector<double> weights(linear.cols, 2.0);
  return quant::TradeOff::Create({.name = linear.name,
                                  .rows = linear.rows,
                                  .columns = linear.cols,
                                  .groups = groups},
                                 quant::ExpandCurves(distortion, weights),
                                 budget);
}

absl::StatusOr<std::vector<quant::TradeOff>> ReadTradeOffs(
    const TaskContext& context, const std::vector<Source>& sources) {
  const quant::Budget budget =
      context.action->allocate().method().budget() == v1::BUDGET_CODES
          ? quant::Budget::kCodes
          : quant::Budget::kFile;
  std::vector<absl::StatusOr<quant::TradeOff>> read(sources.size());
  quant::ParallelFor(static_cast<int64_t>(sources.size()), [&](int64_t l) {
    read[l] = ReadTradeOff(sources[l], budget);
  });
  std::vector<quant::TradeOff> linears;
  for (absl::StatusOr<quant::TradeOff>& linear : read) {
    BW_RETURN_IF_ERROR(linear.status());
    linears.push_back(*std::move(linear));
  }
  return linears;
}

absl::StatusOr<quant::ModelAllocation> Allocate(
    const v1::MethodSpec& method, const std::vector<Source>& sources,
    const std::vector<quant::TradeOff>& linears,
    const std::vector<double>& sensitivities) {
  const bool uniform = method.method() == v1::METHOD_GPTQ;
  if (method.scope() == v1::SCOPE_MODEL &&
      method.granularity() != v1::GRANULARITY_MODULE) {
    return quant::WaterFill(linears, sensitivities, method.bits());
  }
  if (method.scope() == v1::SCOPE_MODEL) {
    std::vector<int> modules;
    for (const Source& source : sources) modules.push_back(source.module);
    return quant::AllocateModules(linears, sensitivities, modules,
                                  uniform ? quant::ModuleColumns::kUniform
                                          : quant::ModuleColumns::kAllocated,
                                  method.bits());
  }
  return uniform ? quant::SpreadLevels(linears, sensitivities,
                                       static_cast<int>(method.bits()))
                 : quant::SpreadEvenly(linears, sensitivities, method.bits());
}

AllocationBlob Describe(const v1::MethodSpec& method,
                        const std::vector<Source>& sources,
                        const Calibration& calibration,
                        const quant::ModelAllocation& allocation) {
  AllocationBlob blob{.method = method,
                      .prediction = {},
                      .nll = calibration.nll,
                      .predictions = calibration.predictions,
                      .achieved_bits = allocation.bits,
                      .linears = {}};
  int64_t weights = 0;
  for (size_t l = 0; l < sources.size(); ++l) {
    const LinearSpec& linear = sources[l].linear;
    weights += linear.rows * linear.cols;
    blob.linears.push_back({.name = linear.name,
                            .rows = linear.rows,
                            .cols = linear.cols,
                            .sensitivity = calibration.sensitivities[l],
                            .allocation = allocation.linears[l]});
  }
  const double predictions = static_cast<double>(calibration.predictions);
  v1::Prediction& p = blob.prediction;
  p.set_bits(method.bits());
  p.set_code_bits_per_weight(allocation.code_bits);
  p.set_file_bits_per_weight(allocation.file_bits);
  p.set_quantized_weights(weights);
  p.set_loss(allocation.loss);
  p.set_weighted_loss(allocation.weighted_loss);
  p.set_nll_rise(0.25 * allocation.weighted_loss *
                 static_cast<double>(calibration.sequences) / predictions);
  p.set_calibration_perplexity(std::exp(calibration.nll / predictions));
  return blob;
}

}  // namespace

absl::StatusOr<TaskResult> ExecuteAllocate(const TaskContext& context) {
  const v1::MethodSpec& method = context.action->allocate().method();
  BW_ASSIGN_OR_RETURN(std::vector<Source> sources, FindSources(context));
  Calibration calibration;
  for (int64_t b = 0; b < context.model->config().num_layers; ++b) {
    BW_RETURN_IF_ERROR(AddSensitivities(context, b, &calibration));
  }
  if (calibration.predictions == 0) {
    return absl::InvalidArgumentError(
        "the calibration set has no token that is predicted");
  }
  context.control->SetFraction(0.1);
  BW_RETURN_IF_ERROR(context.control->Check());
  BW_ASSIGN_OR_RETURN(std::vector<quant::TradeOff> linears,
                      ReadTradeOffs(context, sources));
  context.control->SetFraction(0.7);
  BW_RETURN_IF_ERROR(context.control->Check());
  BW_ASSIGN_OR_RETURN(
      quant::ModelAllocation allocation,
      Allocate(method, sources, linears, calibration.sensitivities));
  AllocationBlob blob = Describe(method, sources, calibration, allocation);
  TaskResult result;
  *result.summary.mutable_allocate() = blob.prediction;
  result.outputs.push_back(
      {.name = "allocation", .bytes = SerializeAllocation(blob)});
  return result;
}

}  // namespace bitwright
