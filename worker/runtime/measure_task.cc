// measure: what each level count would cost each column of one linear
// (worker.proto, MeasureParameters; math.md §3b).
#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/checkpoint/safetensors.h"
#include "worker/quant/baq.h"
#include "worker/quant/quantizer.h"
#include "worker/runtime/executor.h"
#include "worker/runtime/linear_inputs.h"
#include "worker/runtime/task_inputs.h"

namespace bitwright {
namespace {

// Where a grid depends on the bits (symmetric ones, and the search for the
// clip), the curves are those of this grid: they may not depend on the budget.
constexpr double kMeasuredBits = 3;

// [rows] Σ over the row's grids of range² times their columns: what the row's
// rounding errors are in proportion to, whatever the levels.
std::vector<double> RowSpreads(const std::vector<float>& weight,
                               const LinearSpec& spec, int64_t group_size) {
  const int64_t width = group_size > 0 ? group_size : spec.cols;
  std::vector<double> spreads(spec.rows);
  for (int64_t r = 0; r < spec.rows; ++r) {
    const float* row = weight.data() + r * spec.cols;
    for (int64_t first = 0; first < spec.cols; first += width) {
      const int64_t end = std::min(spec.cols, first + width);
      float low = 0, high = 0;
      for (int64_t j = first; j < end; ++j) {
        low = std::min(low, row[j]);
        high = std::max(high, row[j]);
      }
      const double range = static_cast<double>(high) - low;
      spreads[r] += range * range * static_cast<double>(end - first);
    }
  }
  return spreads;
}

std::string CurvesBlob(const quant::LinearCurves& curves,
                       const std::vector<double>& spreads,
                       const std::string& name) {
  const std::vector<int>& measured = quant::MeasuredLevelCounts();
  const std::vector<int32_t> counts(measured.begin(), measured.end());
  const int64_t points = static_cast<int64_t>(counts.size());
  Tensor distortion, levels, rows;
  distortion.spec = {.name = "distortion",
                     .dtype = DType::kF64,
                     .shape = {curves.columns, points}};
  distortion.bytes = std::string(BytesOf(curves.distortion));
  levels.spec = {.name = "counts", .dtype = DType::kI32, .shape = {points}};
  levels.bytes = std::string(BytesOf(counts));
  rows.spec = {.name = "row_spread",
               .dtype = DType::kF64,
               .shape = {static_cast<int64_t>(spreads.size())}};
  rows.bytes = std::string(BytesOf(spreads));
  return SerializeSafetensors({distortion, levels, rows},
                              {{"name", name},
                               {"rows", absl::StrCat(curves.rows)},
                               {"columns", absl::StrCat(curves.columns)},
                               {"groups", absl::StrCat(curves.groups)}});
}

}  // namespace

absl::StatusOr<TaskResult> ExecuteMeasure(const TaskContext& context) {
  const v1::MeasureParameters& parameters = context.action->measure();
  BW_ASSIGN_OR_RETURN(LinearSpec spec,
                      FindLinear(context.model->config(), parameters.block(),
                                 parameters.linear()));
  quant::QuantizeOptions options = GridOptions(parameters.method());
  options.bits = kMeasuredBits;
  options.device = context.model->QuantizerDevice();
  BW_ASSIGN_OR_RETURN(std::vector<float> hessian, ReduceShards(context, spec));
  if (hessian.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(spec.name, ": the task has no Hessian as its input"));
  }
  context.control->SetFraction(0.1);
  BW_RETURN_IF_ERROR(context.control->Check());
  BW_ASSIGN_OR_RETURN(std::vector<float> weight,
                      context.model->directory().ReadFloats(
                          absl::StrCat(spec.name, ".weight")));
  auto curves = quant::MeasureLinear({.weight = weight.data(),
                                      .rows = spec.rows,
                                      .columns = spec.cols,
                                      .hessian = hessian,
                                      .sequences = 0},
                                     options);
  if (!curves.ok()) return Annotate(curves.status(), spec.name);
  BW_RETURN_IF_ERROR(context.control->Check());

  TaskResult result;
  result.outputs.push_back(
      {.name = "curves",
       .bytes = CurvesBlob(
           *curves, RowSpreads(weight, spec, options.group_size), spec.name)});
  return result;
}

}  // namespace bitwright
