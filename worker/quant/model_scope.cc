#include "worker/quant/model_scope.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <queue>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status_macros.h"

namespace bitwright::quant {
namespace {

// Bits that are handed on are rounded down to a multiple of this, so that their
// sum cannot exceed the budget by a rounding error.
constexpr double kBitsGrain = 0x1p-30;

std::vector<double> CostsOf(int64_t rows, Budget budget) {
  std::vector<double> costs;
  for (int levels : AllowedLevelCounts()) {
    costs.push_back(ColumnBits(rows, levels, budget));
  }
  return costs;
}

// Indices of the lower convex hull of one column's (cost, loss). `order` is by
// ascending cost.
std::vector<int> Hull(const double* curve, const std::vector<double>& costs,
                      const std::vector<int>& order) {
  const auto slope = [&](int from, int to) {
    return (curve[from] - curve[to]) / (costs[to] - costs[from]);
  };
  std::vector<int> hull;
  for (int p : order) {
    if (!hull.empty()) {
      if (curve[p] >= curve[hull.back()]) continue;
      if (costs[p] == costs[hull.back()]) hull.pop_back();
    }
    while (hull.size() >= 2 &&
           slope(hull[hull.size() - 2], hull.back()) <= slope(hull.back(), p)) {
      hull.pop_back();
    }
    hull.push_back(p);
  }
  return hull;
}

absl::Status CheckSensitivities(absl::Span<const TradeOff> linears,
                                absl::Span<const double> sensitivities) {
  if (linears.empty() || linears.size() != sensitivities.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(linears.size(), " linears with ", sensitivities.size(),
                     " sensitivities"));
  }
  for (size_t l = 0; l < linears.size(); ++l) {
    if (sensitivities[l] >= 0 && std::isfinite(sensitivities[l])) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        linears[l].shape().name, ": the sensitivity is ", sensitivities[l],
        "; it must be finite, and not negative"));
  }
  return absl::OkStatus();
}

// Bits of all linears when each gets the least it may.
double TotalLeast(absl::Span<const TradeOff> linears, double floor) {
  double least = 0;
  for (const TradeOff& linear : linears) least += linear.least(floor);
  return least;
}

double TotalWeights(absl::Span<const TradeOff> linears) {
  double weights = 0;
  for (const TradeOff& linear : linears) weights += linear.weights();
  return weights;
}

absl::Status TooSmall(double bits, double least, size_t linears,
                      Budget budget) {
  return absl::InvalidArgumentError(absl::StrFormat(
      "%g bits per weight are asked for over %d linears, but the smallest "
      "possible is %.4f%s; ask for more%s",
      bits, linears, std::ceil(least * 1e4) / 1e4,
      budget == Budget::kFile ? " with side information counted" : "",
      budget == Budget::kFile ? ", use larger groups, or count codes only"
                              : ""));
}

void Total(absl::Span<const TradeOff> linears,
           absl::Span<const double> sensitivities, ModelAllocation* out) {
  const double weights = TotalWeights(linears);
  for (size_t l = 0; l < linears.size(); ++l) {
    const LinearAllocation& a = out->linears[l];
    const double share = linears[l].weights() / weights;
    out->bits += a.bits * share;
    out->code_bits += a.code_bits * share;
    out->file_bits += a.file_bits * share;
    out->loss += a.loss;
    out->weighted_loss += sensitivities[l] * a.loss;
  }
}

// Where a linear stands on its way up.
struct Cursor {
  int64_t taken = 0;  // Whole steps.
  double within = 0;  // Bits spent on the next one.
  double spent = 0;   // Bits of the whole linear.

  // Spends up to `bits` on the next step; returns what was spent.
  double Advance(const TradeOff& linear, double bits) {
    const double rest = linear.Cost(linear.steps()[taken]) - within;
    const double now = std::min(rest, bits);
    spent += now;
    within += now;
    if (now == rest) {
      ++taken;
      within = 0;
    }
    return now;
  }
  bool AtEnd(const TradeOff& linear) const {
    return taken == static_cast<int64_t>(linear.steps().size());
  }
  void AdvanceTo(const TradeOff& linear, double bits) {
    while (spent < bits && !AtEnd(linear)) Advance(linear, bits - spent);
  }
  LinearAllocation Describe(const TradeOff& linear) const {
    const double fraction =
        within == 0 ? 0 : within / linear.Cost(linear.steps()[taken]);
    return linear.Describe(taken, fraction);
  }
};

// The bits that a linear spends on its steps down to any slope.
class Spending {
 public:
  Spending(const TradeOff& linear, double sensitivity, double floor)
      : linear_(&linear), sensitivity_(sensitivity), floor_(floor) {
    double spent = linear.start();
    for (const TradeOff::Step& step : linear.steps()) {
      spent += linear.Cost(step);
      after_.push_back(spent);
    }
  }

