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
#include "worker/runtime/executor.h"
#include "worker/runtime/linear_inputs.h"
#include "worker/runtime/linear_output.h"
#include "worker/runtime/row_bits.h"
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
  if (asked.method == v1::METHOD_RATIO) {
    BW_ASSIGN_OR_RETURN(ChosenRows rows, ReadChosenRows(context, spec));
    options.bits = rows.ratio.bits_normal;
    options.row_bits = std::move(rows.bits);
    asked.ratio = rows.ratio;
  }
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

  BW_ASSIGN_OR_RETURN(const QuantizedLinear linear,
                      PackLinear(spec.name, *quantized, options.group_size));
  // RTN and GPTQ are the uniform pass.
  const double uniform_loss = options.method == quant::Method::kBaq
                                  ? quantized->uniform_loss
                                  : quantized->loss;
  TaskResult result;
  Summarize(*quantized, uniform_loss, linear.CodeBitsPerWeight(), &result);
  result.outputs.push_back(LinearOutput(
      "linear", spec.name, linear,
      DescribeLinear(*quantized, linear, asked, has_hessian, uniform_loss)));
  return result;
}

}  // namespace bitwright
