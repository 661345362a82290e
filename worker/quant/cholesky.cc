#include "worker/quant/cholesky.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "worker/quant/blas.h"
#include "worker/quant/blocked_columns.h"
#include "worker/quant/parallel.h"
#include "worker/quant/raw_vector.h"

namespace bitwright::quant {
namespace {

constexpr int64_t kPanelRows = 128;  // factored at a time
constexpr int64_t kTile = 256;       // columns of a panel to a piece of work
constexpr int64_t kSquare = 128;     // widest rank update left to syrk
static_assert(kTile % kPanelRows == 0);  // A corner lies in one tile.

// C −= SᵀS, the lower triangle of [width, width] with leading dimension n; S is
// [depth, width] with leading dimension `stride`. By halves down to kSquare:
// products run faster than rank updates.
template <typename Real>
void SubtractSquare(const Real* s, int64_t stride, int64_t depth, int64_t width,
                    Real* c, int64_t n) {
  if (width <= kSquare) {
    SubtractGram(width, depth, s, stride, c, n);
    return;
  }
  const int64_t half = width / 2;
  Real* below = c + half * n;
  SubtractSquare(s, stride, depth, half, c, n);
  Gemm(true, false, width - half, half, depth, Real{-1}, s + half, stride, s,
       stride, Real{1}, below, n);
  SubtractSquare(s + half, stride, depth, width - half, below + half, n);
}

// FactorInPlace, panel by panel of rows from the last one: first the corner
// where the panel meets the diagonal, then the rest of the panel, then what
// these rows of S leave of all rows above. Panels and tiles begin at multiples
// of their sizes.
template <typename Real>
class Factorization {
 public:
  Factorization(Real* a, int64_t n, Real* diagonal)
      : a_(a), n_(n), diagonal_(diagonal), solved_(kPanelRows * n) {}

  bool Run() {
    bool definite = FactorCorner(n_);
    for (int64_t end = n_; definite && end > 0; end = begin_) {
      begin_ = PanelBegin(end);
      height_ = end - begin_;
      const int64_t tiles = (begin_ + kTile - 1) / kTile;
      ParallelFor(tiles, [this](int64_t t) { SolveTile(t * kTile); });
      // The last tile first: one thread goes on with the next corner while the
      // others update.
      const int64_t last = tiles * (tiles + 1) / 2 - 1;
      ParallelFor(last + 1, [&](int64_t i) {
        int64_t row = 0;
        while ((row + 1) * (row + 2) / 2 <= last - i) ++row;
        const int64_t column = last - i - row * (row + 1) / 2;
        UpdateTile(row * kTile, column * kTile);
        if (i == 0) definite = FactorCorner(begin_);
      });
    }
    return definite;
  }

 private:
  static int64_t PanelBegin(int64_t end) {
    return (end - 1) / kPanelRows * kPanelRows;
  }

  // Of the panel that ends at `end`. Reversed in both directions, so that
  // LAPACK's factorization from the first row serves. The matrix is read and
  // written row by row: n is often a power of two, and then a column's lines
  // push each other out of the cache.
  bool FactorCorner(int64_t end) {
    const int64_t begin = PanelBegin(end), height = end - begin;
    Real* corner = a_ + begin * n_ + begin;
    corner_.resize(height * height);
    const auto reversed = [&](int64_t k, int64_t j) -> Real& {
      return corner_[(height - 1 - j) * height + (height - 1 - k)];
    };
    for (int64_t k = 0; k < height; ++k) {
      for (int64_t j = 0; j <= k; ++j) reversed(k, j) = corner[k * n_ + j];
    }
    if (!CholeskyLower(corner_.data(), height)) return false;
    for (int64_t k = 0; k < height; ++k) {
      const Real pivot = reversed(k, k);
      if (!std::isfinite(pivot) || pivot <= 0) return false;
      diagonal_[begin + k] = pivot;
      const Real inverse = Real{1} / pivot;
      for (int64_t j = 0; j < k; ++j) {
        corner[k * n_ + j] = reversed(k, j) * inverse;
        reversed(k, j) = -reversed(k, j);  // What VisitColumns adds.
      }
    }
    return true;
  }

  // The columns of a tile: their part of the panel's rows of S, last row first,
  // goes to solved_, and divided by the diagonal to the matrix.
  void SolveTile(int64_t column) {
    const int64_t width = Width(column);
    Real* tile = Solved(column);
    const auto in_matrix = [&](int64_t k) {
      return a_ + (begin_ + height_ - 1 - k) * n_ + column;
    };
    for (int64_t k = 0; k < height_; ++k) {
      std::copy_n(in_matrix(k), width, tile + k * width);
    }
    VisitColumns(corner_.data(), height_, 0, height_, width, tile,
                 [&](int64_t k, Real* row) {
                   const Real inverse = Real{1} / corner_[k * height_ + k];
                   Real* unit = in_matrix(k);
                   for (int64_t j = 0; j < width; ++j) {
                     row[j] *= inverse;
                     unit[j] = row[j] * inverse;
                   }
                 });
  }

  // Takes the panel's share of A = SᵀS from the tile at (i, j), j <= i.
  void UpdateTile(int64_t i, int64_t j) {
    const int64_t height = Width(i), width = Width(j);
    Real* tile = a_ + i * n_ + j;
    if (i == j) {
      SubtractSquare(Solved(i), height, height_, height, tile, n_);
    } else {
      Gemm(true, false, height, width, height_, Real{-1}, Solved(i), height,
           Solved(j), width, Real{1}, tile, n_);
    }
  }

  int64_t Width(int64_t column) const {
    return std::min(kTile, begin_ - column);
  }
  // [height_, Width(column)], contiguous.
  Real* Solved(int64_t column) { return solved_.data() + column * height_; }

  Real* const a_;
  const int64_t n_;
  Real* const diagonal_;
  int64_t begin_ = 0, height_ = 0;  // of the panel
  std::vector<Real> corner_;        // [height_, height_], then the next one's
  RawVector<Real> solved_;
};

}  // namespace

template <typename Real>
bool FactorInPlace(Real* a, int64_t n, Real* diagonal) {
  return Factorization<Real>(a, n, diagonal).Run();
}

template bool FactorInPlace<float>(float* a, int64_t n, float* diagonal);
template bool FactorInPlace<double>(double* a, int64_t n, double* diagonal);

}  // namespace bitwright::quant
