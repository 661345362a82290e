#include "worker/quant/quantizer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/quant/gptq.h"
#include "worker/quant/grid.h"
#include "worker/quant/layer_engine.h"
#include "worker/quant/layer_engine_cuda.h"
#include "worker/quant/quantize_rows.h"

namespace bitwright::quant {
namespace {

// Below this share of the damped loss, the undamped one is computed directly
// instead of by subtracting what damping added.
constexpr double kCancellation = 0.1;

// A file's side information comes on top of up to 8 bits of codes.
constexpr double kMaxExactBits = 16;

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

bool IsExact(const QuantizeOptions& o) {
  return o.method == Method::kBaq && o.variant == BaqVariant::kExact;
}

absl::Status CheckProblem(const LinearProblem& p, const QuantizeOptions& o) {
  if (p.weight == nullptr || p.rows < 1 || p.columns < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "weight of shape [", p.rows, ", ", p.columns, "] is empty"));
  }
  const bool exact = IsExact(o);
  if (exact ? !(o.bits > 0 && o.bits <= kMaxExactBits)
            : !(o.bits >= 1 && o.bits <= 8)) {
    return absl::InvalidArgumentError(
        absl::StrCat("bits must be from ", exact ? "above 0 to 16" : "1 to 8",
                     ", not ", o.bits));
  }
  if (!o.row_bits.empty()) BW_RETURN_IF_ERROR(CheckRowBits(p, o));
  if (o.method != Method::kBaq && o.bits != std::floor(o.bits)) {
    return absl::InvalidArgumentError(
        absl::StrCat("bits must be whole for rtn and gptq, not ", o.bits,
                     "; baq takes fractions"));
  }
  if (o.refine_sweeps < QuantizeOptions::kAuto || o.refine_sweeps > 100 ||
      (o.method == Method::kRtn && o.refine_sweeps > 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("refine sweeps must be from 0 to 100, and 0 for rtn, not ",
                     o.refine_sweeps));
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
  return static_cast<int>(
      std::clamp<double>(std::round(std::exp2(bits)), 1, kMaxLevels));
}

int RefineSweeps(const QuantizeOptions& o) {
  if (o.refine_sweeps != QuantizeOptions::kAuto) return o.refine_sweeps;
  return IsExact(o) ? 1 : 0;
}

// One point of every curve at AllowedLevelCounts(): `levels`, or the next
// allowed count above.
std::vector<double> AtLevels(absl::Span<const double> curves, int levels) {
  const std::vector<int>& counts = AllowedLevelCounts();
  const size_t point =
      std::lower_bound(counts.begin(), counts.end(), levels) - counts.begin();
  std::vector<double> out;
  for (size_t i = point; i < curves.size(); i += counts.size()) {
    out.push_back(curves[i]);
  }
  return out;
}

// The problem's Hessian, checked; none if it has none.
absl::StatusOr<std::optional<HessianView>> ViewOf(
    const LinearProblem& problem) {
  if (problem.hessian.empty()) return std::nullopt;
  const double scale = problem.sequences > 0
                           ? 2.0 / static_cast<double>(problem.sequences)
                           : 1.0;
  BW_ASSIGN_OR_RETURN(
      HessianView h,
      HessianView::Create(problem.hessian, problem.columns, scale));
  return h;
}

// One feedback pass and what it is judged by.
struct Pass {
  std::vector<uint16_t> levels = {}, row_levels = {};  // as in PassLevels
  int slot = 0;  // of the engine, where its codes are
  PassSums sums = {};
  // By the identity of §2: tr((W−Ŵ)H(W−Ŵ)ᵀ) with the damped H, and undamped.
  double damped_loss = 0;
  double loss = 0;
};

// The steps of QuantizeLinear for gptq and baq, on one factor.
class FeedbackQuantizer {
 public:
  FeedbackQuantizer(const QuantizeOptions& options, const Grid& grid,
                    LayerEngine& engine, QuantizeSeconds& seconds)
      : options_(options),
        grid_(grid),
        engine_(engine),
        factor_(engine.factor()),
        seconds_(seconds) {}

