// The factorization behind error feedback: A = Sᵀ S with S lower triangular,
// from the last column to the first. R = Sᵀ is the R of math.md §2: the same as
// an ordinary Cholesky factorization between two reversals, without moving the
// matrix. Private to this folder.
//
//   if (!FactorInPlace(a.data(), n, diagonal.data())) ...  // indefinite
#ifndef BITWRIGHT_WORKER_QUANT_CHOLESKY_H_
#define BITWRIGHT_WORKER_QUANT_CHOLESKY_H_

#include <cstdint>

namespace bitwright::quant {

// a is row-major [n, n]. Its lower triangle is read and replaced by the rows of
// S, each divided by its diagonal element: S_kj / S_kk at [k][j], j < k. What
// is on and above the diagonal is unspecified afterwards. diagonal: [n], S_kk.
// False, with `a` spoiled, when a pivot is not positive or not finite. Runs on
// Threads() threads; the result does not depend on how many. Instantiated for
// float and double.
template <typename Real>
bool FactorInPlace(Real* a, int64_t n, Real* diagonal);

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_CHOLESKY_H_
