#include "worker/quant/quantizer.h"

#include <chrono>
#include <cmath>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/quant/gptq.h"
#include "worker/quant/grid.h"
#include "worker/quant/parallel.h"

namespace bitwright::quant {
namespace {

// Below this share of the damped loss, the undamped one is computed directly
// instead of by subtracting what damping added.
constexpr double kCancellation = 1e-3;

class Stopwatch {
 public:
  // Adds the seconds since the last call (or construction) to `total`.
  void Charge(double& total) {
    const auto now = std::chrono::steady_clock::now();
    total += std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }

 private:
  std::chrono::steady_clock::time_point last_ =
      std::chrono::steady_clock::now();
};

absl::Status CheckProblem(const LinearProblem& p, const QuantizeOptions& o) {
  if (p.weight == nullptr || p.rows < 1 || p.columns < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "weight of shape [", p.rows, ", ", p.columns, "] is empty"));
  }
  if (!(o.bits >= 1 && o.bits <= 8)) {
    return absl::InvalidArgumentError(
        absl::StrCat("bits must be from 1 to 8, not ", o.bits));
  }
  if (o.method != Method::kBaq && o.bits != std::floor(o.bits)) {
    return absl::InvalidArgumentError(
        absl::StrCat("bits must be whole for rtn and gptq, not ", o.bits,
                     "; baq takes fractions"));
  }
  if (!(o.theta > 0) || !std::isfinite(o.theta)) {
    return absl::InvalidArgumentError(
        absl::StrCat("theta must be positive, not ", o.theta));
  }
  if (p.sequences < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a Hessian over ", p.sequences, " sequences"));
  }
  if (p.hessian.empty() && o.method != Method::kRtn) {
    return absl::InvalidArgumentError(
        "gptq and baq need a Hessian, and there is none; only rtn does "
        "without");
  }
  return absl::OkStatus();
}

int UniformLevels(double bits) {
  return static_cast<int>(std::lround(std::exp2(bits)));
}

// One feedback pass and what it is judged by.
struct Pass {
  std::vector<uint16_t> levels;
  FeedbackResult result;
  // By the identity of §2: tr((W−Ŵ)H(W−Ŵ)ᵀ) with the damped H, and undamped.
  double damped_loss = 0;
  double loss = 0;
};

// The steps of QuantizeLinear for gptq and baq, on one factor.
class FeedbackQuantizer {
 public:
  FeedbackQuantizer(const LinearProblem& problem,
                    const QuantizeOptions& options, const Factor& factor,
                    const Grid& grid, QuantizeSeconds& seconds)
      : problem_(problem),
        options_(options),
        factor_(factor),
        grid_(grid),
        seconds_(seconds) {}

  Pass Uniform() {
    return Run(std::vector<uint16_t>(
                   problem_.columns,
                   static_cast<uint16_t>(UniformLevels(options_.bits))),
               nullptr);
  }

  Pass Reference(const Pass& uniform) {
    return Run(ReferenceLevels(uniform.result.column_loss, options_.bits,
                               options_.theta),
               nullptr);
  }

  // Allocates by the distortion of the weights, then once more by that of the
  // values which the better pass rounded: feedback moves them. The weights of
  // the columns are those of the undamped loss, and half-way between these and
  // the damped ones: at few bits and few tokens, rounding errors of different
  // columns are correlated and the former mislead. The best pass is kept.
  absl::StatusOr<Pass> Exact() {
    const std::vector<float> values = TransposedWeights();
    Stopwatch watch;
    std::vector<double> weights = UndampedWeights(factor_);
    std::vector<double> blend(weights.size());
    for (int64_t p = 0; p < factor_.columns; ++p) {
      const int32_t j = factor_.order[p];
      const double r = factor_.diagonal[p];
      blend[j] = 0.5 * (weights[j] + r * r);
    }
    watch.Charge(seconds_.allocate);
    std::vector<float> targets(values.size());
    BW_ASSIGN_OR_RETURN(Allocation allocation, Allocate(values, weights));
    Pass best = Run(std::move(allocation.levels), targets.data());
    if (factor_.added > 0) {
      std::vector<float> other_targets(values.size());
      BW_ASSIGN_OR_RETURN(allocation, Allocate(values, blend));
      Pass other = Run(std::move(allocation.levels), other_targets.data());
      if (other.loss < best.loss) {
        best = std::move(other);
        weights = std::move(blend);
        targets = std::move(other_targets);
      }
    }
    BW_ASSIGN_OR_RETURN(allocation, Allocate(targets, weights));
    Pass last = Run(std::move(allocation.levels), nullptr);
    return last.loss < best.loss ? std::move(last) : std::move(best);
  }

