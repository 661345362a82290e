// SolveChoices of model_scope.h: the multiple-choice knapsack, exactly.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <tuple>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "worker/quant/model_scope.h"

namespace bitwright::quant {
namespace {

// Of the bound, relative: it may not exclude an optimum by a rounding error.
constexpr double kSlack = 1e-11;

struct Bound {
  double price = 0;                // λ: loss per unit of cost
  double loss = 0;                 // of a selection that is possible
  std::vector<double> rest;        // Σ_{g >= k} min (loss + λ·cost)
  std::vector<int64_t> rest_cost;  // Σ_{g >= k} min cost
};

struct Step {
  double slope;
  size_t group;
  int from, to;
};

// Walks the groups' hulls while the budget lasts: a possible selection, and the
// price at which the first step did not fit.
Bound MakeBound(absl::Span<const std::vector<Choice>> groups, int64_t budget) {
  Bound bound;
  std::vector<Step> steps;
  std::vector<int> at(groups.size());
  for (size_t g = 0; g < groups.size(); ++g) {
    const std::vector<Choice>& choices = groups[g];
    std::vector<int> order(choices.size());
    for (size_t c = 0; c < order.size(); ++c) order[c] = static_cast<int>(c);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
      return std::tie(choices[a].cost, choices[a].loss) <
             std::tie(choices[b].cost, choices[b].loss);
    });
    const auto slope = [&](int from, int to) {
      return (choices[from].loss - choices[to].loss) /
             static_cast<double>(choices[to].cost - choices[from].cost);
    };
    std::vector<int> hull;
    for (int c : order) {
      if (!hull.empty() && choices[c].loss >= choices[hull.back()].loss)
        continue;
      while (hull.size() >= 2 && slope(hull[hull.size() - 2], hull.back()) <=
                                     slope(hull.back(), c)) {
        hull.pop_back();
      }
      hull.push_back(c);
    }
    at[g] = hull[0];
    budget -= choices[hull[0]].cost;
    for (size_t i = 1; i < hull.size(); ++i) {
      steps.push_back({slope(hull[i - 1], hull[i]), g, hull[i - 1], hull[i]});
    }
  }
  std::stable_sort(
      steps.begin(), steps.end(),
      [](const Step& a, const Step& b) { return a.slope > b.slope; });
  for (const Step& s : steps) {
    if (at[s.group] != s.from) continue;
    const int64_t cost =
        groups[s.group][s.to].cost - groups[s.group][s.from].cost;
    if (cost > budget) {
      bound.price = std::max(bound.price, s.slope);
      continue;
    }
    at[s.group] = s.to;
    budget -= cost;
  }
  for (size_t g = 0; g < groups.size(); ++g) {
    bound.loss += groups[g][at[g]].loss;
  }
  return bound;
}

void AddRests(absl::Span<const std::vector<Choice>> groups, Bound* bound) {
  bound->rest.assign(groups.size() + 1, 0);
  bound->rest_cost.assign(groups.size() + 1, 0);
  for (size_t g = groups.size(); g-- > 0;) {
    double least = std::numeric_limits<double>::infinity();
    int64_t cheapest = std::numeric_limits<int64_t>::max();
    for (const Choice& choice : groups[g]) {
      least = std::min(
          least, choice.loss + bound->price * static_cast<double>(choice.cost));
      cheapest = std::min(cheapest, choice.cost);
    }
    bound->rest[g] = bound->rest[g + 1] + least;
    bound->rest_cost[g] = bound->rest_cost[g + 1] + cheapest;
  }
}

// A sum over the first groups, and how it came about.
struct State {
  int64_t cost = 0;
  double loss = 0;
  int32_t before = -1;  // Index among the states of one group less.
  int32_t choice = 0;
};

// The Pareto-optimal ones, by ascending cost and descending loss.
std::vector<State> Undominated(std::vector<State> states) {
  std::stable_sort(states.begin(), states.end(),
                   [](const State& a, const State& b) {
                     return std::tie(a.cost, a.loss) < std::tie(b.cost, b.loss);
                   });
  std::vector<State> kept;
  for (const State& state : states) {
    if (kept.empty() || state.loss < kept.back().loss) kept.push_back(state);
  }
  return kept;
}

}  // namespace

absl::StatusOr<std::vector<int>> SolveChoices(
    absl::Span<const std::vector<Choice>> groups, int64_t budget) {
  for (size_t g = 0; g < groups.size(); ++g) {
    if (!groups[g].empty()) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("group ", g, " has nothing to choose from"));
  }
  Bound bound;
  AddRests(groups, &bound);
  if (bound.rest_cost[0] > budget) {
    return absl::InvalidArgumentError(
        absl::StrCat("the cheapest choices cost ", bound.rest_cost[0],
                     ", above the budget of ", budget));
  }
  bound = MakeBound(groups, budget);
  AddRests(groups, &bound);
  const double total = static_cast<double>(budget) * bound.price;
  const double ceiling =
      bound.loss + total + kSlack * (bound.loss + std::abs(total));
  std::vector<std::vector<State>> stages{{State{}}};
  for (size_t g = 0; g < groups.size(); ++g) {
    std::vector<State> next;
    for (size_t s = 0; s < stages.back().size(); ++s) {
      const State& state = stages.back()[s];
      for (size_t c = 0; c < groups[g].size(); ++c) {
        const Choice& choice = groups[g][c];
        const State sum{state.cost + choice.cost, state.loss + choice.loss,
                        static_cast<int32_t>(s), static_cast<int32_t>(c)};
        if (sum.cost + bound.rest_cost[g + 1] > budget) continue;
        if (sum.loss + bound.price * static_cast<double>(sum.cost) +
                bound.rest[g + 1] >
            ceiling) {
          continue;
        }
        next.push_back(sum);
      }
    }
    stages.push_back(Undominated(std::move(next)));
  }
  std::vector<int> picked(groups.size());
  int32_t s = static_cast<int32_t>(stages.back().size()) - 1;
  for (size_t g = groups.size(); g-- > 0;) {
    picked[g] = stages[g + 1][s].choice;
    s = stages[g + 1][s].before;
  }
  return picked;
}

}  // namespace bitwright::quant
