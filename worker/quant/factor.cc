#include "worker/quant/factor.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "worker/quant/blas.h"
#include "worker/quant/kernels.h"
#include "worker/quant/parallel.h"

extern "C" void dpotrf_(const char* uplo, const int* n, double* a,
                        const int* lda, int* info);

namespace bitwright::quant {
namespace {

constexpr int kMaxAttempts = 6;
constexpr int64_t kBlock = 128;  // columns factored at a time
constexpr int64_t kTile = 256;   // edge of the tiles of the trailing update
// Least share of R_kk² that UndampedWeights leaves, against cancellation.
constexpr double kSmallestWeight = 1e-4;

// Lower Cholesky of a row-major [n, n] matrix, in place (lower triangle read
// and written). False when it is not positive definite.
bool CholeskyInPlace(double* a, int64_t n) {
  for (int64_t k = 0; k < n; k += kBlock) {
    const int width = static_cast<int>(std::min(kBlock, n - k));
    double* corner = a + k * n + k;
    // Row-major lower is LAPACK's column-major upper.
    const int stride = static_cast<int>(n);
    int info = 0;
    dpotrf_("U", &width, corner, &stride, &info);
    if (info != 0) return false;
    const int64_t rest = k + width;
    const int64_t tiles = (n - rest + kTile - 1) / kTile;
    ParallelFor(tiles, [&](int64_t t) {
      const int64_t row = rest + t * kTile;
      cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans,
                  CblasNonUnit, std::min(kTile, n - row), width, 1.0, corner, n,
                  a + row * n + k, n);
    });
    ParallelFor(tiles * (tiles + 1) / 2, [&](int64_t index) {
      int64_t ti = 0;
      while ((ti + 1) * (ti + 2) / 2 <= index) ++ti;
      const int64_t i = rest + ti * kTile;
      const int64_t j = rest + (index - ti * (ti + 1) / 2) * kTile;
      const int64_t height = std::min(kTile, n - i);
      if (i == j) {
        cblas_dsyrk(CblasRowMajor, CblasLower, CblasNoTrans, height, width,
                    -1.0, a + i * n + k, n, 1.0, a + i * n + i, n);
      } else {
        Gemm(false, true, height, std::min(kTile, n - j), width, -1.0,
             a + i * n + k, n, a + j * n + k, n, 1.0, a + i * n + j, n);
      }
    });
  }
  for (int64_t i = 0; i < n; ++i) {
    if (!std::isfinite(a[i * n + i]) || a[i * n + i] <= 0) return false;
  }
  return true;
}

// P (H + added·I) P into `a` (lower triangle), P reversing factor.order.
void FillFlipped(const HessianView& h, const Factor& factor, double added,
                 double* a) {
  const int64_t n = h.columns();
  ParallelFor(n, [&](int64_t i) {
    const int32_t row = factor.order[n - 1 - i];
    for (int64_t j = 0; j <= i; ++j) {
      a[i * n + j] = h.At(row, factor.order[n - 1 - j]);
    }
    if (factor.dead[row]) a[i * n + i] = 1.0;
    a[i * n + i] += added;
  });
}

// R = P L P, as its diagonal and the rest divided by the diagonal.
void Unflip(const double* l, Factor& factor) {
  const int64_t n = factor.columns;
  for (int64_t k = 0; k < n; ++k) {
    factor.diagonal[k] = l[(n - 1 - k) * n + (n - 1 - k)];
  }
  constexpr int64_t kRows = 64;  // Rows at a time: L is read along its rows.
  ParallelFor((n + kRows - 1) / kRows, [&](int64_t piece) {
    const int64_t begin = piece * kRows;
    const int64_t end = std::min(n, begin + kRows);
    for (int64_t j = 0; j < end; ++j) {
      for (int64_t k = std::max(begin, j + 1); k < end; ++k) {
        factor.unit[k * n + j] = static_cast<float>(
            l[(n - 1 - j) * n + (n - 1 - k)] / factor.diagonal[k]);
      }
    }
  });
}

// The diagonal of H, with 1 for dead columns, by original column. Marks these.
std::vector<double> LiveDiagonal(const HessianView& h, Factor& factor) {
  std::vector<double> diagonal(h.columns());
  factor.dead.assign(h.columns(), false);
  for (int64_t j = 0; j < h.columns(); ++j) {
    diagonal[j] = h.At(j, j);
    if (diagonal[j] == 0) {
      factor.dead[j] = true;
      ++factor.report.dead_columns;
      diagonal[j] = 1.0;
    }
  }
  return diagonal;
}

}  // namespace

