// One bit budget over the linears of a whole model (math.md §3c).
//
// Each linear is first reduced to its trade-off: the least loss that it can
// have for any number of bits, from the curves that AllocateExact takes. A
// linear's loss then counts by its sensitivity: how much it moves the model's
// output.
//
//   std::vector<TradeOff> linears;
//   BW_ASSIGN_OR_RETURN(TradeOff t, TradeOff::Create(
//       {.name = "q_proj", .rows = R, .columns = C, .groups = G},
//       ExpandCurves(measured, C), Budget::kFile));
//   linears.push_back(std::move(t));
//   BW_ASSIGN_OR_RETURN(ModelAllocation a,
//                       WaterFill(linears, sensitivities, /*bits=*/2.5));
//   options.bits = a.linears[0].bits;   // What QuantizeLinear is then asked.
//
// Pure and deterministic: ties go to the linear that comes first.
#ifndef BITWRIGHT_WORKER_QUANT_MODEL_SCOPE_H_
#define BITWRIGHT_WORKER_QUANT_MODEL_SCOPE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/quant/baq.h"

namespace bitwright::quant {

// The bits per weight that a linear may get from a model's budget: those that
// QuantizeLinear takes.
inline constexpr double kMinLinearBits = 1;
inline constexpr double kMaxLinearBits = 8;
// How many bits a linear may get below the mean. Sensitivities are derivatives,
// and promise too much for large errors: without this limit small models lose
// more than they gain; with half a bit to one they do not, and it matters
// little where in between.
inline constexpr double kMostBelowMean = 0.75;
// The whole bits that a module may get.
inline constexpr int kMinModuleBits = 2;
inline constexpr int kMaxModuleBits = 8;

// What one linear gets, and what it is expected to lose by it.
struct LinearAllocation {
  double bits = 0;       // per weight, in the budget's accounting
  double code_bits = 0;  // per weight: mean log2(levels)
  double file_bits = 0;  // per weight, side information included
  double loss = 0;       // 2·Σ_j D_j: predicts tr((W−Ŵ)H(W−Ŵ)ᵀ)
};

// The lower convex hull of (bits, loss) over all level counts of all columns:
// exact wherever a column's step ends, linear in between. 16 bytes for each
// step of each column.
class TradeOff {
 public:
  struct Shape {
    std::string name;  // For messages.
    int64_t rows = 0, columns = 0, groups = 1;
  };
  // `curves` is [columns, AllowedLevelCounts()], as AllocateExact takes them.
  // INVALID_ARGUMENT when a size does not fit or a value is not a finite
  // number, or negative.
  static absl::StatusOr<TradeOff> Create(Shape shape,
                                         absl::Span<const double> curves,
                                         Budget budget);

  const Shape& shape() const { return shape_; }
  double weights() const {
    return static_cast<double>(shape_.rows) * shape_.columns;
  }
  Budget budget() const { return budget_; }
  // Bits of the whole linear: the least, for at least `floor` bits per weight,
  // and the most that it may get.
  double least(double floor = kMinLinearBits) const;
  double most() const;

  // For `bits` per weight, between what least() and most() come to.
  LinearAllocation At(double bits) const;
  // With every column at `levels`, one of AllowedLevelCounts().
  LinearAllocation Uniform(int levels) const;

  // A column going from one level count to the next on its hull.
  struct Step {
    double slope;      // Loss saved per bit.
    uint8_t from, to;  // Indices into AllowedLevelCounts().
  };
  // By descending slope; a column's own steps are in order.
  absl::Span<const Step> steps() const { return steps_; }
  double Cost(const Step& step) const {
    return costs_[step.to] - costs_[step.from];
  }
  // Bits and loss before the first step: every column zeroed.
  double start() const { return side_; }
  // What `taken` steps, and a `fraction` of the next, come to.
  LinearAllocation Describe(int64_t taken, double fraction) const;

 private:
  Shape shape_;
  Budget budget_ = Budget::kFile;
  double side_ = 0;            // in the budget's accounting
  std::vector<double> costs_;  // by level count, likewise
  std::vector<double> code_costs_, file_costs_;
  std::vector<double> level_loss_;  // all columns at one level count
  std::vector<Step> steps_;
};

struct ModelAllocation {
  std::vector<LinearAllocation> linears;
  // Over all weights.
  double bits = 0, code_bits = 0, file_bits = 0;
  double loss = 0;           // Σ loss_l
  double weighted_loss = 0;  // Σ s_l·loss_l
};

// Every linear gets `bits` per weight. The errors of WaterFill.
absl::StatusOr<ModelAllocation> SpreadEvenly(
    absl::Span<const TradeOff> linears, absl::Span<const double> sensitivities,
    double bits);

// Every column gets 2^bits levels: GPTQ, which knows no budget. `bits` is 1..8.
absl::StatusOr<ModelAllocation> SpreadLevels(
    absl::Span<const TradeOff> linears, absl::Span<const double> sensitivities,
    int bits);

// Minimises Σ s_l·loss_l over Σ bits_l·weights_l <= bits·Σ weights_l, with no
// linear more than kMostBelowMean below `bits` (where the budget allows that):
// the steepest of all linears' steps first, the last one in part, so that the
// whole budget is given out (unless every linear has all that it may have).
// INVALID_ARGUMENT: a sensitivity that is negative or not finite; a budget
// below what the linears need, with the smallest possible.
absl::StatusOr<ModelAllocation> WaterFill(
    absl::Span<const TradeOff> linears, absl::Span<const double> sensitivities,
    double bits);

// What the columns of a module get from its bits.
enum class ModuleColumns {
  kUniform,    // 2^b levels each: GPTQ
  kAllocated,  // what AllocateExact gives them: BAQ
};

// Minimises Σ s_l·loss_l(b_m) over whole bits b_m of 2..8, exactly. Linears
// with one number in `modules` share their bits. Errors as WaterFill.
absl::StatusOr<ModelAllocation> AllocateModules(
    absl::Span<const TradeOff> linears, absl::Span<const double> sensitivities,
    absl::Span<const int> modules, ModuleColumns columns, double bits);

// One way to spend on a group.
struct Choice {
  int64_t cost = 0;
  double loss = 0;
};

// Picks one choice of each group, as indices: least Σ loss within Σ cost <=
// budget, exactly; of equal ones the cheapest. Dynamic programming over the
// Pareto-optimal (cost, loss) sums, without those that a Lagrangian bound shows
// to be too dear. INVALID_ARGUMENT when even the cheapest choices cost more
// than `budget`.
absl::StatusOr<std::vector<int>> SolveChoices(
    absl::Span<const std::vector<Choice>> groups, int64_t budget);

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_MODEL_SCOPE_H_
