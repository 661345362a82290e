// Rounding with error feedback (GPTQ, math.md §2), and rounding to nearest.
//
//   FeedbackResult pass = FeedbackPass({.weight = w, .rows = R, .factor = &f,
//                                       .grid = &grid, .levels = levels});
//   std::vector<float> w_hat = Dequantize(pass.codes, grid, levels);
//
// With columns taken in the factor's order, t_k = w_k + Σ_{j<k} (w_j − ŵ_j)
// R_jk / R_kk is what gets rounded. Rows are independent: they run in parallel
// in chunks of RowChunk(R). Columns go in outer blocks and inner blocks of 32,
// so that nearly all the work is one GEMM per block.
#ifndef BITWRIGHT_WORKER_QUANT_GPTQ_H_
#define BITWRIGHT_WORKER_QUANT_GPTQ_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "worker/quant/factor.h"
#include "worker/quant/grid.h"

namespace bitwright::quant {

struct FeedbackInput {
  const float* weight = nullptr;  // [rows, columns], row-major, finite
  int64_t rows = 0;
  const Factor* factor = nullptr;
  const Grid* grid = nullptr;
  absl::Span<const uint16_t> levels;  // [columns], 1..256, by original column
  // Where to put the values that were rounded, or null: [columns, rows], by
  // original column.
  float* targets = nullptr;
};

struct FeedbackResult {
  std::vector<uint8_t> codes;  // [rows, columns]
  // [columns] ½ R_kk² ‖t_k − ŵ_k‖², by original column. Twice their sum is
  // tr((W−Ŵ)H(W−Ŵ)ᵀ) with the damped H.
  std::vector<double> column_loss;
  // ‖W − Ŵ‖² with the weights of dead columns at zero.
  double squared_error = 0;
};

FeedbackResult FeedbackPass(const FeedbackInput& input);

// Rounding to nearest. `diagonal` holds H_jj, or is empty for the identity:
// column_loss_j = ½ H_jj ‖w_j − ŵ_j‖².
FeedbackResult RoundToNearest(const float* weight, int64_t rows,
                              const Grid& grid,
                              absl::Span<const uint16_t> levels,
                              absl::Span<const double> diagonal);

// [rows, columns] float32, exactly what a reader of the file decodes.
std::vector<float> Dequantize(absl::Span<const uint8_t> codes, const Grid& grid,
                              absl::Span<const uint16_t> levels);

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_GPTQ_H_