 private:
  Pass Run(std::vector<uint16_t> levels, float* targets) {
    Stopwatch watch;
    Pass pass;
    pass.levels = std::move(levels);
    pass.result = FeedbackPass({.weight = problem_.weight,
                                .rows = problem_.rows,
                                .factor = &factor_,
                                .grid = &grid_,
                                .levels = pass.levels,
                                .targets = targets});
    for (double loss : pass.result.column_loss) pass.damped_loss += 2 * loss;
    pass.loss = pass.damped_loss - factor_.added * pass.result.squared_error;
    watch.Charge(seconds_.quantize);
    return pass;
  }

  absl::StatusOr<Allocation> Allocate(const std::vector<float>& values,
                                      const std::vector<double>& weights) {
    Stopwatch watch;
    const std::vector<double> curves = ExpandCurves(
        MeasureDistortion(values.data(), grid_, weights, MeasuredLevelCounts()),
        problem_.columns);
    absl::StatusOr<Allocation> allocation =
        AllocateExact(curves, problem_.columns,
                      {.rows = problem_.rows,
                       .groups = grid_.groups,
                       .bits = options_.bits,
                       .budget = options_.budget});
    watch.Charge(seconds_.allocate);
    return allocation;
  }

  // [columns, rows], dead columns at zero.
  std::vector<float> TransposedWeights() const {
    const int64_t rows = problem_.rows, columns = problem_.columns;
    constexpr int64_t kTile = 16;
    std::vector<float> out(rows * columns, 0.0f);
    ParallelFor((columns + kTile - 1) / kTile, [&](int64_t tile) {
      const int64_t end = std::min(columns, (tile + 1) * kTile);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t j = tile * kTile; j < end; ++j) {
          if (factor_.dead[j]) continue;
          out[j * rows + r] = problem_.weight[r * columns + j];
        }
      }
    });
    return out;
  }

  const LinearProblem& problem_;
  const QuantizeOptions& options_;
  const Factor& factor_;
  const Grid& grid_;
  QuantizeSeconds& seconds_;
};

GridOptions GridOptionsFor(const QuantizeOptions& o) {
  return {.group_size = o.group_size,
          .symmetric = o.symmetric,
          .mse_clip = o.mse_clip,
          .levels = UniformLevels(o.bits),
          .f16 = o.f16_ranges};
}

// Everything that follows from the levels, codes and grid.
void Describe(Grid grid, QuantizedResult& out) {
  out.rows = grid.rows;
  out.columns = grid.columns;
  out.group_size = grid.group_size;
  out.groups = grid.groups;
  out.range_min = std::move(grid.min);
  out.range_max = std::move(grid.max);
  out.code_bits =
      BitsPerWeight(out.rows, out.groups, out.levels, Budget::kCodes);
  out.file_bits =
      BitsPerWeight(out.rows, out.groups, out.levels, Budget::kFile);
}

absl::StatusOr<QuantizedResult> QuantizeRtn(const LinearProblem& problem,
                                            const QuantizeOptions& options,
                                            const HessianView* h) {
  QuantizedResult out;
  Stopwatch watch;
  BW_ASSIGN_OR_RETURN(Grid grid,
                      MakeGrid(problem.weight, problem.rows, problem.columns,
                               GridOptionsFor(options)));
  out.levels.assign(problem.columns,
                    static_cast<uint16_t>(UniformLevels(options.bits)));
  std::vector<double> diagonal;
  for (int64_t j = 0; j < problem.columns; ++j) {
    out.order.push_back(static_cast<int32_t>(j));
    if (h != nullptr) diagonal.push_back(h->At(j, j));
  }
  FeedbackResult pass =
      RoundToNearest(problem.weight, problem.rows, grid, out.levels, diagonal);
  out.codes = std::move(pass.codes);
  out.column_loss = std::move(pass.column_loss);
  watch.Charge(out.seconds.quantize);
  out.loss = pass.squared_error;
  if (h != nullptr) {
    const std::vector<float> q = Dequantize(out.codes, grid, out.levels);
    out.loss = QuadraticLoss(problem.weight, q.data(), problem.rows, *h);
    watch.Charge(out.seconds.evaluate);
  }
  Describe(std::move(grid), out);
  return out;
}

