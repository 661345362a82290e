#include "worker/quant/factor.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "worker/quant/cholesky.h"
#include "worker/quant/panels.h"
#include "worker/quant/parallel.h"

namespace bitwright::quant {
namespace {

constexpr int kMaxAttempts = 6;
// What follows an attempt without damping.
constexpr double kFirstDamping = 1e-6;
constexpr int64_t kFactorRows = 32;  // rows per piece of the elementwise loops

// fn(row) for every row of n, in parallel.
template <typename Fn>
void ForRows(int64_t n, Fn fn) {
  ParallelFor((n + kFactorRows - 1) / kFactorRows, [&](int64_t piece) {
    const int64_t end = std::min(n, (piece + 1) * kFactorRows);
    for (int64_t i = piece * kFactorRows; i < end; ++i) fn(i);
  });
}

// (H + damping·mean·I) / mean by position, the lower triangle: the division
// keeps float32 in its range.
template <typename Real>
void FillLower(const HessianView& h, absl::Span<const double> diagonal,
               double mean, double damping, bool natural_order,
               absl::Span<const int32_t> order, Real* out) {
  const int64_t n = h.columns();
  const Real scale = static_cast<Real>(h.scale() / mean);
  ForRows(n, [&](int64_t i) {
    Real* row = out + i * n;
    if (natural_order) {
      const float* in = h.Row(i);
      for (int64_t j = 0; j <= i; ++j) row[j] = in[j] * scale;
    } else {
      for (int64_t j = 0; j <= i; ++j) {
        row[j] = static_cast<Real>(h.At(order[i], order[j]) / mean);
      }
    }
    row[i] = static_cast<Real>(diagonal[order[i]] / mean + damping);
  });
}

// One attempt at one damping. `unit` receives S / S_kk (see cholesky.h), which
// is R_jk / R_kk at [k][j].
template <typename Real>
class Attempt {
 public:
  Attempt(const HessianView& h, absl::Span<const double> diagonal, double mean,
          bool natural_order, Factor& factor, RawVector<Real>& unit)
      : h_(h),
        diagonal_(diagonal),
        mean_(mean),
        natural_order_(natural_order),
        n_(h.columns()),
        factor_(factor),
        unit_(unit) {
    unit_.resize(n_ * n_);
  }

  // H + damping·mean(diag H)·I = R Rᵀ. False when it has no such factor, or one
  // that this precision does not give accurately.
  bool Run(double damping, double least_pivot) {
    FillLower(h_, diagonal_, mean_, damping, natural_order_, factor_.order,
              unit_.data());
    std::vector<Real> roots(n_);
    if (!FactorInPlace(unit_.data(), n_, roots.data())) return false;
    const double root = std::sqrt(mean_);
    for (int64_t k = 0; k < n_; ++k) {
      const double pivot = roots[k];
      const double full = diagonal_[factor_.order[k]] / mean_ + damping;
      if (!(pivot * pivot >= least_pivot * full)) return false;
      factor_.diagonal[k] = root * pivot;
    }
    return true;
  }

