// AllocateExact of baq.h: convex hulls first, then local moves.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <numeric>
#include <queue>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "worker/quant/baq.h"
#include "worker/quant/parallel.h"

namespace bitwright::quant {
namespace {

// Costs are whole numbers of 1/65536 bit, rounded up, so that sums are exact
// and "achieved <= asked" cannot fail by a rounding error.
constexpr double kUnitsPerBit = 65536;
// How far below the budget an allocation may stay, in bits per weight.
constexpr double kFillTolerance = 0.004;
constexpr double kBitsSlack = 0x1p-29;
constexpr int kMaxImprovements = 64;
constexpr double kSmallestGain = 1e-7;  // of the whole distortion
constexpr int kNearMoves = 8;           // steps up or down tried by Improve
constexpr int kBisections = 64;
constexpr double kSmallestSlopeRatio = 1e-3;  // between two bisections
constexpr int64_t kExhaustiveColumns = 4;
constexpr size_t kMaxStates = 1 << 16;
constexpr int64_t kHullColumns = 64;  // columns per piece of the hulls

// One column going from its level count to another.
struct Move {
  int64_t cost = 0;
  double change = 0;    // of the distortion
  int64_t column = -1;  // -1: nothing moves
  int to = 0;

  auto Key() const { return std::tie(cost, change, column, to); }
  friend bool operator<(const Move& a, const Move& b) {
    return a.Key() < b.Key();
  }
};

class Allocator {
 public:
  Allocator(absl::Span<const double> curves, int64_t columns,
            std::vector<int64_t> costs, int64_t budget)
      : curves_(curves),
        columns_(columns),
        points_(static_cast<int>(costs.size())),
        costs_(std::move(costs)),
        left_(budget),
        at_(columns, 0),
        by_cost_(points_) {
    std::iota(by_cost_.begin(), by_cost_.end(), 0);
    std::stable_sort(by_cost_.begin(), by_cost_.end(),
                     [&](int a, int b) { return costs_[a] < costs_[b]; });
  }

  // tolerance: how much of the budget may stay unspent, in units.
  const std::vector<int>& Solve(int64_t tolerance) {
    if (columns_ <= kExhaustiveColumns && SolveSmall()) return at_;
    WalkHulls();
    for (int i = 0; i < kMaxImprovements && Improve(); ++i) {
    }
    if (left_ > tolerance) Fill(tolerance);
    return at_;
  }

 private:
  double D(int64_t column, int point) const {
    return curves_[column * points_ + point];
  }

  // The lower convex hull of one column's (cost, distortion).
  struct Hull {
    std::vector<int> points;
    std::vector<double> slopes;  // of the segments, the steepest first
  };
  Hull MakeHull(int64_t column) const {
    Hull hull;
    for (int p : by_cost_) {
      if (!hull.points.empty()) {
        if (D(column, p) >= D(column, hull.points.back())) continue;
        if (costs_[p] == costs_[hull.points.back()]) Drop(hull);
      }
      double slope = 0;
      while (!hull.points.empty()) {
        slope = Slope(column, hull.points.back(), p);
        if (hull.slopes.empty() || hull.slopes.back() > slope) break;
        Drop(hull);
      }
      if (!hull.points.empty()) hull.slopes.push_back(slope);
      hull.points.push_back(p);
    }
    return hull;
  }
  // The last point, and the segment to it.
  static void Drop(Hull& hull) {
    hull.points.pop_back();
    if (!hull.slopes.empty()) hull.slopes.pop_back();
  }

  // Distortion saved per unit spent between two points.
  double Slope(int64_t column, int from, int to) const {
    return (D(column, from) - D(column, to)) /
           static_cast<double>(costs_[to] - costs_[from]);
  }

