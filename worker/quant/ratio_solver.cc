#include "worker/quant/ratio_solver.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <string>
#include <unordered_set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/quant/pareto_front.h"
#include "worker/quant/ratio_search.h"

namespace bitwright::quant {
namespace {

// Of M's largest entry: by how much M may differ from its transpose.
constexpr double kAsymmetry = 1e-9;
// How many choices of linears that act on each other are all tried.
constexpr int64_t kMostChoices = int64_t{1} << 21;
constexpr double kMostBudgetBits = 4e18;  // of all linears
constexpr int kMostBitsOfRow = 16;
constexpr size_t kMatrixTile = 64;

bool EntryCounts(const RatioProblem& problem, size_t l, size_t k,
                 Interactions interactions) {
  if (l == k || interactions == Interactions::kAll) return true;
  return interactions == Interactions::kBlock &&
         problem.linears[l].block == problem.linears[k].block;
}

absl::Status CheckRatioOptions(const RatioProblem& problem) {
  if (problem.linears.empty() || problem.ratios.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("there are ", problem.linears.size(), " linears and ",
                     problem.ratios.size(),
                     " ratios to choose from; give one or more of "
                     "each"));
  }
  double before = 0;
  for (double ratio : problem.ratios) {
    if (!(ratio > before && ratio < 1)) {
      return absl::InvalidArgumentError(
          absl::StrCat("ratio ", ratio, " after ", before,
                       ": ratios must be above 0, below 1 and ascending"));
    }
    before = ratio;
  }
  if (problem.bits_normal < 1 || problem.bits_high <= problem.bits_normal ||
      problem.bits_high > kMostBitsOfRow) {
    return absl::InvalidArgumentError(absl::StrCat(
        "rows of ", problem.bits_normal, " and of ", problem.bits_high,
        " bits: the first must be 1 or more, the second above it and at most ",
        kMostBitsOfRow));
  }
  return absl::OkStatus();
}

absl::Status CheckRatioLinears(const RatioProblem& problem) {
  std::unordered_set<int64_t> blocks;
  for (size_t l = 0; l < problem.linears.size(); ++l) {
    const RatioLinear& linear = problem.linears[l];
    if (linear.rows < 1 || linear.cols < 1 ||
        static_cast<double>(linear.rows) * static_cast<double>(linear.cols) *
                kMostBitsOfRow >
            kMostBudgetBits) {
      return absl::InvalidArgumentError(
          absl::StrCat("linear ", l, " has ", linear.rows, " rows and ",
                       linear.cols, " columns, which is no size of a matrix"));
    }
    if (l > 0 && linear.block == problem.linears[l - 1].block) continue;
    if (!blocks.insert(linear.block).second) {
      return absl::InvalidArgumentError(absl::StrCat(
          "linear ", l, " is of block ", linear.block,
          ", and so is one that comes before another block; put the linears "
          "of a block one after the other"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckLossMatrix(const RatioProblem& problem) {
  const size_t n = problem.linears.size() * problem.ratios.size();
  if (problem.m.size() / n != n || problem.m.size() % n != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "M has ", problem.m.size(), " values; ", problem.linears.size(),
        " linears with ", problem.ratios.size(), " options each need ", n,
        " rows of ", n));
  }
  double largest = 0;
  for (size_t i = 0; i < problem.m.size(); ++i) {
    // So that sums over it are finite, too.
    if (!(std::abs(problem.m[i]) <=
          std::numeric_limits<double>::max() / 8 /
              static_cast<double>(problem.m.size()))) {
      return absl::InvalidArgumentError(
          absl::StrCat("M[", i / n, ", ", i % n, "] is ", problem.m[i],
                       ", not a number that can be added up"));
    }
    largest = std::max(largest, std::abs(problem.m[i]));
  }
  for (size_t r = 0; r < n; r += kMatrixTile) {
    for (size_t c = 0; c <= r; c += kMatrixTile) {
      for (size_t i = r; i < std::min(n, r + kMatrixTile); ++i) {
        for (size_t j = c; j < std::min(i, c + kMatrixTile); ++j) {
          const double a = problem.m[i * n + j], b = problem.m[j * n + i];
          if (std::abs(a - b) <= kAsymmetry * largest) continue;
          return absl::InvalidArgumentError(
              absl::StrCat("M must be symmetric, but M[", i, ", ", j, "] is ",
                           a, " and M[", j, ", ", i, "] is ", b));
        }
      }
    }
  }
  return absl::OkStatus();
}

absl::Status CheckRatioBudget(const RatioProblem& problem,
                              absl::Span<const int64_t> costs) {
  const size_t options = problem.ratios.size();
  int64_t least = 0, most = 0;
  double sum = 0;
  for (size_t at = 0; at < costs.size(); at += options) {
    const auto [low, high] =
        std::minmax_element(&costs[at], &costs[at] + options);
    if (*low < 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("an option of linear ", at / options, " takes ", *low,
                       " bits; it must take 1 or more"));
    }
    sum += static_cast<double>(*high);
    if (sum > kMostBudgetBits) {
      return absl::InvalidArgumentError(
          absl::StrCat("the first ", at / options + 1, " linears take ", sum,
                       " bits, which are too many to count"));
    }
    least += *low;
    most += *high;
  }
  if (problem.budget_bits >= least && problem.budget_bits <= most) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "a budget of ", problem.budget_bits, " bits is ",
      problem.budget_bits < least ? "below what the options take at least"
                                  : "above what the options take at most",
      "; give one from ", least, " (the smallest option for every linear) to ",
      most, " (the largest)"));
}

// The problem's costs, once all of it is found to be sound.
absl::StatusOr<std::vector<int64_t>> CheckedCosts(const RatioProblem& problem) {
  BW_RETURN_IF_ERROR(CheckRatioOptions(problem));
  BW_RETURN_IF_ERROR(CheckRatioLinears(problem));
  BW_RETURN_IF_ERROR(CheckLossMatrix(problem));
  std::vector<int64_t> costs = problem.costs;
  const size_t n = problem.linears.size() * problem.ratios.size();
  if (costs.empty()) {
    for (const RatioLinear& linear : problem.linears) {
      for (double ratio : problem.ratios) {
        costs.push_back(
            RatioCost(linear, ratio, problem.bits_normal, problem.bits_high));
      }
    }
  }
  if (costs.size() != n) {
    return absl::InvalidArgumentError(absl::StrCat("there are ", costs.size(),
                                                   " costs for ", n,
                                                   " options of all linears"));
  }
  BW_RETURN_IF_ERROR(CheckRatioBudget(problem, costs));
  return costs;
}

RatioSolution MakeSolution(const RatioProblem& problem,
                           absl::Span<const int64_t> costs,
                           Interactions interactions, std::vector<int> choice,
                           bool optimal) {
  RatioSolution solution{.choice = std::move(choice), .optimal = optimal};
  const size_t options = problem.ratios.size();
  for (size_t l = 0; l < solution.choice.size(); ++l) {
    solution.bits += costs[l * options + solution.choice[l]];
  }
  solution.objective = RatioObjective(problem, solution.choice, interactions);
  return solution;
}

// The linears in groups that have no entry of M in common, except for zeros:
// each ascending, and by their first linear.
std::vector<std::vector<size_t>> ActingGroups(const RatioProblem& problem,
                                              Interactions interactions) {
  const size_t linears = problem.linears.size(), b = problem.ratios.size(),
               n = linears * b;
  std::vector<size_t> first(linears);  // of the linear's group
  std::iota(first.begin(), first.end(), 0);
  const auto act = [&](size_t l, size_t k) {
    for (size_t i = l * b; i < (l + 1) * b; ++i) {
      for (size_t j = k * b; j < (k + 1) * b; ++j) {
        if (problem.m[i * n + j] != 0 || problem.m[j * n + i] != 0) return true;
      }
    }
    return false;
  };
  for (size_t l = 0; l < linears; ++l) {
    for (size_t k = 0; k < l; ++k) {
      if (first[k] == first[l] || !EntryCounts(problem, l, k, interactions) ||
          !act(l, k)) {
        continue;
      }
      const size_t from = std::max(first[k], first[l]);
      const size_t to = std::min(first[k], first[l]);
      std::replace(first.begin(), first.begin() + l + 1, from, to);
    }
  }
  std::vector<std::vector<size_t>> groups(linears);
  for (size_t l = 0; l < linears; ++l) groups[first[l]].push_back(l);
  std::erase_if(groups, [](const auto& group) { return group.empty(); });
  return groups;
}

// All choices of a group's linears, the last linear's fastest.
class GroupEnumeration {
 public:
  GroupEnumeration(const RatioProblem& problem, absl::Span<const int64_t> costs,
                   absl::Span<const size_t> group)
      : options_(problem.ratios.size()), levels_(group.size()) {
    const size_t n = costs.size(), size = levels_ * options_;
    const auto index = [&](size_t i) {
      return group[i / options_] * options_ + i % options_;
    };
    pairs_.resize(size * size);
    terms_.resize(levels_, std::vector<double>(size));
    for (size_t i = 0; i < size; ++i) {
      costs_.push_back(costs[index(i)]);
      terms_[0][i] = problem.m[index(i) * n + index(i)];
      for (size_t j = 0; j < size; ++j) {
        pairs_[i * size + j] = problem.m[index(i) * n + index(j)] +
                               problem.m[index(j) * n + index(i)];
      }
    }
  }