 private:
  const HessianView& h_;
  const absl::Span<const double> diagonal_;
  const double mean_;
  const bool natural_order_;
  const int64_t n_;
  Factor& factor_;
  RawVector<Real>& unit_;
};

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

// H = diag(H): no feedback at all.
void FallBackToDiagonal(absl::Span<const double> diagonal, Precision precision,
                        Factor& factor) {
  const int64_t n = factor.columns;
  factor.report.diagonal_fallback = true;
  for (int64_t p = 0; p < n; ++p) {
    factor.diagonal[p] = std::sqrt(diagonal[factor.order[p]]);
  }
  factor.unit.assign(n * n, 0.0f);
  if (precision == Precision::kFloat64) factor.unit64.assign(n * n, 0.0);
}

// One attempt in the precision asked for, and, if that is float32 and not
// enough, in float64.
bool TryDamping(const HessianView& h, absl::Span<const double> diagonal,
                double mean, double damping, const FactorOptions& options,
                Factor& factor) {
  const bool natural = !options.act_order;
  const int64_t n = h.columns();
  if (options.precision == Precision::kFloat32 &&
      Attempt<float>(h, diagonal, mean, natural, factor, factor.unit)
          .Run(damping, kLeastPivot)) {
    return true;
  }
  RawVector<double> unit64;
  if (!Attempt<double>(h, diagonal, mean, natural, factor, unit64)
           .Run(damping, 0)) {
    return false;
  }
  factor.unit.resize(n * n);
  ForRows(n, [&](int64_t k) {
    const double* row = unit64.data() + k * n;
    std::copy(row, row + k, factor.unit.data() + k * n);
  });
  if (options.precision == Precision::kFloat64) {
    factor.unit64 = std::move(unit64);
  }
  return true;
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

  const double mean =
      std::accumulate(diagonal.begin(), diagonal.end(), 0.0) / n;
  factor.mean = mean;
  double damping = options.damping;
  for (int attempt = 1; attempt <= kMaxAttempts; ++attempt) {
    factor.report.attempts = attempt;
    if (TryDamping(h, diagonal, mean, damping, options, factor)) {
      factor.report.damping = damping;
      factor.added = damping * mean;
      return factor;
    }
    damping = damping == 0 ? kFirstDamping : 10 * damping;
  }
  FallBackToDiagonal(diagonal, options.precision, factor);
  return factor;
}

std::vector<double> ColumnWeights(const Factor& factor) {
  std::vector<double> weights(factor.columns);
  for (int64_t p = 0; p < factor.columns; ++p) {
    weights[factor.order[p]] = factor.diagonal[p] * factor.diagonal[p];
  }
  return weights;
}

namespace {

const RawVector<float>& UnitOf(const Factor& factor, float) {
  return factor.unit;
}
const RawVector<double>& UnitOf(const Factor& factor, double) {
  return factor.unit64;
}

}  // namespace

template <typename Real>
RawVector<Real> FactorBlocks(const Factor& factor, int64_t width) {
  const int64_t n = factor.columns;
  const RawVector<Real>& unit = UnitOf(factor, Real{});
  const double root = std::sqrt(factor.mean);
  const int64_t last = (n - 1) / width * width;
  RawVector<Real> out(BlockOffset(n, width, last) + (n - last) * (n - last));
  ForRows(n, [&](int64_t k) {
    const Real pivot = static_cast<Real>(factor.diagonal[k] / root);
    const Real* in = unit.data() + k * n;
    for (int64_t start = 0; start <= k; start += width) {
      const int64_t columns = std::min(width, n - start);
      const int64_t left = std::min(columns, k - start);  // of the diagonal
      Real* row =
          out.data() + BlockOffset(n, width, start) + (k - start) * columns;
      for (int64_t j = 0; j < left; ++j) row[j] = pivot * in[start + j];
      if (left == columns) continue;
      row[left] = pivot;
      std::fill(row + left + 1, row + columns, Real{0});
    }
  });
  return out;
}

template <typename Real>
RawVector<Real> TransposeBlocks(const RawVector<Real>& factor_blocks, int64_t n,
                                int64_t width) {
  RawVector<Real> out(factor_blocks.size());
  ParallelFor((n + width - 1) / width, [&](int64_t block) {
    const int64_t start = block * width;
    const int64_t at = BlockOffset(n, width, start);
    Transpose(factor_blocks.data() + at, n - start, std::min(width, n - start),
              out.data() + at, n - start);
  });
  return out;
}

template <typename Real>
RawVector<Real> DiagonalBlocks(const HessianView& h, const Factor& factor,
                               int64_t width) {
  const int64_t n = factor.columns;
  const double scale = 1 / factor.mean;
  RawVector<Real> out(n * width);
  ForRows(n, [&](int64_t k) {
    const int64_t start = k / width * width;
    const int32_t column = factor.order[k];
    Real* row = out.data() + k * width;
    for (int64_t j = start; j < std::min(n, start + width); ++j) {
      row[j - start] = static_cast<Real>(h.At(column, factor.order[j]) * scale);
    }
    const double own = factor.dead[column] ? 1.0 : h.At(column, column);
    row[k - start] = static_cast<Real>((own + factor.added) * scale);
  });
  return out;
}

template RawVector<float> FactorBlocks<float>(const Factor&, int64_t);
template RawVector<double> FactorBlocks<double>(const Factor&, int64_t);
template RawVector<float> TransposeBlocks<float>(const RawVector<float>&,
                                                 int64_t, int64_t);
template RawVector<double> TransposeBlocks<double>(const RawVector<double>&,
                                                   int64_t, int64_t);
template RawVector<float> DiagonalBlocks<float>(const HessianView&,
                                                const Factor&, int64_t);
template RawVector<double> DiagonalBlocks<double>(const HessianView&,
                                                  const Factor&, int64_t);

}  // namespace bitwright::quant