  absl::StatusOr<Pass> Uniform() {
    Pass pass;
    if (options_.row_bits.empty()) {
      pass.levels.assign(grid_.columns,
                         static_cast<uint16_t>(UniformLevels(options_.bits)));
    } else {
      pass.row_levels = RowLevels(options_.row_bits);
    }
    return Run(std::move(pass), RefineSweeps(options_) > 0);
  }

  absl::StatusOr<Pass> Reference(const Pass& uniform) {
    return Run({.levels = ReferenceLevels(uniform.sums.column_loss,
                                          options_.bits, options_.theta)},
               RefineSweeps(options_) > 0);
  }

  // Allocates by the distortion of the weights, then once more by that of the
  // values which the first pass rounded: feedback moves them. The better pass
  // is kept. `modelled` receives what the curves say of uniform levels.
  absl::StatusOr<Pass> Exact(std::vector<double>* modelled) {
    BW_ASSIGN_OR_RETURN(std::vector<double> curves,
                        Curves(LayerEngine::kWeights));
    *modelled = AtLevels(curves, UniformLevels(options_.bits));
    BW_ASSIGN_OR_RETURN(Allocation allocation, Allocate(curves));
    BW_ASSIGN_OR_RETURN(Pass first,
                        Run({.levels = std::move(allocation.levels)}, true));
    BW_ASSIGN_OR_RETURN(curves, Curves(first.slot));
    BW_ASSIGN_OR_RETURN(allocation, Allocate(curves));
    BW_ASSIGN_OR_RETURN(Pass last,
                        Run({.levels = std::move(allocation.levels), .slot = 1},
                            RefineSweeps(options_) > 0));
    return last.loss < first.loss ? std::move(last) : std::move(first);
  }

  absl::Status Refine(const HessianView& h, int sweeps, Pass& pass) {
    Stopwatch watch;
    BW_ASSIGN_OR_RETURN(
        pass.sums,
        engine_.Refine(h,
                       {.levels = pass.levels, .row_levels = pass.row_levels},
                       pass.slot, sweeps));
    Judge(pass);
    watch.Charge(seconds_.refine);
    return absl::OkStatus();
  }

 private:
  void Judge(Pass& pass) const {
    pass.damped_loss = 0;
    for (double loss : pass.sums.column_loss) pass.damped_loss += 2 * loss;
    pass.loss = pass.damped_loss - factor_.added * pass.sums.squared_error;
  }

  absl::StatusOr<Pass> Run(Pass pass, bool keep_targets) {
    Stopwatch watch;
    BW_ASSIGN_OR_RETURN(pass.sums, engine_.Pass({.levels = pass.levels,
                                                 .row_levels = pass.row_levels,
                                                 .keep_targets = keep_targets},
                                                pass.slot));
    Judge(pass);
    watch.Charge(seconds_.quantize);
    return pass;
  }

  // Losses at AllowedLevelCounts(), [columns, counts]; slot as in Distortion.
  absl::StatusOr<std::vector<double>> Curves(int slot) {
    Stopwatch watch;
    BW_ASSIGN_OR_RETURN(const std::vector<double> distortion,
                        engine_.Distortion(slot, MeasuredLevelCounts()));
    std::vector<double> curves =
        ExpandCurves(distortion, ColumnWeights(factor_));
    watch.Charge(seconds_.allocate);
    return curves;
  }

  absl::StatusOr<Allocation> Allocate(const std::vector<double>& curves) {
    Stopwatch watch;
    absl::StatusOr<Allocation> allocation =
        AllocateExact(curves, grid_.columns,
                      {.rows = grid_.rows,
                       .groups = grid_.groups,
                       .bits = options_.bits,
                       .budget = options_.budget});
    watch.Charge(seconds_.allocate);
    return allocation;
  }