  std::vector<FrontPoint> Front() {
    Expand(0, 0, 0);
    return ParetoFront(values_, bits_);
  }

 private:
  // terms_[level]: what each option adds to what is chosen for the linears
  // before `level`.
  void Expand(size_t level, double value, int64_t bits) {
    const size_t size = levels_ * options_;
    for (size_t i = level * options_; i < (level + 1) * options_; ++i) {
      const double with = value + terms_[level][i];
      if (level + 1 == levels_) {
        values_.push_back(with);
        bits_.push_back(bits + costs_[i]);
        continue;
      }
      for (size_t j = (level + 1) * options_; j < size; ++j) {
        terms_[level + 1][j] = terms_[level][j] + pairs_[i * size + j];
      }
      Expand(level + 1, with, bits + costs_[i]);
    }
  }

  size_t options_, levels_;
  std::vector<int64_t> costs_;
  std::vector<double> pairs_;  // what two options add together
  std::vector<std::vector<double>> terms_;
  std::vector<double> values_;
  std::vector<int64_t> bits_;
};

// By trying all choices of each group; no choice where there are too many.
RatioSolution SolveExactly(const RatioProblem& problem,
                           absl::Span<const int64_t> costs,
                           Interactions interactions) {
  const std::vector<std::vector<size_t>> groups =
      ActingGroups(problem, interactions);
  const size_t options = problem.ratios.size();
  for (const std::vector<size_t>& group : groups) {
    if (std::pow(static_cast<double>(options), group.size()) > kMostChoices) {
      return {};
    }
  }
  std::vector<std::vector<FrontPoint>> fronts;
  for (const std::vector<size_t>& group : groups) {
    fronts.push_back(GroupEnumeration(problem, costs, group).Front());
  }
  const FrontChoice found = CombineFronts(fronts, problem.budget_bits);
  std::vector<int> choice(problem.linears.size());
  for (size_t g = 0; g < groups.size(); ++g) {
    int64_t index = fronts[g][found.picked[g]].index;
    for (size_t i = groups[g].size(); i-- > 0;) {
      choice[groups[g][i]] = static_cast<int>(index % options);
      index /= static_cast<int64_t>(options);
    }
  }
  return MakeSolution(problem, costs, interactions, std::move(choice),
                      found.optimal);
}

// The entries that count, made exactly symmetric.
std::vector<double> CountedMatrix(const RatioProblem& problem,
                                  Interactions interactions) {
  const size_t b = problem.ratios.size(), n = problem.linears.size() * b;
  std::vector<double> counted(n * n);
  for (size_t r = 0; r < n; r += kMatrixTile) {
    for (size_t c = 0; c < n; c += kMatrixTile) {
      for (size_t i = r; i < std::min(n, r + kMatrixTile); ++i) {
        for (size_t j = c; j < std::min(n, c + kMatrixTile); ++j) {
          if (!EntryCounts(problem, i / b, j / b, interactions)) continue;
          counted[i * n + j] =
              (problem.m[i * n + j] + problem.m[j * n + i]) / 2;
        }
      }
    }
  }
  return counted;
}

bool BetterSolution(const RatioSolution& a, const RatioSolution& b) {
  if (b.choice.empty() || a.objective != b.objective) {
    return b.choice.empty() || a.objective < b.objective;
  }
  return a.bits < b.bits;
}

// The best option for all linears; no choice when none is within the budget.
RatioSolution BestUniform(const RatioProblem& problem,
                          absl::Span<const int64_t> costs,
                          Interactions interactions) {
  RatioSolution best;
  for (size_t o = 0; o < problem.ratios.size(); ++o) {
    std::vector<int> choice(problem.linears.size(), static_cast<int>(o));
    RatioSolution solution = MakeSolution(problem, costs, interactions,
                                          std::move(choice), /*optimal=*/false);
    if (solution.bits <= problem.budget_bits &&
        BetterSolution(solution, best)) {
      best = std::move(solution);
    }
  }
  return best;
}

RatioSolution SolveOrSearch(const RatioProblem& problem,
                            absl::Span<const int64_t> costs,
                            Interactions interactions) {
  RatioSolution best = SolveExactly(problem, costs, interactions);
  // What counts the diagonal only is always tried.
  if (best.optimal || interactions == Interactions::kNone) return best;
  std::vector<RatioSolution> starts{
      std::move(best), SolveOrSearch(problem, costs, Interactions::kNone),
      BestUniform(problem, costs, interactions)};
  if (interactions == Interactions::kAll) {
    starts.push_back(SolveOrSearch(problem, costs, Interactions::kBlock));
  }
  const std::vector<double> m = CountedMatrix(problem, interactions);
  best = {};
  for (RatioSolution& start : starts) {
    if (start.choice.empty()) continue;
    ImproveChoice({.options = static_cast<int64_t>(problem.ratios.size()),
                   .m = m,
                   .costs = costs,
                   .budget = problem.budget_bits},
                  &start.choice);
    RatioSolution improved =
        MakeSolution(problem, costs, interactions, std::move(start.choice),
                     /*optimal=*/false);
    if (BetterSolution(improved, best)) best = std::move(improved);
  }
  return best;
}

}  // namespace

