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

namespace bitwright::quant {

struct FactorOptions {
  // λ: λ·mean(diag H) is added to the diagonal. >= 0.
  double damping = 0.01;
  // Take the columns by descending H_jj instead of by index.
  bool act_order = false;
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
  // (the weights of column k's feedback are contiguous); 0 elsewhere.
  std::vector<float> unit;
  // What was added to every diagonal element of H: damping · mean(diag H).
  double added = 0;
  FactorReport report;
};

// Dead columns (H_jj = 0) get H_jj = 1 and are listed; their weights count as
// zero from here on. A factorization that fails or is not finite is tried again
// with ten times the damping, 6 attempts in all, then H becomes diag(H).
// Float64 inside; the same result for any number of threads. INVALID_ARGUMENT
// when the damping is negative or not finite.
absl::StatusOr<Factor> FactorHessian(const HessianView& h,
                                     const FactorOptions& options);

// What the rounding of each column adds to the loss on the undamped H, per unit
// of ‖t_k − ŵ_k‖² and by original column: R_kk² (1 − added·‖(R⁻¹)_k‖²), (R⁻¹)_k
// a row, from W − Ŵ = Δ·diag(R)·R⁻¹ with the rounding errors Δ of different
// columns taken as uncorrelated. The damped loss has plain R_kk². Always
// positive. Costs as much as half a factorization (n³/3 flops in float32).
std::vector<double> UndampedWeights(const Factor& factor);

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_FACTOR_H_
