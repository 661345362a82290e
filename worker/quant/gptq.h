// Rounding with error feedback (GPTQ, math.md §2), and rounding to nearest.
//
//   std::vector<uint8_t> codes(R * C);
//   FeedbackInput input{.weight = panels, .rows = R, .factor = &f,
//                       .grid = &grid, .levels = levels};
//   input.codes = codes.data();
//   FeedbackSums sums = FeedbackPass(input);
//
// With columns taken in the factor's order, t_k = w_k + Σ_{j<k} (w_j − ŵ_j)
// R_jk / R_kk is what gets rounded. Rows are independent: they run in parallel
// in chunks of RowChunk(R). Columns are halved, and halved again, down to
// leaves of 32; what a left half does to the right one is one GEMM, so that
// nearly all the work is a few large ones. One loop serves uniform levels
// (GPTQ), levels per column (BAQ) and levels per row.
#ifndef BITWRIGHT_WORKER_QUANT_GPTQ_H_
#define BITWRIGHT_WORKER_QUANT_GPTQ_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/types/span.h"
#include "worker/quant/factor.h"
#include "worker/quant/grid.h"

namespace bitwright::quant {

// weight, codes and targets are by panels (panels.h) and original column.
struct FeedbackInput {
  const float* weight = nullptr;  // finite; dead columns at zero
  int64_t rows = 0;
  // In float64 when it has unit64, else in float32.
  const Factor* factor = nullptr;
  const Grid* grid = nullptr;
  // 1..256; one of the two: [columns], by original column, or [rows].
  absl::Span<const uint16_t> levels = {};
  absl::Span<const uint16_t> row_levels = {};
  uint8_t* codes = nullptr;  // receives the codes
  float* targets = nullptr;  // receives the values that were rounded, or null
  // Called with each panel before its weights are read, by the thread that
  // reads them: they may be put in place only then.
  std::function<void(int64_t)> prepare = {};
};

struct FeedbackSums {
  // [columns] ½ R_kk² ‖t_k − ŵ_k‖², by original column. Twice their sum is
  // tr((W−Ŵ)H(W−Ŵ)ᵀ) with the damped H.
  std::vector<double> column_loss;
  double squared_error = 0;  // ‖W − Ŵ‖²
};

FeedbackSums FeedbackPass(const FeedbackInput& input);

// Rounding to nearest, [rows, columns] row by row. `diagonal` holds H_jj, or is
// empty for the identity: column_loss_j = ½ H_jj ‖w_j − ŵ_j‖².
struct NearestResult {
  std::vector<uint8_t> codes;  // [rows, columns]
  std::vector<double> column_loss;
  double squared_error = 0;
};
NearestResult RoundToNearest(const float* weight, int64_t rows,
                             const Grid& grid,
                             absl::Span<const uint16_t> levels,
                             absl::Span<const double> diagonal);

// [rows, columns] float32, exactly what a reader of the file decodes. Level
// counts as in FeedbackInput.
std::vector<float> Dequantize(absl::Span<const uint8_t> codes, const Grid& grid,
                              absl::Span<const uint16_t> levels,
                              absl::Span<const uint16_t> row_levels = {});

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_GPTQ_H_