  // Spends on the steepest hull segments of all columns; a column whose next
  // segment does not fit is left where it is. The slope down to which
  // everything fits is found by bisection, what is left of the budget spent
  // step by step.
  void WalkHulls() {
    std::vector<Hull> hulls(columns_);
    ParallelFor((columns_ + kHullColumns - 1) / kHullColumns, [&](int64_t p) {
      const int64_t end = std::min(columns_, (p + 1) * kHullColumns);
      for (int64_t j = p * kHullColumns; j < end; ++j) hulls[j] = MakeHull(j);
    });
    double steepest = 0;
    for (const Hull& hull : hulls) {
      if (!hull.slopes.empty()) steepest = std::max(steepest, hull.slopes[0]);
    }
    // Segments of column j that are steeper than `slope`.
    auto taken = [&](int64_t j, double slope) {
      const std::vector<double>& slopes = hulls[j].slopes;
      return std::upper_bound(slopes.begin(), slopes.end(), slope,
                              std::greater_equal<>()) -
             slopes.begin();
    };
    double fits = steepest, too_low = 0;
    for (int i = 0; i < kBisections && fits > too_low; ++i) {
      const double slope =
          std::sqrt(fits) *
          std::sqrt(std::max(too_low, fits * kSmallestSlopeRatio));
      int64_t cost = 0;
      for (int64_t j = 0; j < columns_; ++j) {
        cost += costs_[hulls[j].points[taken(j, slope)]];
      }
      (cost <= left_ ? fits : too_low) = slope;
    }
    // (slope, −column): the steepest first, then the lowest column.
    std::priority_queue<std::pair<double, int64_t>> next;
    for (int64_t j = 0; j < columns_; ++j) {
      const size_t at = taken(j, fits);
      at_[j] = hulls[j].points[at];
      left_ -= costs_[at_[j]];
      if (at < hulls[j].slopes.size()) next.push({hulls[j].slopes[at], -j});
    }
    while (!next.empty()) {
      const int64_t j = -next.top().second;
      next.pop();
      const auto& [points, slopes] = hulls[j];
      const size_t at =
          std::find(points.begin(), points.end(), at_[j]) - points.begin();
      const int64_t cost = costs_[points[at + 1]] - costs_[at_[j]];
      if (cost > left_) continue;
      left_ -= cost;
      at_[j] = points[at + 1];
      if (at + 1 < slopes.size()) next.push({slopes[at + 1], -j});
    }
  }

  // For every (from, to) the two columns that lose least by it; `near` steps
  // up and down at most, and to zero. Sorted by cost. The null move included.
  std::vector<Move> Moves(int near) const {
    std::vector<Move> best(points_ * points_ * 2);
    for (int64_t j = 0; j < columns_; ++j) {
      const int from = at_[j];
      const int low = std::max(0, from - near);
      const int high = std::min(points_ - 1, from + near);
      for (int to = low; to <= high; ++to) {
        if (to == from) continue;
        Keep({costs_[to] - costs_[from], D(j, to) - D(j, from), j, to},
             &best[(from * points_ + to) * 2]);
      }
      if (low > 0) {
        Keep({-costs_[from], D(j, 0) - D(j, from), j, 0},
             &best[from * points_ * 2]);
      }
    }
    std::vector<Move> moves{Move{}};
    for (const Move& m : best) {
      if (m.column >= 0) moves.push_back(m);
    }
    std::sort(moves.begin(), moves.end());
    return moves;
  }

  static void Keep(const Move& m, Move* two) {
    if (two[0].column < 0 || m.change < two[0].change) {
      two[1] = two[0];
      two[0] = m;
    } else if (two[1].column < 0 || m.change < two[1].change) {
      two[1] = m;
    }
  }

  void Apply(const Move& m) {
    if (m.column < 0) return;
    at_[m.column] = m.to;
    left_ -= m.cost;
  }

  // Applies the pair of moves that lowers the distortion most within the
  // budget. False when none does.
  bool Improve() {
    const std::vector<Move> moves = Moves(kNearMoves);
    // Best and second-best (on another column) among moves[0..i].
    std::vector<std::pair<int, int>> prefix(moves.size());
    int first = -1, second = -1;
    for (int i = 0; i < static_cast<int>(moves.size()); ++i) {
      if (first < 0 || moves[i].change < moves[first].change) {
        if (first >= 0 && moves[i].column != moves[first].column) {
          second = first;
        }
        first = i;
      } else if (moves[i].column != moves[first].column &&
                 (second < 0 || moves[i].change < moves[second].change)) {
        second = i;
      }
      prefix[i] = {first, second};
    }
    double total = 0;
    for (int64_t j = 0; j < columns_; ++j) total += D(j, at_[j]);
    double best = -kSmallestGain * total;
    std::pair<int, int> pair{-1, -1};
    int end = static_cast<int>(moves.size());  // moves[0..end) fit beside i
    for (int i = 0; i < static_cast<int>(moves.size()); ++i) {
      while (end > 0 && moves[end - 1].cost > left_ - moves[i].cost) --end;
      if (end == 0) break;
      auto [a, b] = prefix[end - 1];
      const int other = moves[a].column != moves[i].column ? a : b;
      if (other < 0) continue;
      const double change = moves[i].change + moves[other].change;
      if (change < best) {
        best = change;
        pair = {i, other};
      }
    }
    if (pair.first < 0) return false;
    Apply(moves[pair.first]);
    Apply(moves[pair.second]);
    return true;
  }

