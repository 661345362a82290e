#include "worker/quant/refine.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "worker/quant/blocked_columns.h"
#include "worker/quant/kernels.h"
#include "worker/quant/panels.h"
#include "worker/quant/parallel.h"
#include "worker/quant/raw_vector.h"

namespace bitwright::quant {
namespace {

constexpr int64_t kSweepBlock = 128;  // columns to one GEMM of a sweep

// What a sweep multiplies by, in blocks of kSweepBlock (factor.h).
template <typename Real>
struct Matrices {
  RawVector<Real> factor;   // FactorBlocks
  RawVector<Real> hessian;  // DiagonalBlocks
};

// The rows of one panel, in Real arithmetic. Everything by position.
//
// Kept up to date: D = E R with E = W − Ŵ, R as scaled in Matrices. What a
// sweep needs is (E H)_k = Σ_{m>=k} R_km D_m, and a change δ of E_k adds R_km δ
// to every D_m, m >= k: both triangular, and D are the losses themselves.
template <typename Real>
class PanelRefiner {
 public:
  PanelRefiner(const FeedbackInput& in, const Matrices<Real>& matrices,
               const RangeRuns& ranges, const RowPanels& panels, int64_t panel)
      : in_(in),
        matrices_(matrices),
        grids_(*in.grid, ranges, in.levels, in.row_levels, panels.First(panel),
               panels.Height(panel)),
        n_(panels.Height(panel)),
        columns_(panels.columns()),
        begin_(panels.At(panel, 0)),
        products_(columns_ * n_),
        slopes_(kSweepBlock * n_),
        error_(n_) {
    if (kFromTargets) {
      for (int64_t k = 0; k < columns_; ++k) {
        ErrorRun(GridOf(k), n_, in_.targets + At(k), in_.codes + At(k),
                 Products(k));
        ScaleRun(Pivot(k), n_, Products(k));
      }
      return;
    }
    RawVector<Real> errors(columns_ * n_);
    for (int64_t k = 0; k < columns_; ++k) {
      ErrorRun(GridOf(k), n_, in_.weight + At(k), in_.codes + At(k),
               errors.data() + k * n_);
    }
    std::fill(products_.begin(), products_.end(), Real{0});
    for (int64_t start = 0; start < columns_; start += kSweepBlock) {
      const int64_t width = Width(start);
      Gemm(false, false, columns_ - start, n_, width, Real{1}, Factor(start),
           width, errors.data() + start * n_, n_, Real{1}, Products(start), n_);
    }
  }

  // Within a block, whose slopes are formed at once, what has moved counts
  // through H itself; the moves reach D when the block is done.
  void Sweep() {
    for (int64_t start = 0; start < columns_; start += kSweepBlock) {
      const int64_t width = Width(start);
      // Of the diagonal block's upper zeros a quarter is left out.
      const int64_t half = width / 2;
      const int64_t rest = columns_ - start - half;
      const Real* factor = Factor(start);
      const Real* below = factor + half * width;
      Gemm(true, false, width, n_, rest, Real{1}, below, width,
           Products(start + half), n_, Real{0}, slopes_.data(), n_);
      Gemm(true, false, half, n_, half, Real{1}, factor, width, Products(start),
           n_, Real{1}, slopes_.data(), n_);
      VisitColumns(matrices_.hessian.data() + start * kSweepBlock, kSweepBlock,
                   start, width, n_, slopes_.data(),
                   [&](int64_t k, Real* slope) { Revisit(k, slope); });
      Gemm(false, false, rest, n_, width, Real{1}, below, width, slopes_.data(),
           n_, Real{1}, Products(start + half), n_);
      Gemm(false, false, half, n_, half, Real{1}, factor, width, slopes_.data(),
           n_, Real{1}, Products(start), n_);
    }
  }

  // sums: [columns] by position.
  void Sum(RunSums* sums) {
    for (int64_t k = 0; k < columns_; ++k) {
      const double pivot = Pivot(k);
      ErrorRun(GridOf(k), n_, in_.weight + At(k), in_.codes + At(k),
               error_.data());
      sums[k] = {SquareRun(Products(k), n_) / (pivot * pivot),
                 SquareRun(error_.data(), n_)};
    }
  }

 private:
  // D_k = R_kk (t_k − ŵ_k), unless the targets have less precision than D.
  static constexpr bool kFromTargets = std::is_same_v<Real, float>;

  Real* Products(int64_t position) { return products_.data() + position * n_; }
  // Of the block that begins at `start`: its columns, and its factor.
  int64_t Width(int64_t start) const {
    return std::min(kSweepBlock, columns_ - start);
  }
  const Real* Factor(int64_t start) const {
    return matrices_.factor.data() + BlockOffset(columns_, kSweepBlock, start);
  }
  Real Pivot(int64_t k) const {
    const int64_t in_block = k % kSweepBlock, start = k - in_block;
    return Factor(start)[in_block * Width(start) + in_block];
  }
  int64_t At(int64_t position) const {
    return begin_ + in_.factor->order[position] * n_;
  }
  GridRun GridOf(int64_t position) {
    return grids_.For(in_.factor->order[position]);
  }

  // slope: (E H)_k, replaced by how much the errors of column k changed.
  void Revisit(int64_t k, Real* slope) {
    if (in_.factor->dead[in_.factor->order[k]]) {
      std::fill_n(slope, n_, Real{0});
      return;
    }
    const Real own = matrices_.hessian[k * kSweepBlock + k % kSweepBlock];
    RevisitRun(GridOf(k), n_, Real{1} / own, slope, in_.codes + At(k));
  }

  const FeedbackInput& in_;
  const Matrices<Real>& matrices_;
  GridRuns grids_;
  const int64_t n_, columns_, begin_;
  RawVector<Real> products_;  // [columns, n] D, by position
  RawVector<Real> slopes_;    // [kSweepBlock, n], then the moves
  RawVector<Real> error_;     // [n] of the current column
};

template <typename Real>
void RefineAs(const FeedbackInput& input, const HessianView& h, int sweeps,
              RunSums* sums) {
  const Matrices<Real> matrices{
      FactorBlocks<Real>(*input.factor, kSweepBlock),
      DiagonalBlocks<Real>(h, *input.factor, kSweepBlock)};
  const RowPanels panels(input.rows, input.factor->columns);
  const RangeRuns ranges(*input.grid);
  ParallelFor(panels.count(), [&](int64_t p) {
    PanelRefiner<Real> refiner(input, matrices, ranges, panels, p);
    for (int i = 0; i < sweeps; ++i) refiner.Sweep();
    refiner.Sum(sums + p * panels.columns());
  });
}

}  // namespace

FeedbackSums RefineCodes(const FeedbackInput& input, const HessianView& h,
                         int sweeps) {
  PinBlasToOneThread();
  const Factor& factor = *input.factor;
  const RowPanels panels(input.rows, factor.columns);
  std::vector<RunSums> sums(panels.count() * factor.columns);
  if (factor.unit64.empty()) {
    RefineAs<float>(input, h, sweeps, sums.data());
  } else {
    RefineAs<double>(input, h, sweeps, sums.data());
  }
  return CollectSums(factor, sums);
}

}  // namespace bitwright::quant
