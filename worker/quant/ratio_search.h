// Local search for the choice of one option per linear, where there are too
// many to try them all (ratio_solver.h).
//
//   std::vector<int> choice = ...;  // within the budget
//   ImproveChoice({.options = 5, .m = m, .costs = costs, .budget = bits},
//                 &choice);
//
// Deterministic; the objective never rises, and the budget is kept.
#ifndef BITWRIGHT_WORKER_QUANT_RATIO_SEARCH_H_
#define BITWRIGHT_WORKER_QUANT_RATIO_SEARCH_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace bitwright::quant {

struct ChoiceSearch {
  int64_t options = 0;  // of each linear
  // [n, n] for n = linears · options: symmetric, the entries that count. Those
  // between different options of one linear are not used.
  absl::Span<const double> m;
  absl::Span<const int64_t> costs;  // [n]
  int64_t budget = 0;
};

// Changes one linear or two at once, as long as that lowers Σ_lk M[i_l, i_k]:
// in the end no such change does. `choice` has Σ costs <= budget.
void ImproveChoice(const ChoiceSearch& search, std::vector<int>* choice);

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_RATIO_SEARCH_H_
