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

inline constexpr int64_t kOuterBlock = 256;  // columns to one large GEMM
inline constexpr int64_t kInnerBlock = 32;   // columns updated by hand

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

// Visits the columns of an outer block, 0 to width − 1, in order. Before
// fn(k, t_k), t_k has received Σ_j a[k][j] · moved_j over j < k, where fn has
// set moved_j: nearly all of it by one GEMM per inner block. `a` is row-major
// with leading dimension `stride`; t and moved are [width, n].
template <typename Real, typename Fn>
void ForColumns(const Real* a, int64_t stride, int64_t width, int64_t n,
                const Real* moved, Real* t, Fn fn) {
  for (int64_t inner = 0; inner < width; inner += kInnerBlock) {
    const int64_t stop = std::min(inner + kInnerBlock, width);
    if (inner > 0) {
      Gemm(false, false, stop - inner, n, inner, Real{1}, a + inner * stride,
           stride, moved, n, Real{1}, t + inner * n, n);
    }
    for (int64_t k = inner; k < stop; ++k) {
      AccumulateRun(moved + inner * n, n, a + k * stride + inner, k - inner, n,
                    t + k * n);
      fn(k, t + k * n);
    }
  }
}

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_BLOCKED_COLUMNS_H_
