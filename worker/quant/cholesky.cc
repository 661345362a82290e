#include "worker/quant/cholesky.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "worker/quant/blas.h"
#include "worker/quant/parallel.h"

namespace bitwright::quant {
namespace {

constexpr int64_t kCholeskyBlock = 128;  // columns factored at a time
constexpr int64_t kCholeskyTile = 256;   // edge of the update's tiles
constexpr int64_t kDivisionRows = 16;    // rows per piece of the division

// A [w, w] corner with leading dimension n, reversed in both directions so that
// LAPACK's factorization from the first column serves. The corner is read and
// written row by row: n is often a power of two, and then a column's lines push
// each other out of the cache.
template <typename Real>
bool FactorCorner(Real* corner, int64_t w, int64_t n) {
  std::vector<Real> flipped(w * w);
  for (int64_t k = 0; k < w; ++k) {
    for (int64_t j = 0; j <= k; ++j) {
      flipped[(w - 1 - j) * w + (w - 1 - k)] = corner[k * n + j];
    }
  }
  if (!CholeskyLower(flipped.data(), w)) return false;
  for (int64_t k = 0; k < w; ++k) {
    for (int64_t j = 0; j <= k; ++j) {
      corner[k * n + j] = flipped[(w - 1 - j) * w + (w - 1 - k)];
    }
    const Real pivot = corner[k * n + k];
    if (!std::isfinite(pivot) || pivot <= 0) return false;
  }
  return true;
}

}  // namespace

template <typename Real>
bool FactorInPlace(Real* a, int64_t n, Real* diagonal) {
  for (int64_t end = n; end > 0; end -= std::min(kCholeskyBlock, end)) {
    const int64_t begin = std::max<int64_t>(0, end - kCholeskyBlock);
    const int64_t width = end - begin;
    Real* panel = a + begin * n;  // Rows [begin, end).
    Real* corner = panel + begin;
    if (!FactorCorner(corner, width, n)) return false;
    const int64_t tiles = (begin + kCholeskyTile - 1) / kCholeskyTile;
    ParallelFor(tiles, [&](int64_t t) {
      const int64_t column = t * kCholeskyTile;
      SolveLowerTransposed(width, std::min(kCholeskyTile, begin - column),
                           corner, n, panel + column, n);
    });
    ParallelFor(tiles * (tiles + 1) / 2, [&](int64_t index) {
      int64_t ti = 0;
      while ((ti + 1) * (ti + 2) / 2 <= index) ++ti;
      const int64_t i = ti * kCholeskyTile;
      const int64_t j = (index - ti * (ti + 1) / 2) * kCholeskyTile;
      const int64_t height = std::min(kCholeskyTile, begin - i);
      if (i == j) {
        SubtractGram(height, width, panel + i, n, a + i * n + i, n);
      } else {
        Gemm(true, false, height, std::min(kCholeskyTile, begin - j), width,
             Real{-1}, panel + i, n, panel + j, n, Real{1}, a + i * n + j, n);
      }
    });
    for (int64_t k = begin; k < end; ++k) diagonal[k] = a[k * n + k];
    ParallelFor(
        (width + kDivisionRows - 1) / kDivisionRows, [&](int64_t piece) {
          const int64_t stop =
              std::min(end, begin + (piece + 1) * kDivisionRows);
          for (int64_t k = begin + piece * kDivisionRows; k < stop; ++k) {
            const Real inverse = Real{1} / diagonal[k];
            for (int64_t j = 0; j < k; ++j) a[k * n + j] *= inverse;
          }
        });
  }
  return true;
}

template bool FactorInPlace<float>(float* a, int64_t n, float* diagonal);
template bool FactorInPlace<double>(double* a, int64_t n, double* diagonal);

}  // namespace bitwright::quant
