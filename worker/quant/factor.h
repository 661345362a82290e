// The factor that error feedback runs on (math.md §2): H = R Rᵀ with R upper
// triangular, from one Cholesky factorization of the flipped matrix. GPTQ's own
// factor is R⁻¹ and is never formed.
//
//   BW_ASSIGN_OR_RETURN(HessianView h, HessianView::Create(data, columns));
//   BW_ASSIGN_OR_RETURN(Factor factor, FactorHessian(h, {.damping = 0.01}));
//   if (factor.report.diagonal_fallback) ...   // never silent
#ifndef BITWRIGHT_WORKER_QUANT_FACTOR_H_
#define BITWRIGHT_WORKER_QUANT_FACTOR_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/quant/hessian.h"
#include "worker/quant/raw_vector.h"

namespace bitwright::quant {

// What error feedback computes in. Codes and files do not change their meaning.
enum class Precision {
  // Factorization and feedback in float32; a Hessian that is too ill
  // conditioned for that is factored in float64.
  kFloat32,
  // Everything in float64: for checking, at about three times the cost.
  kFloat64,
};

struct FactorOptions {
  // λ: λ·mean(diag H) is added to the diagonal. >= 0.
  double damping = 0.01;
  // Take the columns by descending H_jj instead of by index.
  bool act_order = false;
  Precision precision = Precision::kFloat32;
};

struct FactorReport {
  // λ of the attempt that succeeded; 0 after the fallback to diag(H).
  double damping = 0;
  // Factorizations tried, 1..6; attempt i used λ·10^(i-1).
  int attempts = 0;
  bool diagonal_fallback = false;
  int dead_columns = 0;

  friend bool operator==(const FactorReport&, const FactorReport&) = default;
};

// Position p of the factor is column order[p] of the layer.
struct Factor {
  int64_t columns = 0;
  std::vector<int32_t> order;    // [columns]
  std::vector<bool> dead;        // [columns], by original column
  std::vector<double> diagonal;  // [columns] R_pp, by position
  // [columns, columns] row-major, by position: R_jk / R_kk at [k][j], j < k
  // (the weights of column k's feedback are contiguous); unspecified elsewhere.
  RawVector<float> unit;
  // The same in float64, with Precision::kFloat64 only.
  RawVector<double> unit64;
  double mean = 0;  // mean(diag H), with 1 for dead columns
  // What was added to every diagonal element of H: damping · mean(diag H).
  double added = 0;
  FactorReport report;
};

// Dead columns (H_jj = 0) get H_jj = 1 and are listed; their weights count as
// zero from here on. A factorization that fails or is not finite is tried again
// with ten times the damping (1e-6 after none), 6 attempts in all, then H
// becomes diag(H). In float32 the factor is that of a Hessian within a few
// units of float32 of the given one, less than what summing it in float32 has
// cost already; where a pivot is below kLeastPivot of its diagonal element, or
// fails, the same attempt is made in float64. The same result for any number of
// threads. INVALID_ARGUMENT when the damping is negative or not finite.
inline constexpr double kLeastPivot = 1e-3;
absl::StatusOr<Factor> FactorHessian(const HessianView& h,
                                     const FactorOptions& options);

// [columns] R_kk² by original column: what a unit of squared rounding error
// costs.
std::vector<double> ColumnWeights(const Factor& factor);

// Three forms of H' = (H + added·I) / mean(diag H) by position, for float and
// double, in blocks of `width` columns, so that what a sweep multiplies by is
// contiguous. Columns of a block that begins at `start`: min(width, n − start).
//
// Rᵀ of H' = R Rᵀ, lower triangular: of every block its rows from the diagonal
// on, [n − start, columns of the block], from BlockOffset(n, width, start) on.
inline int64_t BlockOffset(int64_t n, int64_t width, int64_t start) {
  return start * n - (start - width) * start / 2;
}
template <typename Real>
RawVector<Real> FactorBlocks(const Factor& factor, int64_t width);
// R, from FactorBlocks: each block transposed in its place, so that its rows
// are those of R from `start` on, with the zeros before the diagonal.
template <typename Real>
RawVector<Real> TransposeBlocks(const RawVector<Real>& factor_blocks, int64_t n,
                                int64_t width);
// The blocks on the diagonal of H', [n, width]: row k holds H' at k and the
// columns of k's block.
template <typename Real>
RawVector<Real> DiagonalBlocks(const HessianView& h, const Factor& factor,
                               int64_t width);

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_FACTOR_H_