absl::StatusOr<Factor> FactorHessian(const HessianView& h,
                                     const FactorOptions& options) {
  if (!(options.damping >= 0) || !std::isfinite(options.damping)) {
    return absl::InvalidArgumentError(
        absl::StrCat("damping must be 0 or more, not ", options.damping));
  }
  PinBlasToOneThread();
  const int64_t n = h.columns();
  Factor factor;
  factor.columns = n;
  const std::vector<double> diagonal = LiveDiagonal(h, factor);
  factor.order.resize(n);
  std::iota(factor.order.begin(), factor.order.end(), 0);
  if (options.act_order) {
    std::stable_sort(
        factor.order.begin(), factor.order.end(),
        [&](int32_t a, int32_t b) { return diagonal[a] > diagonal[b]; });
  }
  factor.diagonal.resize(n);
  factor.unit.assign(n * n, 0.0f);

  const double mean =
      std::accumulate(diagonal.begin(), diagonal.end(), 0.0) / n;
  std::vector<double> a(n * n);
  double damping = options.damping;
  for (int attempt = 1; attempt <= kMaxAttempts; ++attempt, damping *= 10) {
    factor.report.attempts = attempt;
    FillFlipped(h, factor, damping * mean, a.data());
    if (!CholeskyInPlace(a.data(), n)) continue;
    Unflip(a.data(), factor);
    factor.report.damping = damping;
    factor.added = damping * mean;
    return factor;
  }
  factor.report.diagonal_fallback = true;
  for (int64_t p = 0; p < n; ++p) {
    factor.diagonal[p] = std::sqrt(diagonal[factor.order[p]]);
  }
  return factor;
}

std::vector<double> UndampedWeights(const Factor& factor) {
  PinBlasToOneThread();
  const int64_t n = factor.columns;
  // ‖row k of (R / diag R)⁻¹‖² = 1 + its part right of the diagonal.
  std::vector<double> norm(n, 0.0);
  if (!factor.report.diagonal_fallback && factor.added > 0) {
    const int64_t blocks = (n + kBlock - 1) / kBlock;
    std::vector<std::vector<double>> partial(blocks);
    ParallelFor(blocks, [&](int64_t b) {
      const int64_t begin = b * kBlock;
      const int64_t width = std::min(kBlock, n - begin);
      const int64_t height = begin + width;  // Zero below: upper triangular.
      std::vector<float> inverse(height * width, 0.0f);
      for (int64_t i = 0; i < width; ++i) {
        inverse[(begin + i) * width + i] = 1.0f;
      }
      cblas_strsm(CblasRowMajor, CblasLeft, CblasLower, CblasTrans, CblasUnit,
                  height, width, 1.0f, factor.unit.data(), n, inverse.data(),
                  width);
      partial[b].resize(height);
      for (int64_t k = 0; k < height; ++k) {
        partial[b][k] = SquareRun(inverse.data() + k * width, width);
      }
    });
    for (const std::vector<double>& p : partial) {
      for (size_t k = 0; k < p.size(); ++k) norm[k] += p[k];
    }
  }
  std::vector<double> weights(n);
  for (int64_t k = 0; k < n; ++k) {
    const double damped = factor.diagonal[k] * factor.diagonal[k];
    weights[factor.order[k]] =
        std::max(damped - factor.added * norm[k], kSmallestWeight * damped);
  }
  return weights;
}

}  // namespace bitwright::quant
