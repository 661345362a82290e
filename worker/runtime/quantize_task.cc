// quantize: one linear from the Hessians of all shards (worker.proto,
// QuantizeParameters; math.md §1 to §3).
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status_macros.h"
#include "common/checkpoint/native.h"
#include "nlohmann/json.hpp"
#include "worker/quant/quantizer.h"
#include "worker/runtime/allocation_blob.h"
#include "worker/runtime/column_losses.h"
#include "worker/runtime/executor.h"
#include "worker/runtime/linear_inputs.h"
#include "worker/runtime/row_bits.h"
#include "worker/runtime/solution_blob.h"
#include "worker/runtime/task_inputs.h"

namespace bitwright {
namespace {

absl::StatusOr<quant::QuantizeOptions> ToOptions(const v1::MethodSpec& spec) {
  quant::QuantizeOptions options = GridOptions(spec);
  switch (spec.method()) {
    case v1::METHOD_RTN:
      options.method = quant::Method::kRtn;
      break;
    case v1::METHOD_GPTQ:
    case v1::METHOD_RATIO:  // With bits by rows.
      options.method = quant::Method::kGptq;
      break;
    case v1::METHOD_BAQ:
      options.method = quant::Method::kBaq;
      break;
    default:
      return absl::UnimplementedError(
          absl::StrCat("this worker does not know method ", spec.method()));
  }
  options.variant = spec.variant() == v1::VARIANT_REFERENCE
                        ? quant::BaqVariant::kReference
                        : quant::BaqVariant::kExact;
  options.bits = spec.bits();
  if (spec.has_refine_sweeps()) options.refine_sweeps = spec.refine_sweeps();
  options.budget = spec.budget() == v1::BUDGET_CODES ? quant::Budget::kCodes
                                                     : quant::Budget::kFile;
  return options;
}

QuantizedLinear ToNative(const quant::QuantizedResult& result,
                         int64_t group_size) {
  QuantizedLinear linear;
  linear.rows = result.rows;
  linear.cols = result.columns;
  linear.group_size = group_size;
  linear.levels = result.levels;
  linear.row_bits = result.row_bits;
  auto halves = [](const std::vector<float>& values) {
    std::vector<uint16_t> bits(values.size());
    std::transform(values.begin(), values.end(), bits.begin(), FloatToHalf);
    return bits;
  };
  linear.range_min = halves(result.range_min);
  linear.range_max = halves(result.range_max);
  linear.codes = result.row_bits.empty()
                     ? PackCodes(result.codes, result.rows, result.levels)
                     : PackRowCodes(result.codes, result.columns,
                                    result.row_bits, result.f16_rows);
  return linear;
}

// What a reader of the file decodes must be what the quantizer measured.
absl::Status CheckDecodes(const QuantizedLinear& linear,
                          const quant::QuantizedResult& result,
                          absl::string_view name) {
  BW_ASSIGN_OR_RETURN(std::vector<float> decoded, Dequantize(linear));
  const std::vector<float> expected = quant::DequantizeResult(result);
  if (decoded.size() == expected.size() &&
      std::memcmp(decoded.data(), expected.data(),
                  expected.size() * sizeof(float)) == 0) {
    return absl::OkStatus();
  }
  return absl::InternalError(absl::StrCat(
      name, ": the packed form does not decode to the quantizer's values; ",
      "please report this as a bug"));
}

absl::string_view MethodName(v1::Method method) {
  switch (method) {
    case v1::METHOD_RTN:
      return "rtn";
    case v1::METHOD_GPTQ:
      return "gptq";
    case v1::METHOD_BAQ:
      return "baq";
    case v1::METHOD_RATIO:
      return "ratio";
    default:
      return "";
  }
}

// What the model's budget leaves for this linear; nothing if every linear has
// the same bits.
absl::StatusOr<std::optional<AllocatedLinear>> ReadShare(
    const TaskContext& context, const std::string& linear) {
  if (InputsWithPrefix(*context.action, "allocation").empty()) {
    return std::nullopt;
  }
  BW_ASSIGN_OR_RETURN(std::string path, context.inputs->Path("allocation"));
  BW_ASSIGN_OR_RETURN(std::string text, ReadFile(path));
  return FindInAllocation(text, linear);
}

// The share of rows that the solution gives this linear; nothing for methods
// other than ratio. Sets the bits of its rows.
absl::StatusOr<std::optional<ChosenRatio>> ReadRatio(
    const TaskContext& context, const LinearSpec& linear,
    quant::QuantizeOptions* options) {
  if (context.action->quantize().method().method() != v1::METHOD_RATIO) {
    return std::nullopt;
  }
  BW_ASSIGN_OR_RETURN(std::string path, context.inputs->Path("solution"));
  BW_ASSIGN_OR_RETURN(std::string text, ReadFile(path));
  BW_ASSIGN_OR_RETURN(const ChosenRatio chosen,
                      FindInSolution(text, linear.name));
  BW_ASSIGN_OR_RETURN(const std::vector<double> scores,
                      ReadRowScores(context, linear));
  options->row_bits =
      RowBits(scores, chosen.ratio, chosen.bits_normal, chosen.bits_high);
  options->bits = chosen.bits_normal;
  return chosen;
}

// How many columns have each level count, or rows each count of bits.
template <typename Count>
nlohmann::ordered_json Histogram(const std::vector<Count>& counts) {
  std::map<int, int64_t> histogram;
  for (const Count count : counts) ++histogram[count];
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  for (const auto& [count, times] : histogram) {
    json[absl::StrCat(count)] = times;
  }
  return json;
}

nlohmann::ordered_json RatioReport(const ChosenRatio& ratio,
                                   const std::vector<uint8_t>& row_bits) {
  return {{"share", ratio.ratio},
          {"high_rows", std::count(row_bits.begin(), row_bits.end(),
                                   static_cast<uint8_t>(ratio.bits_high))},
          {"bits_normal", ratio.bits_normal},
          {"bits_high", ratio.bits_high}};
}

// What the job asks of this linear.
struct Asked {
  v1::Method method = v1::METHOD_UNSPECIFIED;
  double bits = 0;
  std::optional<AllocatedLinear> share = {};
  std::optional<ChosenRatio> ratio = {};
};

// Everything but the times: blobs are pure.
std::string Report(const quant::QuantizedResult& result,
                   const QuantizedLinear& linear, const Asked& asked,
                   bool has_hessian, double uniform_loss) {
  nlohmann::ordered_json report;
  report["method"] = std::string(MethodName(asked.method));
  report["loss"] = result.loss;
  // Without a Hessian the loss is ‖W − Ŵ‖², not comparable with the others.
  report["loss_kind"] = has_hessian ? "hessian" : "squared_error";
  report["uniform_loss"] = uniform_loss;
  report["code_bits"] = linear.CodeBitsPerWeight();
  report["file_bits"] = linear.FileBitsPerWeight();
  report["gm_over_am"] = result.gm_over_am;
  report["damping"] = result.factor.damping;
  report["damping_attempts"] = result.factor.attempts;
  report["diagonal_fallback"] = result.factor.diagonal_fallback;
  report["dead_columns"] = result.factor.dead_columns;
  if (asked.ratio.has_value()) {
    report["ratio"] = RatioReport(*asked.ratio, result.row_bits);
    report["row_bits_histogram"] = Histogram(result.row_bits);
  } else {
    report["levels_histogram"] = Histogram(result.levels);
  }
  report["column_loss"] = DescribeColumnLosses(result.column_loss);
  if (!result.uniform_column_loss.empty()) {
    // Of every column in the pass that uniform_loss is of.
    report["uniform_levels"] = result.uniform_levels;
    report["uniform_column_loss"] =
        DescribeColumnLosses(result.uniform_column_loss);
  }
  report["scope"] =
      asked.share.has_value() || asked.ratio.has_value() ? "model" : "layer";
  report["asked_bits"] = asked.bits;
  if (asked.share.has_value()) {
    report["sensitivity"] = asked.share->sensitivity;
    report["predicted_loss"] = asked.share->allocation.loss;
  }
  return report.dump();
}

void Summarize(const quant::QuantizedResult& result, double uniform_loss,
               double code_bits, TaskResult* task) {
  v1::QuantizeSummary* summary = task->summary.mutable_quantize();
  summary->set_loss(result.loss);
  summary->set_uniform_loss(uniform_loss);
  summary->set_code_bits_per_weight(code_bits);
  summary->set_damping(result.factor.damping);
  summary->set_damping_attempts(result.factor.attempts);
  summary->set_diagonal_fallback(result.factor.diagonal_fallback);
  task->counters.damping_retries = std::max(0, result.factor.attempts - 1);
  task->counters.diagonal_fallbacks = result.factor.diagonal_fallback ? 1 : 0;
}

}  // namespace

absl::StatusOr<TaskResult> ExecuteQuantize(const TaskContext& context) {
  const v1::QuantizeParameters& parameters = context.action->quantize();
  BW_ASSIGN_OR_RETURN(LinearSpec spec,
                      FindLinear(context.model->config(), parameters.block(),
                                 parameters.linear()));
  BW_ASSIGN_OR_RETURN(quant::QuantizeOptions options,
                      ToOptions(parameters.method()));
  Asked asked{.method = parameters.method().method()};
  BW_ASSIGN_OR_RETURN(asked.share, ReadShare(context, spec.name));
  options.device = context.model->QuantizerDevice();
  if (asked.share.has_value()) options.bits = asked.share->allocation.bits;
  asked.bits = options.bits;
  BW_ASSIGN_OR_RETURN(asked.ratio, ReadRatio(context, spec, &options));
  BW_ASSIGN_OR_RETURN(std::vector<float> hessian, ReduceShards(context, spec));
  context.control->SetFraction(0.1);
  BW_RETURN_IF_ERROR(context.control->Check());
  BW_ASSIGN_OR_RETURN(std::vector<float> weight,
                      context.model->directory().ReadFloats(
                          absl::StrCat(spec.name, ".weight")));

  auto quantized = quant::QuantizeLinear({.weight = weight.data(),
                                          .rows = spec.rows,
                                          .columns = spec.cols,
                                          .hessian = hessian,
                                          .sequences = 0},
                                         options);
  if (!quantized.ok()) return Annotate(quantized.status(), spec.name);
  const bool has_hessian = !hessian.empty();
  hessian = {};
  weight = {};
  context.control->SetFraction(0.9);
  BW_RETURN_IF_ERROR(context.control->Check());

  const QuantizedLinear linear = ToNative(*quantized, options.group_size);
  BW_RETURN_IF_ERROR(CheckDecodes(linear, *quantized, spec.name));
  // RTN and GPTQ are the uniform pass.
  const double uniform_loss = options.method == quant::Method::kBaq
                                  ? quantized->uniform_loss
                                  : quantized->loss;
  TaskResult result;
  Summarize(*quantized, uniform_loss, linear.CodeBitsPerWeight(), &result);
  result.outputs.push_back(
      {.name = "linear",
       .bytes =
           SerializeLinearBlob({.name = spec.name,
                                .linear = linear,
                                .report = Report(*quantized, linear, asked,
                                                 has_hessian, uniform_loss)})});
  return result;
}

}  // namespace bitwright