  // On the steps that gain more than `gain` per bit, within its limits.
  double At(double gain) const {
    const auto end = std::partition_point(
        linear_->steps().begin(), linear_->steps().end(),
        [&](const TradeOff::Step& s) { return sensitivity_ * s.slope > gain; });
    const int64_t taken = end - linear_->steps().begin();
    const double spent = taken == 0 ? linear_->start() : after_[taken - 1];
    return std::clamp(spent, linear_->least(floor_),
                      std::max(linear_->least(floor_), linear_->most()));
  }

 private:
  const TradeOff* linear_;
  double sensitivity_, floor_;
  std::vector<double> after_;  // Bits spent once each step is taken.
};

// Bits for each linear such that all of them together take no more than
// `budget`, and next to nothing is missing: the water level, by bisection.
std::vector<double> FindLevel(absl::Span<const TradeOff> linears,
                              absl::Span<const double> sensitivities,
                              double floor, double budget) {
  std::vector<Spending> spending;
  double high = 0;
  for (size_t l = 0; l < linears.size(); ++l) {
    spending.emplace_back(linears[l], sensitivities[l], floor);
    if (!linears[l].steps().empty()) {
      high = std::max(high, sensitivities[l] * linears[l].steps()[0].slope);
    }
  }
  const auto total = [&](double gain) {
    double sum = 0;
    for (const Spending& s : spending) sum += s.At(gain);
    return sum;
  };
  // From what nothing gains to 2^-200 of it; `high` always fits.
  double exponent_high = 0, exponent_low = -200;
  for (int i = 0; i < 60; ++i) {
    const double middle = 0.5 * (exponent_high + exponent_low);
    (total(high * std::exp2(middle)) <= budget ? exponent_high : exponent_low) =
        middle;
  }
  std::vector<double> bits;
  for (const Spending& s : spending) {
    bits.push_back(s.At(high * std::exp2(exponent_high)));
  }
  return bits;
}

// What whole bits would cost and lose, for each module.
struct Modules {
  std::vector<size_t> of;  // [linears] module
  // [linears][bits from kMinModuleBits]
  std::vector<std::vector<LinearAllocation>> shares;
  // [modules] The least bits that can be, from kMinModuleBits.
  std::vector<int> first;
  std::vector<std::vector<Choice>> choices;  // [modules][bits from `first`]
};

absl::StatusOr<Modules> ListChoices(absl::Span<const TradeOff> linears,
                                    absl::Span<const double> sensitivities,
                                    absl::Span<const int> modules,
                                    ModuleColumns columns) {
  constexpr int kChoices = kMaxModuleBits - kMinModuleBits + 1;
  std::map<int, size_t> numbers;
  for (int module : modules) numbers.emplace(module, numbers.size());
  Modules out;
  out.shares.resize(linears.size());
  out.first.assign(numbers.size(), 0);
  out.choices.assign(numbers.size(), std::vector<Choice>(kChoices));
  for (size_t l = 0; l < linears.size(); ++l) {
    const TradeOff& linear = linears[l];
    const size_t m = out.of.emplace_back(numbers[modules[l]]);
    for (int c = 0; c < kChoices; ++c) {
      const int bits = kMinModuleBits + c;
      const bool uniform = columns == ModuleColumns::kUniform;
      LinearAllocation share =
          uniform ? linear.Uniform(1 << bits) : linear.At(bits);
      const double cost = (uniform ? share.bits : bits) * linear.weights();
      if (cost < linear.start()) out.first[m] = std::max(out.first[m], c + 1);
      out.choices[m][c].cost += std::llround(cost);
      out.choices[m][c].loss += sensitivities[l] * share.loss;
      share.bits = bits;  // What QuantizeLinear is asked for.
      out.shares[l].push_back(share);
    }
    if (out.first[m] == kChoices) {
      return absl::InvalidArgumentError(absl::StrCat(
          linear.shape().name,
          ": ranges and level counts alone take more than ", kMaxModuleBits,
          " bits per weight; use larger groups, or count codes only"));
    }
  }
  for (size_t m = 0; m < out.choices.size(); ++m) {
    out.choices[m].erase(out.choices[m].begin(),
                         out.choices[m].begin() + out.first[m]);
  }
  return out;
}

}  // namespace

