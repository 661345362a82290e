// How many rows of each linear get the higher bits (math.md §4): one option per
// linear, so that what the model's output loses is least within a bit budget.
//
// The loss of options that are taken together is δᵀMδ, with δ one-hot in each
// linear: of option i_l of linear l, at index i_l = l·|B| + choice_l,
//
//   objective = Σ_l M[i_l, i_l] + Σ_{l≠k} M[i_l, i_k]
//
//   RatioProblem problem{.ratios = {0.05, 0.1, 0.2},
//                        .bits_normal = 2,
//                        .bits_high = 3};
//   problem.linears = {{.block = 0, .rows = 4096, .cols = 4096}, ...};
//   problem.m = ...;            // [L|B|, L|B|]
//   problem.budget_bits = ...;  // of all linears together
//   BW_ASSIGN_OR_RETURN(RatioSolution s,
//                       SolveRatios(problem, Interactions::kAll));
//   problem.ratios[s.choice[l]];  // what linear l gets
//
// Pure and deterministic: of solutions that are equally good, the one with
// fewer bits is taken, and then one that depends on the problem only.
#ifndef BITWRIGHT_WORKER_QUANT_RATIO_SOLVER_H_
#define BITWRIGHT_WORKER_QUANT_RATIO_SOLVER_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace bitwright::quant {

// Which entries of M count.
enum class Interactions {
  kNone,   // the diagonal
  kBlock,  // also pairs of linears within a block
  kAll,    // all
};

struct RatioLinear {
  int64_t block = 0;  // linears of one block follow each other
  int64_t rows = 0;
  int64_t cols = 0;
};

struct RatioProblem {
  std::vector<double> ratios;  // [|B|], ascending, each above 0 and below 1
  int bits_normal = 2, bits_high = 3;     // high up to 16
  std::vector<RatioLinear> linears = {};  // [L]
  // [L|B|], the bits of each option, option fastest; empty: RatioCost of each.
  // They need not grow with the ratio.
  std::vector<int64_t> costs = {};
  // [L|B|, L|B|] symmetric, row by row, option fastest.
  std::vector<double> m = {};
  int64_t budget_bits = 0;
};

struct RatioSolution {
  std::vector<int> choice;  // [L], indices into the ratios
  double objective = 0;     // of the entries that count
  int64_t bits = 0;         // Σ costs
  bool optimal = false;     // no other choice has a lower objective
};

// How many of a linear's rows `ratio` stands for: the nearest whole number.
int64_t HighRows(double ratio, int64_t rows);

// Bits of a linear: of its codes, and one a row that tells which rows are high.
int64_t RatioCost(const RatioLinear& linear, double ratio, int bits_normal,
                  int bits_high);

// `choice` has an index into the ratios for each linear; `m` the right size.
double RatioObjective(const RatioProblem& problem, absl::Span<const int> choice,
                      Interactions interactions);

// The best choice within the budget. A proven optimum where the linears that
// act on each other (a block at most, with kBlock) have no more than 2^21
// choices together; otherwise the best that a local search from simpler
// solutions finds. INVALID_ARGUMENT: a size that does not fit, an M that is
// not finite and symmetric, and a budget that is not between the least and the
// most bits that the options can have, with both.
absl::StatusOr<RatioSolution> SolveRatios(const RatioProblem& problem,
                                          Interactions interactions);

// The one option for all linears that is within the budget and has the least
// objective of all entries; never marked optimal. The errors of SolveRatios;
// also when no option for all is within the budget.
absl::StatusOr<RatioSolution> UniformRatio(const RatioProblem& problem);

// The nearest positive semidefinite matrix to m, [n, n] and finite: its
// negative eigenvalues cleared. A symmetric matrix that has none, up to
// rounding, stays as it is, bit for bit. The result is exactly symmetric.
void ProjectToPsd(int64_t n, std::vector<double>* m);

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_RATIO_SOLVER_H_
