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

// What a sweep multiplies by, in blocks of kSweepBlock (factor.h). The factor
// twice: the slopes are formed a sixth faster from blocks that the product need
// not transpose, and moves go along its rows.
template <typename Real>
struct Matrices {
  Matrices(const HessianView& h, const Factor& f)
      : factor(FactorBlocks<Real>(f, kSweepBlock)),
        factor_rows(TransposeBlocks(factor, f.columns, kSweepBlock)),
        hessian(DiagonalBlocks<Real>(h, f, kSweepBlock)) {}

  const RawVector<Real> factor, factor_rows, hessian;
};

// The rows of one panel, in Real arithmetic. Everything by position.
//
// Kept up to date: D = E R with E = W − Ŵ, R as scaled in Matrices. What a
// sweep needs is (E H)_k = Σ_{m>=k} R_km D_m, a product; and a change δ of E_ik
// adds R_km δ to every D_im, m >= k. Few codes change, so that this goes change
// by change, along the rows of D. The losses are D's squares.
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
        d_(n_ * columns_),
        rows_(n_ * kSweepBlock),
        block_(kSweepBlock * n_) {
    if (!kFromTargets) std::fill(d_.begin(), d_.end(), Real{0});
    for (int64_t start = 0; start < columns_; start += kSweepBlock) {
      const int64_t width = Width(start);
      for (int64_t k = 0; k < width; ++k) {
        FirstOf(start + k, block_.data() + k * n_);
      }
      if (kFromTargets) {
        Transpose(block_.data(), width, n_, D(start), columns_);
      } else {
        Gemm(true, false, n_, columns_ - start, width, Real{1}, block_.data(),
             n_, FactorRows(start), columns_ - start, Real{1}, D(start),
             columns_);
      }
    }
  }

  // Within a block, whose slopes are formed at once, what has moved counts
  // through H itself; the moves reach D when the block is done.
  void Sweep() {
    for (int64_t start = 0; start < columns_; start += kSweepBlock) {
      const int64_t width = Width(start);
      // Of the diagonal block's upper zeros a quarter is left out.
      const int64_t half = width / 2;
      const Real* factor = Factor(start);
      Gemm(false, false, n_, width, columns_ - start - half, Real{1},
           D(start + half), columns_, factor + half * width, width, Real{0},
           rows_.data(), width);
      Gemm(false, false, n_, half, half, Real{1}, D(start), columns_, factor,
           width, Real{1}, rows_.data(), width);
      Transpose(rows_.data(), n_, width, block_.data(), n_);
      VisitColumns(matrices_.hessian.data() + start * kSweepBlock, kSweepBlock,
                   start, width, n_, block_.data(),
                   [&](int64_t k, Real* slope) { Revisit(k, slope); });
      Move(start);
    }
  }

  // sums: [columns] by position.
  void Sum(RunSums* sums) {
    std::vector<double> squares(columns_);
    for (int64_t i = 0; i < n_; ++i) {
      const Real* row = d_.data() + i * columns_;
      for (int64_t k = 0; k < columns_; ++k) {
        squares[k] += static_cast<double>(row[k]) * row[k];
      }
    }
    for (int64_t k = 0; k < columns_; ++k) {
      const double pivot = Pivot(k);
      ErrorRun(GridOf(k), n_, in_.weight + At(k), in_.codes + At(k),
               block_.data());
      sums[k] = {squares[k] / (pivot * pivot), SquareRun(block_.data(), n_)};
    }
  }

 private:
  // D_k = R_kk (t_k − ŵ_k), unless the targets have less precision than D.
  static constexpr bool kFromTargets = std::is_same_v<Real, float>;

  // Of the panel's first row, from column `position` on.
  Real* D(int64_t position) { return d_.data() + position; }
  // Of the block that begins at `start`: its columns, and R's.
  int64_t Width(int64_t start) const {
    return std::min(kSweepBlock, columns_ - start);
  }
  const Real* Factor(int64_t start) const {
    return matrices_.factor.data() + BlockOffset(columns_, kSweepBlock, start);
  }
  const Real* FactorRows(int64_t start) const {
    return matrices_.factor_rows.data() +
           BlockOffset(columns_, kSweepBlock, start);
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

  // D of column k, or E where D is yet to be formed of it.
  void FirstOf(int64_t k, Real* e) {
    const float* from = kFromTargets ? in_.targets : in_.weight;
    ErrorRun(GridOf(k), n_, from + At(k), in_.codes + At(k), e);
    if (kFromTargets) ScaleRun(Pivot(k), n_, e);
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

  // Adds what a block has changed, [width, n] in block_, to D; R's zeros too,
  // so that all runs begin with the block.
  void Move(int64_t start) {
    const int64_t rest = columns_ - start;
    for (int64_t k = 0; k < Width(start); ++k) {
      const Real* factor = FactorRows(start) + k * rest;
      const Real* change = block_.data() + k * n_;
      for (int64_t i = 0; i < n_; ++i) {
        if (change[i] == 0) continue;
        AccumulateRun(factor, rest, change + i, 1, rest,
                      D(start) + i * columns_);
      }
    }
  }

  const FeedbackInput& in_;
  const Matrices<Real>& matrices_;
  GridRuns grids_;
  const int64_t n_, columns_, begin_;
  RawVector<Real> d_;      // [n, columns]
  RawVector<Real> rows_;   // [n, kSweepBlock] the slopes of a block
  RawVector<Real> block_;  // [kSweepBlock, n] them, then the changes of E
};

template <typename Real>
void RefineAs(const FeedbackInput& input, const HessianView& h, int sweeps,
              RunSums* sums) {
  const Matrices<Real> matrices(h, *input.factor);
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
