// Bit allocation over the columns of one linear (BAQ, math.md §3).
//
// The published rule: levels from the losses of a uniform pass.
//
//   std::vector<uint16_t> levels = ReferenceLevels(column_loss, 2.0);
//
// The exact one: measured distortion of every column at every level count,
// minimised under a budget that is met from below.
//
//   std::vector<int> counts = MeasuredLevelCounts();
//   std::vector<double> d = MeasureDistortion(values, grid, counts);
//   BW_ASSIGN_OR_RETURN(
//       Allocation a,
//       AllocateExact(ExpandCurves(d, weights), columns,
//                     {.rows = R, .groups = G, .bits = 2.5,
//                      .budget = Budget::kFile}));
#ifndef BITWRIGHT_WORKER_QUANT_BAQ_H_
#define BITWRIGHT_WORKER_QUANT_BAQ_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/quant/grid.h"

namespace bitwright::quant {

// What a bit budget counts.
enum class Budget {
  kCodes,  // mean log2(levels) and nothing else: the paper's accounting
  kFile,   // bytes of the packed file (formats.md), side information included
};

// math.md §3a, as the paper's public code does it, except that levels are
// clamped to 256. column_loss are the ½R_kk²‖·‖² of a uniform pass.
std::vector<uint16_t> ReferenceLevels(absl::Span<const double> column_loss,
                                      double bits, double theta = 1.95);

// exp(mean log(ℓ + 1e-8)) / mean(ℓ): the gain that the model predicts (§3), as
// the public code has it. 1 when all losses are zero.
double GmOverAm(absl::Span<const double> column_loss);
// The same over the positive losses, without the ε: at most 1, at any scale.
double PredictedGain(absl::Span<const double> column_loss);

// Bits that the packed codes of one column of `rows` rows take: with
// Budget::kCodes rows·log2(levels); with kFile whole bytes for a power of two,
// else whole 64-bit words of ⌊64/log2(levels)⌋ codes.
double ColumnBits(int64_t rows, int levels, Budget budget);

// Bits of a file that no allocation changes: 16 per column (levels), 32 per row
// and group (range). 0 with Budget::kCodes.
double SideBits(int64_t rows, int64_t columns, int64_t groups, Budget budget);

// (SideBits + Σ ColumnBits) / (rows · columns).
double BitsPerWeight(int64_t rows, int64_t groups,
                     absl::Span<const uint16_t> levels, Budget budget);

// The increasing level counts, from 1 to 256, that distortion is measured at.
const std::vector<int>& MeasuredLevelCounts();
// The increasing level counts that a column may get.
const std::vector<int>& AllowedLevelCounts();

// Σ_i (v_ij − Q_L(v_ij))² for every column j and L of `counts`: [columns,
// counts]. `values` is by panels (panels.h). Parallel over pieces of a fixed
// partition.
std::vector<double> MeasureDistortion(const float* values, const Grid& grid,
                                      absl::Span<const int> counts);

// The distortions of every column at MeasuredLevelCounts(), as
// MeasureDistortion gives them → its losses ½·weight_j·Σ at
// AllowedLevelCounts(), interpolated linearly in log over log(L − 1). `weights`
// is [columns]: R_jj².
std::vector<double> ExpandCurves(absl::Span<const double> measured,
                                 absl::Span<const double> weights);

struct AllocationProblem {
  int64_t rows = 0;
  int64_t groups = 1;
  double bits = 0;  // per weight
  Budget budget = Budget::kCodes;
};

struct Allocation {
  std::vector<uint16_t> levels;  // [columns]
  double bits = 0;               // achieved, in the problem's accounting
  double distortion = 0;         // Σ of the curves at these levels
};

// Minimises Σ_j D_j(L_j) subject to achieved <= asked. `curves` is [columns,
// AllowedLevelCounts()]. Walks the lower convex hulls, then improves and fills
// with single and paired moves; up to 4 columns are solved to optimality.
// Deterministic: ties go to the lower column, then the lower level count.
// INVALID_ARGUMENT when the budget is below what side information alone takes;
// the message names the smallest possible.
absl::StatusOr<Allocation> AllocateExact(absl::Span<const double> curves,
                                         int64_t columns,
                                         const AllocationProblem& problem);

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_BAQ_H_