absl::StatusOr<QuantizedResult> QuantizeWithFeedback(
    const LinearProblem& problem, const QuantizeOptions& options,
    const HessianView& h) {
  QuantizedResult out;
  Stopwatch watch;
  BW_ASSIGN_OR_RETURN(Factor factor,
                      FactorHessian(h, {.damping = options.damping,
                                        .act_order = options.act_order}));
  watch.Charge(out.seconds.factor);
  BW_ASSIGN_OR_RETURN(Grid grid,
                      MakeGrid(problem.weight, problem.rows, problem.columns,
                               GridOptionsFor(options), factor.dead));
  watch.Charge(out.seconds.quantize);
  FeedbackQuantizer quantizer(problem, options, factor, grid, out.seconds);
  Pass pass = quantizer.Uniform();
  auto direct_loss = [&](const Pass& p) {
    Stopwatch loss_watch;
    const std::vector<float> q = Dequantize(p.result.codes, grid, p.levels);
    const double loss =
        QuadraticLoss(problem.weight, q.data(), problem.rows, h);
    loss_watch.Charge(out.seconds.evaluate);
    return loss;
  };
  if (options.method == Method::kBaq) {
    const bool direct = factor.report.diagonal_fallback ||
                        pass.loss < kCancellation * pass.damped_loss;
    out.uniform_loss = direct ? direct_loss(pass) : pass.loss;
    out.uniform_column_loss = pass.result.column_loss;
    out.gm_over_am = GmOverAm(out.uniform_column_loss);
    if (options.variant == BaqVariant::kReference) {
      pass = quantizer.Reference(pass);
    } else {
      BW_ASSIGN_OR_RETURN(pass, quantizer.Exact());
    }
  }
  out.loss = direct_loss(pass);
  out.levels = std::move(pass.levels);
  out.codes = std::move(pass.result.codes);
  out.column_loss = std::move(pass.result.column_loss);
  out.order = std::move(factor.order);
  out.factor = factor.report;
  Describe(std::move(grid), out);
  return out;
}

}  // namespace

absl::StatusOr<Method> ParseMethod(absl::string_view text) {
  if (text == "rtn") return Method::kRtn;
  if (text == "gptq") return Method::kGptq;
  if (text == "baq") return Method::kBaq;
  return absl::InvalidArgumentError(
      absl::StrCat("method must be rtn, gptq or baq, not \"", text, "\""));
}

absl::StatusOr<BaqVariant> ParseBaqVariant(absl::string_view text) {
  if (text == "exact") return BaqVariant::kExact;
  if (text == "reference") return BaqVariant::kReference;
  return absl::InvalidArgumentError(absl::StrCat(
      "baq variant must be exact or reference, not \"", text, "\""));
}

absl::StatusOr<Budget> ParseBudget(absl::string_view text) {
  if (text == "codes") return Budget::kCodes;
  if (text == "file") return Budget::kFile;
  return absl::InvalidArgumentError(
      absl::StrCat("budget must be codes or file, not \"", text, "\""));
}

absl::StatusOr<QuantizedResult> QuantizeLinear(const LinearProblem& problem,
                                               const QuantizeOptions& options) {
  BW_RETURN_IF_ERROR(CheckProblem(problem, options));
  std::optional<HessianView> h;
  if (!problem.hessian.empty()) {
    const double scale = problem.sequences > 0
                             ? 2.0 / static_cast<double>(problem.sequences)
                             : 1.0;
    BW_ASSIGN_OR_RETURN(
        h, HessianView::Create(problem.hessian, problem.columns, scale));
  }
  if (options.method == Method::kRtn) {
    return QuantizeRtn(problem, options, h.has_value() ? &*h : nullptr);
  }
  return QuantizeWithFeedback(problem, options, *h);
}

std::vector<float> DequantizeResult(const QuantizedResult& result) {
  Grid grid;
  grid.rows = result.rows;
  grid.columns = result.columns;
  grid.group_size = result.group_size;
  grid.groups = result.groups;
  grid.min = result.range_min;
  grid.max = result.range_max;
  return Dequantize(result.codes, grid, result.levels);
}

}  // namespace bitwright::quant