  // Spends the rest of the budget down to `tolerance` with the pair of moves
  // that costs least distortion, if one does.
  void Fill(int64_t tolerance) {
    const std::vector<Move> moves = Moves(points_);
    double best = std::numeric_limits<double>::infinity();
    std::pair<size_t, size_t> pair{0, 0};
    for (size_t i = 0; i < moves.size(); ++i) {
      const Move low{left_ - tolerance - moves[i].cost,
                     -std::numeric_limits<double>::infinity(), -1, 0};
      auto it = std::lower_bound(moves.begin(), moves.end(), low);
      for (; it != moves.end() && it->cost <= left_ - moves[i].cost; ++it) {
        if (it->column == moves[i].column) continue;
        if (moves[i].change + it->change < best) {
          best = moves[i].change + it->change;
          pair = {i, it - moves.begin()};
        }
      }
    }
    if (!std::isfinite(best)) return;
    Apply(moves[pair.first]);
    Apply(moves[pair.second]);
  }

  // All Pareto-optimal (cost, distortion) sums, column by column. False when
  // there are too many.
  bool SolveSmall() {
    struct State {
      int64_t cost;
      double distortion;
      int32_t before, point;
    };
    std::vector<std::vector<State>> stages{{{0, 0.0, -1, 0}}};
    for (int64_t j = 0; j < columns_; ++j) {
      std::vector<State> next;
      for (size_t s = 0; s < stages.back().size(); ++s) {
        const State& state = stages.back()[s];
        for (int p = 0; p < points_; ++p) {
          if (state.cost + costs_[p] > left_) continue;
          next.push_back({state.cost + costs_[p], state.distortion + D(j, p),
                          static_cast<int32_t>(s), p});
        }
      }
      std::stable_sort(next.begin(), next.end(),
                       [](const State& a, const State& b) {
                         return std::tie(a.cost, a.distortion) <
                                std::tie(b.cost, b.distortion);
                       });
      std::vector<State> kept;
      for (const State& s : next) {
        if (kept.empty() || s.distortion < kept.back().distortion) {
          kept.push_back(s);
        }
      }
      if (kept.size() > kMaxStates) return false;
      stages.push_back(std::move(kept));
    }
    int32_t s = static_cast<int32_t>(stages.back().size()) - 1;
    left_ -= stages.back()[s].cost;
    for (int64_t j = columns_ - 1; j >= 0; --j) {
      at_[j] = stages[j + 1][s].point;
      s = stages[j + 1][s].before;
    }
    return true;
  }

  const absl::Span<const double> curves_;
  const int64_t columns_;
  const int points_;
  // Of one column, by point. Not increasing in a file: 31 levels take more than
  // 32, which are a power of two.
  const std::vector<int64_t> costs_;
  int64_t left_;              // of the budget
  std::vector<int> at_;       // point of every column
  std::vector<int> by_cost_;  // points in ascending order of cost
};

}  // namespace

absl::StatusOr<Allocation> AllocateExact(absl::Span<const double> curves,
                                         int64_t columns,
                                         const AllocationProblem& problem) {
  const std::vector<int>& counts = AllowedLevelCounts();
  const double weights = static_cast<double>(problem.rows * columns);
  const double side =
      SideBits(problem.rows, columns, problem.groups, problem.budget);
  double available = problem.bits * weights - side;
  // What a share of a larger budget is rounded down by (model_scope.cc).
  if (available < 0 && available >= -kBitsSlack * weights) available = 0;
  if (!(available >= 0)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%g bits per weight are asked for, but the ranges and level counts of "
        "a [%d, %d] layer with %d group(s) alone take %.4f in the file; ask "
        "for more, use larger groups, or count codes only",
        problem.bits, problem.rows, columns, problem.groups, side / weights));
  }
  std::vector<int64_t> costs;
  for (int levels : counts) {
    costs.push_back(static_cast<int64_t>(std::ceil(
        kUnitsPerBit * ColumnBits(problem.rows, levels, problem.budget))));
  }
  Allocator allocator(curves, columns, std::move(costs),
                      static_cast<int64_t>(available * kUnitsPerBit));
  const std::vector<int>& at = allocator.Solve(
      static_cast<int64_t>(kFillTolerance * weights * kUnitsPerBit));
  Allocation result;
  for (int64_t j = 0; j < columns; ++j) {
    result.levels.push_back(static_cast<uint16_t>(counts[at[j]]));
    result.distortion += curves[j * counts.size() + at[j]];
  }
  result.bits = BitsPerWeight(problem.rows, problem.groups, result.levels,
                              problem.budget);
  return result;
}

}  // namespace bitwright::quant