int64_t HighRows(double ratio, int64_t rows) {
  return std::clamp<int64_t>(std::llround(ratio * static_cast<double>(rows)), 0,
                             rows);
}

int64_t RatioCost(const RatioLinear& linear, double ratio, int bits_normal,
                  int bits_high) {
  return linear.rows * linear.cols * bits_normal +
         HighRows(ratio, linear.rows) * linear.cols *
             (bits_high - bits_normal) +
         linear.rows;
}

double RatioObjective(const RatioProblem& problem, absl::Span<const int> choice,
                      Interactions interactions) {
  const size_t b = problem.ratios.size(), n = choice.size() * b;
  double objective = 0;
  for (size_t l = 0; l < choice.size(); ++l) {
    const double* row = &problem.m[(l * b + choice[l]) * n];
    for (size_t k = 0; k < choice.size(); ++k) {
      if (EntryCounts(problem, l, k, interactions))
        objective += row[k * b + choice[k]];
    }
  }
  return objective;
}

absl::StatusOr<RatioSolution> SolveRatios(const RatioProblem& problem,
                                          Interactions interactions) {
  BW_ASSIGN_OR_RETURN(const std::vector<int64_t> costs, CheckedCosts(problem));
  return SolveOrSearch(problem, costs, interactions);
}

absl::StatusOr<RatioSolution> UniformRatio(const RatioProblem& problem) {
  BW_ASSIGN_OR_RETURN(const std::vector<int64_t> costs, CheckedCosts(problem));
  RatioSolution best = BestUniform(problem, costs, Interactions::kAll);
  if (!best.choice.empty()) return best;
  const size_t options = problem.ratios.size();
  std::vector<int64_t> bits(options);
  for (size_t i = 0; i < costs.size(); ++i) bits[i % options] += costs[i];
  const auto [least, most] = std::minmax_element(bits.begin(), bits.end());
  return absl::InvalidArgumentError(absl::StrCat(
      "a budget of ", problem.budget_bits,
      " bits is below what one ratio for all linears takes; give one from ",
      *least, " to ", *most));
}

}  // namespace bitwright::quant