absl::StatusOr<TradeOff> TradeOff::Create(Shape shape,
                                          absl::Span<const double> curves,
                                          Budget budget) {
  const std::vector<int>& counts = AllowedLevelCounts();
  const int64_t points = static_cast<int64_t>(counts.size());
  if (shape.rows < 1 || shape.columns < 1 || shape.groups < 1 ||
      static_cast<int64_t>(curves.size()) != shape.columns * points) {
    return absl::InvalidArgumentError(absl::StrCat(
        shape.name, ": ", curves.size(), " values are not the curves of a [",
        shape.rows, ", ", shape.columns, "] linear in ", shape.groups,
        " group(s) at ", points, " level counts"));
  }
  TradeOff out;
  out.budget_ = budget;
  out.side_ = SideBits(shape.rows, shape.columns, shape.groups, budget);
  out.costs_ = CostsOf(shape.rows, budget);
  out.code_costs_ = CostsOf(shape.rows, Budget::kCodes);
  out.file_costs_ = CostsOf(shape.rows, Budget::kFile);
  out.level_loss_.resize(points);
  std::vector<int> order(points);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return out.costs_[a] < out.costs_[b]; });
  for (int64_t j = 0; j < shape.columns; ++j) {
    const double* curve = curves.data() + j * points;
    for (int64_t p = 0; p < points; ++p) {
      if (!(curve[p] >= 0) || !std::isfinite(curve[p])) {
        return absl::InvalidArgumentError(
            absl::StrCat(shape.name, ": the distortion of column ", j, " at ",
                         counts[p], " levels is ", curve[p]));
      }
      out.level_loss_[p] += 2 * curve[p];
    }
    const std::vector<int> hull = Hull(curve, out.costs_, order);
    for (size_t i = 1; i < hull.size(); ++i) {
      const int from = hull[i - 1], to = hull[i];
      out.steps_.push_back(
          {2 * (curve[from] - curve[to]) / (out.costs_[to] - out.costs_[from]),
           static_cast<uint8_t>(from), static_cast<uint8_t>(to)});
    }
  }
  std::stable_sort(
      out.steps_.begin(), out.steps_.end(),
      [](const Step& a, const Step& b) { return a.slope > b.slope; });
  out.shape_ = std::move(shape);
  return out;
}

double TradeOff::least(double floor) const {
  return std::max(side_, floor * weights());
}

double TradeOff::most() const {
  const double full = side_ + *std::max_element(costs_.begin(), costs_.end()) *
                                  static_cast<double>(shape_.columns);
  return std::max(least(), std::min(full, kMaxLinearBits * weights()));
}

LinearAllocation TradeOff::Describe(int64_t taken, double fraction) const {
  double bits = side_;
  double code = 0;
  double file =
      SideBits(shape_.rows, shape_.columns, shape_.groups, Budget::kFile);
  double loss = level_loss_[0];
  const auto add = [&](const Step& step, double share) {
    bits += share * Cost(step);
    code += share * (code_costs_[step.to] - code_costs_[step.from]);
    file += share * (file_costs_[step.to] - file_costs_[step.from]);
    loss -= share * step.slope * Cost(step);
  };
  for (int64_t i = 0; i < taken; ++i) add(steps_[i], 1);
  if (fraction > 0) add(steps_[taken], fraction);
  return {.bits = bits / weights(),
          .code_bits = code / weights(),
          .file_bits = file / weights(),
          .loss = std::max(0.0, loss)};
}

LinearAllocation TradeOff::At(double bits) const {
  Cursor cursor{.spent = side_};
  cursor.AdvanceTo(*this, bits * weights());
  return cursor.Describe(*this);
}

LinearAllocation TradeOff::Uniform(int levels) const {
  const std::vector<int>& counts = AllowedLevelCounts();
  const size_t at =
      std::lower_bound(counts.begin(), counts.end(), levels) - counts.begin();
  const double columns = static_cast<double>(shape_.columns);
  const double side =
      SideBits(shape_.rows, shape_.columns, shape_.groups, Budget::kFile);
  return {.bits = (side_ + columns * costs_[at]) / weights(),
          .code_bits = columns * code_costs_[at] / weights(),
          .file_bits = (side + columns * file_costs_[at]) / weights(),
          .loss = level_loss_[at]};
}

absl::StatusOr<ModelAllocation> SpreadEvenly(
    absl::Span<const TradeOff> linears, absl::Span<const double> sensitivities,
    double bits) {
  BW_RETURN_IF_ERROR(CheckSensitivities(linears, sensitivities));
  ModelAllocation out;
  double least = 0;
  for (const TradeOff& linear : linears) {
    least = std::max(least, linear.least() / linear.weights());
  }
  if (bits < least) {
    return TooSmall(bits, least, linears.size(), linears[0].budget());
  }
  for (const TradeOff& linear : linears) {
    out.linears.push_back(linear.At(bits));
    out.linears.back().bits = bits;
  }
  Total(linears, sensitivities, &out);
  return out;
}