  const QuantizeOptions& options_;
  const Grid& grid_;
  LayerEngine& engine_;
  const Factor& factor_;
  QuantizeSeconds& seconds_;
};

GridOptions GridOptionsFor(const QuantizeOptions& o,
                           absl::Span<const uint16_t> row_levels = {}) {
  return {.group_size = o.group_size,
          .symmetric = o.symmetric,
          .mse_clip = o.mse_clip,
          .levels = UniformLevels(o.bits),
          .row_levels = row_levels,
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
  if (!out.row_bits.empty()) {
    CountRowBits(out);
    return;
  }
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
  NearestResult pass =
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

// The exact undamped loss of a pass, without the identity.
double DirectLoss(const LinearProblem& problem, const HessianView& h,
                  const Grid& grid, absl::Span<const uint8_t> codes,
                  const Pass& pass) {
  const std::vector<float> q =
      Dequantize(codes, grid, pass.levels, pass.row_levels);
  return QuadraticLoss(problem.weight, q.data(), problem.rows, h);
}

// An engine with its factor and its grid.
struct Prepared {
  std::unique_ptr<LayerEngine> engine;
  Grid grid;
};

absl::StatusOr<Prepared> Prepare(const LinearProblem& problem,
                                 const QuantizeOptions& options,
                                 const HessianView& h,
                                 QuantizeSeconds& seconds) {
  Stopwatch watch;
  Prepared out;
  const LayerWeight weight{.weight = problem.weight,
                           .rows = problem.rows,
                           .columns = problem.columns};
  BW_ASSIGN_OR_RETURN(out.engine, options.device == Device::kCuda
                                      ? MakeCudaEngine(weight)
                                      : MakeCpuEngine(weight));
  watch.Charge(seconds.quantize);
  BW_RETURN_IF_ERROR(
      out.engine->Factorize(h, {.damping = options.damping,
                                .act_order = options.act_order,
                                .precision = options.precision}));
  watch.Charge(seconds.factor);
  const std::vector<uint16_t> row_levels = RowLevels(options.row_bits);
  BW_ASSIGN_OR_RETURN(
      out.grid,
      MakeGrid(problem.weight, problem.rows, problem.columns,
               GridOptionsFor(options, row_levels), out.engine->factor().dead));
  BW_RETURN_IF_ERROR(out.engine->SetGrid(out.grid));
  watch.Charge(seconds.quantize);
  return out;
}

absl::StatusOr<QuantizedResult> QuantizeWithFeedback(
    const LinearProblem& problem, const QuantizeOptions& options,
    const HessianView& h) {
  QuantizedResult out;
  BW_ASSIGN_OR_RETURN(Prepared prepared,
                      Prepare(problem, options, h, out.seconds));
  LayerEngine* engine = prepared.engine.get();
  Grid& grid = prepared.grid;
  const Factor& factor = engine->factor();
  FeedbackQuantizer quantizer(options, grid, *engine, out.seconds);
  Pass pass;
  // By the identity, unless what damping added is nearly all of it.
  auto loss_of = [&](const Pass& p) -> absl::StatusOr<double> {
    if (!factor.report.diagonal_fallback &&
        p.loss >= kCancellation * p.damped_loss) {
      return p.loss;
    }
    Stopwatch loss_watch;
    BW_ASSIGN_OR_RETURN(const std::vector<uint8_t> codes,
                        engine->Codes(p.slot));
    const double loss = DirectLoss(problem, h, grid, codes, p);
    loss_watch.Charge(out.seconds.evaluate);
    return loss;
  };
  const bool exact = IsExact(options);
  if (exact) {
    BW_ASSIGN_OR_RETURN(pass, quantizer.Exact(&out.uniform_column_loss));
  } else {
    BW_ASSIGN_OR_RETURN(pass, quantizer.Uniform());
    if (options.method == Method::kBaq) {
      BW_ASSIGN_OR_RETURN(out.uniform_loss, loss_of(pass));
      out.uniform_column_loss = pass.sums.column_loss;
      BW_ASSIGN_OR_RETURN(pass, quantizer.Reference(pass));
    }
  }
  const int sweeps = RefineSweeps(options);
  if (sweeps > 0 && !factor.report.diagonal_fallback) {
    BW_RETURN_IF_ERROR(quantizer.Refine(h, sweeps, pass));
  }
  BW_ASSIGN_OR_RETURN(out.loss, loss_of(pass));
  if (exact && pass.damped_loss > 0) {
    // The curves know the damped loss; damping's share as in the result.
    for (double loss : out.uniform_column_loss) {
      out.uniform_loss += 2 * loss * out.loss / pass.damped_loss;
    }
  }
  if (options.method == Method::kBaq) {
    out.gm_over_am = exact ? PredictedGain(out.uniform_column_loss)
                           : GmOverAm(out.uniform_column_loss);
    out.uniform_levels = UniformLevels(options.bits);
  }
  if (!std::isfinite(out.loss)) {
    return absl::InvalidArgumentError(
        "the loss is not a finite number: the weights or the Hessian are too "
        "large for float32 arithmetic; scale them");
  }
  Stopwatch codes_watch;
  BW_ASSIGN_OR_RETURN(out.codes, engine->Codes(pass.slot));
  codes_watch.Charge(out.seconds.quantize);
  out.levels = std::move(pass.levels);
  out.row_bits = options.row_bits;
  out.column_loss = std::move(pass.sums.column_loss);
  out.order = factor.order;
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
  BW_ASSIGN_OR_RETURN(std::optional<HessianView> h, ViewOf(problem));
  if (options.method == Method::kRtn) {
    return QuantizeRtn(problem, options, h.has_value() ? &*h : nullptr);
  }
  if (HasF16Rows(options.row_bits)) {
    return QuantizeWithF16Rows(problem, options, *h);
  }
  return QuantizeWithFeedback(problem, options, *h);
}

absl::StatusOr<LinearCurves> MeasureLinear(const LinearProblem& problem,
                                           const QuantizeOptions& options) {
  QuantizeOptions measured = options;
  measured.method = Method::kBaq;
  measured.variant = BaqVariant::kExact;
  BW_RETURN_IF_ERROR(CheckProblem(problem, measured));
  BW_ASSIGN_OR_RETURN(std::optional<HessianView> h, ViewOf(problem));
  QuantizeSeconds seconds;
  BW_ASSIGN_OR_RETURN(Prepared prepared,
                      Prepare(problem, measured, *h, seconds));
  BW_ASSIGN_OR_RETURN(std::vector<double> distortion,
                      prepared.engine->Distortion(LayerEngine::kWeights,
                                                  MeasuredLevelCounts()));
  const Factor& factor = prepared.engine->factor();
  const std::vector<double> weights = ColumnWeights(factor);
  const size_t points = MeasuredLevelCounts().size();
  for (size_t i = 0; i < distortion.size(); ++i) {
    distortion[i] *= 0.5 * weights[i / points];
  }
  return LinearCurves{.rows = problem.rows,
                      .columns = problem.columns,
                      .groups = prepared.grid.groups,
                      .distortion = std::move(distortion),
                      .factor = factor.report};
}

std::vector<float> DequantizeResult(const QuantizedResult& result) {
  Grid grid;
  grid.rows = result.rows;
  grid.columns = result.columns;
  grid.group_size = result.group_size;
  grid.groups = result.groups;
  grid.min = result.range_min;
  grid.max = result.range_max;
  std::vector<float> out =
      Dequantize(result.codes, grid, result.levels, RowLevels(result.row_bits));
  PlaceF16Rows(result, out);
  return out;
}

}  // namespace bitwright::quant
