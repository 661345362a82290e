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

// What of the factor a sweep needs (factor.h).
template <typename Real>
struct Matrices {
  RawVector<Real> factor;  // ScaledFactor
  RawVector<Real> blocks;  // DiagonalBlocks of kOuterBlock
};

// The rows of one panel, in Real arithmetic. Everything by position.
//
// Kept up to date: E = W − Ŵ and D = E R, R as scaled in Matrices. What a sweep
// needs is (E H)_k = Σ_{m>=k} R_km D_m, and a change δ of E_k adds R_km δ to
// every D_m, m >= k: both triangular, and D are the losses themselves.
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
        errors_(columns_ * n_),
        products_(columns_ * n_),
        block_(kOuterBlock * n_),
        moved_(kOuterBlock * n_),
        weight_(n_) {
    for (int64_t k = 0; k < columns_; ++k) {
      const GridRun grid = GridOf(k);
      const uint8_t* codes = in_.codes + At(k);
      ErrorRun(grid, n_, in_.weight + At(k), codes, Row(errors_, k));
      if (kFromTargets) {
        ErrorRun(grid, n_, in_.targets + At(k), codes, Row(products_, k));
        ScaleRun(Factor(k, k), n_, Row(products_, k));
      }
    }
    if (!kFromTargets) {
      Gemm(false, false, columns_, n_, columns_, Real{1},
           matrices_.factor.data(), columns_, errors_.data(), n_, Real{0},
           products_.data(), n_);
    }
  }

  void Sweep() {
    for (int64_t start = 0; start < columns_; start += kOuterBlock) {
      const int64_t width = std::min(kOuterBlock, columns_ - start);
      const int64_t rest = columns_ - start;
      const Real* factor = matrices_.factor.data() + start * columns_ + start;
      Gemm(true, false, width, n_, rest, Real{1}, factor, columns_,
           Row(products_, start), n_, Real{0}, block_.data(), n_);
      ForColumns(matrices_.blocks.data() + start * kOuterBlock, kOuterBlock,
                 width, n_, moved_.data(), block_.data(),
                 [&](int64_t k, Real* slope) {
                   Revisit(start + k, slope, Row(moved_, k));
                 });
      Gemm(false, false, rest, n_, width, Real{1}, factor, columns_,
           moved_.data(), n_, Real{1}, Row(products_, start), n_);
    }
  }

  // sums: [columns] by position.
  void Sum(RunSums* sums) {
    for (int64_t k = 0; k < columns_; ++k) {
      const double pivot = Factor(k, k);
      sums[k] = {SquareRun(Row(products_, k), n_) / (pivot * pivot),
                 SquareRun(Row(errors_, k), n_)};
    }
  }

 private:
  // D_k = R_kk (t_k − ŵ_k), unless the targets have less precision than D.
  static constexpr bool kFromTargets = std::is_same_v<Real, float>;

  Real* Row(RawVector<Real>& matrix, int64_t position) const {
    return matrix.data() + position * n_;
  }
  Real Factor(int64_t k, int64_t j) const {
    return matrices_.factor[k * columns_ + j];
  }
  int64_t At(int64_t position) const {
    return begin_ + in_.factor->order[position] * n_;
  }
  GridRun GridOf(int64_t position) {
    return grids_.For(in_.factor->order[position]);
  }

  // slope: (E H)_k, used up. moved: receives by how much the errors changed.
  void Revisit(int64_t k, Real* slope, Real* moved) {
    if (in_.factor->dead[in_.factor->order[k]]) {
      std::fill_n(moved, n_, Real{0});
      return;
    }
    Real* error = Row(errors_, k);
    const Real own = matrices_.blocks[k * kOuterBlock + k % kOuterBlock];
    TargetRun(in_.weight + At(k), error, Real{1} / own, n_, slope,
              weight_.data());
    RoundRun(GridOf(k), n_, slope, weight_.data(), in_.codes + At(k));
    MoveRun(weight_.data(), n_, error, moved);
  }

  const FeedbackInput& in_;
  const Matrices<Real>& matrices_;
  GridRuns grids_;
  const int64_t n_, columns_, begin_;
  RawVector<Real> errors_, products_;  // [columns, n] E and D
  RawVector<Real> block_, moved_;      // [kOuterBlock, n]
  RawVector<Real> weight_;             // [n] of the current column
};

template <typename Real>
void RefineAs(const FeedbackInput& input, const HessianView& h, int sweeps,
              RunSums* sums) {
  const Matrices<Real> matrices{
      ScaledFactor<Real>(*input.factor),
      DiagonalBlocks<Real>(h, *input.factor, kOuterBlock)};
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