absl::StatusOr<ModelAllocation> SpreadLevels(
    absl::Span<const TradeOff> linears, absl::Span<const double> sensitivities,
    int bits) {
  BW_RETURN_IF_ERROR(CheckSensitivities(linears, sensitivities));
  if (bits < 1 || bits > 8) {
    return absl::InvalidArgumentError(
        absl::StrCat("bits must be from 1 to 8, not ", bits));
  }
  ModelAllocation out;
  for (const TradeOff& linear : linears) {
    out.linears.push_back(linear.Uniform(1 << bits));
  }
  Total(linears, sensitivities, &out);
  for (LinearAllocation& linear : out.linears) linear.bits = bits;
  return out;
}

absl::StatusOr<ModelAllocation> WaterFill(
    absl::Span<const TradeOff> linears, absl::Span<const double> sensitivities,
    double bits) {
  BW_RETURN_IF_ERROR(CheckSensitivities(linears, sensitivities));
  const double weights = TotalWeights(linears);
  std::vector<Cursor> cursors(linears.size());
  const double slack = kBitsGrain * weights;
  double floor = std::max(kMinLinearBits, bits - kMostBelowMean);
  if (TotalLeast(linears, floor) > bits * weights + slack) {
    floor = kMinLinearBits;
  }
  const double least = TotalLeast(linears, floor);
  if (!(least <= bits * weights + slack)) {
    return TooSmall(bits, least / weights, linears.size(), linears[0].budget());
  }
  const std::vector<double> level =
      FindLevel(linears, sensitivities, floor, bits * weights);
  double left = bits * weights;
  // What the level leaves goes to the steepest next step; of equal ones, to
  // that of the first linear.
  struct Next {
    double gain;
    size_t linear;
    bool operator<(const Next& other) const {
      return gain != other.gain ? gain < other.gain : linear > other.linear;
    }
  };
  std::priority_queue<Next> queue;
  const auto enqueue = [&](size_t l) {
    const Cursor& cursor = cursors[l];
    if (cursor.AtEnd(linears[l]) || cursor.spent >= linears[l].most()) return;
    queue.push({sensitivities[l] * linears[l].steps()[cursor.taken].slope, l});
  };
  for (size_t l = 0; l < linears.size(); ++l) {
    cursors[l].spent = linears[l].start();
    cursors[l].AdvanceTo(linears[l], level[l]);
    left -= std::max(cursors[l].spent, linears[l].least(floor));
    enqueue(l);
  }
  while (left > 0 && !queue.empty()) {
    const size_t l = queue.top().linear;
    queue.pop();
    Cursor& cursor = cursors[l];
    left -= cursor.Advance(linears[l],
                           std::min(left, linears[l].most() - cursor.spent));
    enqueue(l);
  }
  ModelAllocation out;
  for (size_t l = 0; l < linears.size(); ++l) {
    LinearAllocation share = cursors[l].Describe(linears[l]);
    const double asked = std::max(linears[l].least(floor), cursors[l].spent) /
                         linears[l].weights();
    share.bits =
        std::min(kMaxLinearBits, std::floor(asked / kBitsGrain) * kBitsGrain);
    out.linears.push_back(share);
  }
  Total(linears, sensitivities, &out);
  return out;
}

absl::StatusOr<ModelAllocation> AllocateModules(
    absl::Span<const TradeOff> linears, absl::Span<const double> sensitivities,
    absl::Span<const int> modules, ModuleColumns columns, double bits) {
  BW_RETURN_IF_ERROR(CheckSensitivities(linears, sensitivities));
  if (modules.size() != linears.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        linears.size(), " linears in ", modules.size(), " modules"));
  }
  BW_ASSIGN_OR_RETURN(const Modules table,
                      ListChoices(linears, sensitivities, modules, columns));
  int64_t least = 0;
  for (const std::vector<Choice>& choices : table.choices) {
    least += choices[0].cost;
  }
  const double weights = TotalWeights(linears);
  // A little more, for what the product may lose by rounding.
  const auto budget = static_cast<int64_t>(std::floor(bits * weights + 1e-3));
  if (least > budget) {
    return TooSmall(bits, least / weights, linears.size(), linears[0].budget());
  }
  BW_ASSIGN_OR_RETURN(std::vector<int> picked,
                      SolveChoices(table.choices, budget));
  ModelAllocation out;
  for (size_t l = 0; l < linears.size(); ++l) {
    const size_t m = table.of[l];
    out.linears.push_back(table.shares[l][table.first[m] + picked[m]]);
  }
  Total(linears, sensitivities, &out);
  double spent = 0;
  for (size_t m = 0; m < picked.size(); ++m) {
    spent += static_cast<double>(table.choices[m][picked[m]].cost);
  }
  out.bits = spent / weights;
  return out;
}

}  // namespace bitwright::quant
