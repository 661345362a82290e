// What the loops over columns share (gptq.cc, refine.cc): the grids of a panel
// and the order in which columns are visited. Private to this folder.
#ifndef BITWRIGHT_WORKER_QUANT_BLOCKED_COLUMNS_H_
#define BITWRIGHT_WORKER_QUANT_BLOCKED_COLUMNS_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "worker/quant/blas.h"
#include "worker/quant/gptq.h"
#include "worker/quant/grid.h"
#include "worker/quant/kernels.h"

namespace bitwright::quant {

inline constexpr int64_t kLeafColumns = 32;  // updated by hand, not by GEMM

// Where a run of more than kLeafColumns columns is cut in two, so that what the
// left part does to the right one is one GEMM: a power of two of leaves.
inline int64_t LeftColumns(int64_t width) {
  int64_t left = kLeafColumns;
  while (2 * left < width) left *= 2;
  return left;
}

// The ranges as [groups, rows]: runs over rows are contiguous.
struct RangeRuns {
  explicit RangeRuns(const Grid& grid)
      : min(grid.min.size()), max(grid.max.size()) {
    for (int64_t r = 0; r < grid.rows; ++r) {
      for (int64_t g = 0; g < grid.groups; ++g) {
        min[g * grid.rows + r] = grid.Min(r, g);
        max[g * grid.rows + r] = grid.Max(r, g);
      }
    }
  }
  std::vector<float> min, max;
};

// Scales and zero points of one chunk of rows, computed once for each level
// count of a group of columns.
class GridRuns {
 public:
  GridRuns(const Grid& grid, const RangeRuns& ranges,
           absl::Span<const uint16_t> levels,
           absl::Span<const uint16_t> row_levels, int64_t first, int64_t n)
      : grid_(grid),
        ranges_(ranges),
        levels_(levels),
        row_levels_(row_levels),
        first_(first),
        n_(n) {}

  GridRun For(int32_t column) {
    const int64_t group = grid_.GroupOf(column);
    const int key = row_levels_.empty() ? levels_[column] : 0;
    Run& run = runs_[key];
    if (run.group != group) Make(group, key, run);
    return {run.scale.data(), run.zero.data(), run.top.data()};
  }

 private:
  struct Run {
    int64_t group = -1;
    std::vector<float> scale, zero, top;  // [n]
  };

  void Make(int64_t group, int key, Run& run) {
    run.group = group;
    run.scale.resize(n_);
    run.zero.resize(n_);
    run.top.resize(n_);
    for (int64_t i = 0; i < n_; ++i) {
      const int levels = key > 0 ? key : row_levels_[first_ + i];
      run.top[i] = static_cast<float>(levels - 1);
    }
    const int64_t at = group * grid_.rows + first_;
    MakeGridRun(ranges_.min.data() + at, ranges_.max.data() + at,
                run.top.data(), n_, run.scale.data(), run.zero.data());
  }

  const Grid& grid_;
  const RangeRuns& ranges_;
  const absl::Span<const uint16_t> levels_, row_levels_;
  const int64_t first_, n_;
  // By level count; [0] holds the one that differs by row.
  std::array<Run, kMaxLevels + 1> runs_;
};

// Of all panels, in their order: [panels, columns] by position.
FeedbackSums CollectSums(const Factor& factor, absl::Span<const RunSums> sums);

// Calls fn(first + k, t_k) for k from 0 to width − 1, in order. Before its turn
// t_k has received Σ_j a[k][j] · t_j over j < k, where t_j is what fn has left
// there. `a` is row-major with leading dimension `stride`, read below its
// diagonal only; t is [width, n].
template <typename Real, typename Fn>
void VisitColumns(const Real* a, int64_t stride, int64_t first, int64_t width,
                  int64_t n, Real* t, const Fn& fn) {
  if (width <= kLeafColumns) {
    for (int64_t k = 0; k < width; ++k) {
      AccumulateRun(t, n, a + k * stride, k, n, t + k * n);
      fn(first + k, t + k * n);
    }
    return;
  }
  const int64_t left = LeftColumns(width);
  const Real* below = a + left * stride;
  VisitColumns(a, stride, first, left, n, t, fn);
  Gemm(false, false, width - left, n, left, Real{1}, below, stride, t, n,
       Real{1}, t + left * n, n);
  VisitColumns(below + left, stride, first + left, width - left, n,
               t + left * n, fn);
}

// VisitColumns from column 0 on, of columns that are zero whatever t holds.
template <typename Real, typename Fn>
void VisitZeroColumns(const Real* a, int64_t stride, int64_t width, int64_t n,
                      Real* t, const Fn& fn) {
  if (width <= kLeafColumns) {
    std::fill_n(t, width * n, Real{0});
    VisitColumns(a, stride, 0, width, n, t, fn);
    return;
  }
  const int64_t left = LeftColumns(width);
  const Real* below = a + left * stride;
  VisitZeroColumns(a, stride, left, n, t, fn);
  Gemm(false, false, width - left, n, left, Real{1}, below, stride, t, n,
       Real{0}, t + left * n, n);
  VisitColumns(below + left, stride, left, width - left, n, t + left * n, fn);
}

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_BLOCKED_COLUMNS_H_
