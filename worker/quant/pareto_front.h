// Options of several groups under one budget, when a group has very many: only
// those count that no other of the group beats in both bits and value.
//
//   std::vector<std::vector<FrontPoint>> fronts;
//   for (...) fronts.push_back(ParetoFront(values, bits));
//   FrontChoice choice = CombineFronts(fronts, budget);
//   fronts[g][choice.picked[g]].index;  // what group g gets
//
// Used by SolveRatios (ratio_solver.h), where a group is a block of linears and
// an option one ratio for each of them. Values may be negative. Pure and
// deterministic.
#ifndef BITWRIGHT_WORKER_QUANT_PARETO_FRONT_H_
#define BITWRIGHT_WORKER_QUANT_PARETO_FRONT_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace bitwright::quant {

struct FrontPoint {
  int64_t bits = 0;
  double value = 0;
  int64_t index = 0;  // among all options of the group
};

// The undominated ones of options 0, 1, ...: by ascending bits and descending
// value. Of equal options the first.
std::vector<FrontPoint> ParetoFront(absl::Span<const double> values,
                                    absl::Span<const int64_t> bits);

struct FrontChoice {
  std::vector<int> picked;  // an index into each front
  bool optimal = false;     // false: there was too much to search
};

// One point of each front: least Σ value within Σ bits <= budget; of equal ones
// the one with fewest bits. Every front has a point, and the first points
// together are within the budget.
FrontChoice CombineFronts(absl::Span<const std::vector<FrontPoint>> fronts,
                          int64_t budget);

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_PARETO_FRONT_H_
