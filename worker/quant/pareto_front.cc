#include "worker/quant/pareto_front.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <optional>
#include <tuple>
#include <utility>

namespace bitwright::quant {
namespace {

// Of a bound, relative: it may not exclude an optimum by a rounding error.
constexpr double kBoundSlack = 1e-12;
// By this many ranges of bits options are sifted before they are sorted.
constexpr int64_t kBitRanges = 4096;
// What is held of sums: at once before they are sifted, of one stage, and of
// all stages (24 bytes each). Far above what models of 80 blocks come to.
constexpr size_t kSiftSums = size_t{1} << 20;
constexpr size_t kMostOfStage = size_t{1} << 22;
constexpr size_t kMostOfAll = size_t{1} << 23;
// The share of the gap between bound and possible selection in which the
// optimum is first looked for, and how it then grows.
constexpr double kFirstShare = 1.0 / 256;
constexpr double kShareGrowth = 4;

using FrontSpan = absl::Span<const std::vector<FrontPoint>>;

// What the fronts' lower convex hulls tell.
struct Relaxation {
  double price = 0;                // λ: value per bit
  std::vector<int> picked;         // a selection that is possible
  double value = 0;                // of it
  double size = 0;                 // of the numbers that are added up
  std::vector<double> rest;        // Σ_{g >= k} min (value + λ·bits)
  std::vector<int64_t> rest_bits;  // Σ_{g >= k} min bits
};

struct FrontStep {
  double slope;
  size_t group;
  int from, to;
};

void AddHullSteps(const std::vector<FrontPoint>& front, size_t group,
                  std::vector<FrontStep>* steps) {
  const auto slope = [&](int from, int to) {
    return (front[from].value - front[to].value) /
           static_cast<double>(front[to].bits - front[from].bits);
  };
  std::vector<int> hull;
  for (int p = 0; p < static_cast<int>(front.size()); ++p) {
    while (hull.size() >= 2 &&
           slope(hull[hull.size() - 2], hull.back()) <= slope(hull.back(), p)) {
      hull.pop_back();
    }
    hull.push_back(p);
  }
  for (size_t i = 1; i < hull.size(); ++i) {
    steps->push_back(
        {slope(hull[i - 1], hull[i]), group, hull[i - 1], hull[i]});
  }
}

// Walks the hulls, steepest step first, while the budget lasts. The price is
// that of the first step that does not fit.
Relaxation RelaxFronts(FrontSpan fronts, int64_t budget) {
  Relaxation relaxed;
  relaxed.picked.assign(fronts.size(), 0);
  std::vector<FrontStep> steps;
  int64_t left = budget;
  for (size_t g = 0; g < fronts.size(); ++g) {
    left -= fronts[g][0].bits;
    AddHullSteps(fronts[g], g, &steps);
  }
  std::stable_sort(
      steps.begin(), steps.end(),
      [](const FrontStep& a, const FrontStep& b) { return a.slope > b.slope; });
  for (const FrontStep& s : steps) {
    if (relaxed.picked[s.group] != s.from) continue;
    const int64_t bits =
        fronts[s.group][s.to].bits - fronts[s.group][s.from].bits;
    if (bits > left) {
      relaxed.price = std::max(relaxed.price, s.slope);
      continue;
    }
    relaxed.picked[s.group] = s.to;
    left -= bits;
  }
  relaxed.size = relaxed.price * static_cast<double>(budget);
  relaxed.rest.assign(fronts.size() + 1, 0);
  relaxed.rest_bits.assign(fronts.size() + 1, 0);
  for (size_t g = fronts.size(); g-- > 0;) {
    double least = std::numeric_limits<double>::infinity();
    for (const FrontPoint& p : fronts[g]) {
      least = std::min(least,
                       p.value + relaxed.price * static_cast<double>(p.bits));
    }
    relaxed.rest[g] = relaxed.rest[g + 1] + least;
    relaxed.rest_bits[g] = relaxed.rest_bits[g + 1] + fronts[g][0].bits;
    relaxed.value += fronts[g][relaxed.picked[g]].value;
    relaxed.size += std::max(std::abs(fronts[g].front().value),
                             std::abs(fronts[g].back().value));
  }
  return relaxed;
}

// A sum over the first groups, and how it came about.
struct FrontSum {
  int64_t bits = 0;
  double value = 0;
  int32_t before = -1;  // index among the sums over one group less
  int32_t point = 0;
};

// The Pareto-optimal ones, by ascending bits and descending value.
void KeepUndominatedSums(std::vector<FrontSum>* states) {
  std::stable_sort(
      states->begin(), states->end(), [](const FrontSum& a, const FrontSum& b) {
        return std::tie(a.bits, a.value) < std::tie(b.bits, b.value);
      });
  size_t kept = 0;
  for (const FrontSum& state : *states) {
    if (kept > 0 && state.value >= (*states)[kept - 1].value) continue;
    (*states)[kept++] = state;
  }
  states->resize(kept);
}

// Which points may be part of a selection with value <= ceiling: the fronts,
// as indices.
std::vector<std::vector<int32_t>> PossiblePoints(FrontSpan fronts,
                                                 const Relaxation& relaxed,
                                                 int64_t budget,
                                                 double ceiling) {
  const double bound =
      relaxed.rest[0] - relaxed.price * static_cast<double>(budget);
  std::vector<std::vector<int32_t>> possible(fronts.size());
  for (size_t g = 0; g < fronts.size(); ++g) {
    const double least = relaxed.rest[g] - relaxed.rest[g + 1];
    for (size_t p = 0; p < fronts[g].size(); ++p) {
      const double with =
          fronts[g][p].value +
          relaxed.price * static_cast<double>(fronts[g][p].bits) - least;
      if (bound + with <= ceiling) {
        possible[g].push_back(static_cast<int32_t>(p));
      }
    }
  }
  return possible;
}

struct FrontSearch {
  bool complete = true;     // false: too many sums
  std::vector<int> picked;  // empty: there is none
};

// The best of all selections with value <= ceiling, by dynamic programming over
// the undominated sums, without those that the bound excludes.
FrontSearch SearchBelow(FrontSpan fronts, const Relaxation& relaxed,
                        int64_t budget, double ceiling) {
  const std::vector<std::vector<int32_t>> possible =
      PossiblePoints(fronts, relaxed, budget, ceiling);
  const double most = ceiling + relaxed.price * static_cast<double>(budget);
  std::vector<std::vector<FrontSum>> stages{{FrontSum{}}};
  size_t held = 0;
  for (size_t g = 0; g < fronts.size(); ++g) {
    const std::vector<FrontSum>& stage = stages.back();
    const int64_t room = budget - relaxed.rest_bits[g + 1];
    std::vector<FrontSum> next;
    size_t sift = kSiftSums;
    for (size_t s = 0; s < stage.size(); ++s) {
      for (int32_t p : possible[g]) {
        const FrontSum sum{stage[s].bits + fronts[g][p].bits,
                           stage[s].value + fronts[g][p].value,
                           static_cast<int32_t>(s), p};
        if (sum.bits > room) break;
        if (sum.value + relaxed.price * static_cast<double>(sum.bits) +
                relaxed.rest[g + 1] <=
            most) {
          next.push_back(sum);
        }
      }
      if (next.size() < sift) continue;
      KeepUndominatedSums(&next);
      if (next.size() > kMostOfStage) return {.complete = false, .picked = {}};
      sift = std::max(kSiftSums, 2 * next.size());
    }
    KeepUndominatedSums(&next);
    held += next.size();
    if (held > kMostOfAll) return {.complete = false, .picked = {}};
    if (next.empty()) return {};
    stages.push_back(std::move(next));
  }
  // What leaves bits unused passes the bound with a higher value.
  if (stages.back().back().value > ceiling) return {};
  FrontSearch search;
  search.picked.resize(fronts.size());
  int32_t s = static_cast<int32_t>(stages.back().size()) - 1;
  for (size_t g = fronts.size(); g-- > 0;) {
    search.picked[g] = stages[g + 1][s].point;
    s = stages[g + 1][s].before;
  }
  return search;
}

}  // namespace

std::vector<FrontPoint> ParetoFront(absl::Span<const double> values,
                                    absl::Span<const int64_t> bits) {
  const auto [least, most] = std::minmax_element(bits.begin(), bits.end());
  const int64_t width = (*most - *least) / kBitRanges + 1;
  // The least value below the end of each range.
  std::vector<double> below(kBitRanges + 1,
                            std::numeric_limits<double>::infinity());
  for (size_t i = 0; i < values.size(); ++i) {
    double& value = below[(bits[i] - *least) / width + 1];
    value = std::min(value, values[i]);
  }
  for (int64_t r = 1; r <= kBitRanges; ++r) {
    below[r] = std::min(below[r], below[r - 1]);
  }
  std::vector<FrontPoint> points;
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] < below[(bits[i] - *least) / width]) {
      points.push_back({bits[i], values[i], static_cast<int64_t>(i)});
    }
  }
  std::stable_sort(points.begin(), points.end(),
                   [](const FrontPoint& a, const FrontPoint& b) {
                     return std::tie(a.bits, a.value) <
                            std::tie(b.bits, b.value);
                   });
  std::vector<FrontPoint> front;
  for (const FrontPoint& point : points) {
    if (front.empty() || point.value < front.back().value) {
      front.push_back(point);
    }
  }
  return front;
}

FrontChoice CombineFronts(FrontSpan fronts, int64_t budget) {
  const Relaxation relaxed = RelaxFronts(fronts, budget);
  const double bound =
      relaxed.rest[0] - relaxed.price * static_cast<double>(budget);
  const double slack = kBoundSlack * relaxed.size;
  for (double share = kFirstShare; share <= 1; share *= kShareGrowth) {
    const double ceiling = bound + share * (relaxed.value - bound) + slack;
    FrontSearch search = SearchBelow(fronts, relaxed, budget, ceiling);
    if (!search.complete) break;
    if (!search.picked.empty()) {
      return {.picked = std::move(search.picked), .optimal = true};
    }
  }
  return {.picked = relaxed.picked, .optimal = false};
}

}  // namespace bitwright::quant
