#include "worker/quant/grid.h"

#include <algorithm>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "worker/quant/kernels.h"
#include "worker/quant/parallel.h"

namespace bitwright::quant {
namespace {

constexpr float kMaxF16 = 65504.0f;
// Ranges below this cannot be cut into 255 normal steps: taken as all-zero.
constexpr float kSmallestRange = 1e-30f;
constexpr int kSymmetricNudges = 64;
constexpr int kClipSteps = 80;

struct Range {
  float min, max;
};

bool IsUsable(const Range& r) { return r.max - r.min >= kSmallestRange; }

// The next storable value above m > 0.
float NextUp(float m, bool f16) {
  if (!f16) return std::nextafter(m, std::numeric_limits<float>::infinity());
  // 1/2048 is half a unit in the last place at most; 2^-24 the subnormal unit.
  const float step = std::max(m / 1024.0f, 0x1p-24f);
  return RoundToF16(m + step);
}

// Rounds for storage; widens a symmetric range until its zero point is exact.
Range Finish(Range r, const GridOptions& options) {
  if (options.f16) r = {RoundToF16(r.min), RoundToF16(r.max)};
  if (!IsUsable(r)) return {-1.0f, 1.0f};
  if (options.symmetric && options.levels % 2 == 0) {
    const float want = static_cast<float>(options.levels / 2);
    float m = r.max;
    for (int i = 0; i < kSymmetricNudges; ++i, m = NextUp(m, options.f16)) {
      if (MakeGridPoint(-m, m, options.levels).zero == want) return {-m, m};
    }
  }
  return r;
}

// Σ |w − Q(w)|^2.4 over one row's group.
double ClipError(const float* w, int64_t n, const Range& r, int levels) {
  const GridPoint p = MakeGridPoint(r.min, r.max, levels);
  double sum = 0;
  for (int64_t j = 0; j < n; ++j) {
    sum += std::pow(std::abs(w[j] - Decode(Encode(w[j], p), p)), 2.4f);
  }
  return sum;
}

Range SearchClip(const float* w, int64_t n, Range full,
                 const GridOptions& options) {
  Range best = Finish(full, options);
  double least = ClipError(w, n, best, options.levels);
  for (int step = 1; step < kClipSteps; ++step) {
    const float shrink = 1.0f - 0.01f * static_cast<float>(step);
    const Range r = Finish({full.min * shrink, full.max * shrink}, options);
    const double error = ClipError(w, n, r, options.levels);
    if (error < least) {
      least = error;
      best = r;
    }
  }
  return best;
}

// The range of w[0..n), already with dead columns at zero.
Range RangeOf(const float* w, int64_t n, const GridOptions& options) {
  // Half the largest float, so that max − min stays finite.
  constexpr float kLimit = std::numeric_limits<float>::max() / 2;
  const Extent extent = ExtentRun(w, n);
  Range r{std::max(extent.min, -kLimit), std::min(extent.max, kLimit)};
  if (options.symmetric) {
    const float m = std::max(-r.min, r.max);
    r = {-m, m};
  }
  if (options.mse_clip && IsUsable(r)) return SearchClip(w, n, r, options);
  return Finish(r, options);
}

}  // namespace

float RoundToF16(float value) {
  const float magnitude = std::abs(value);
  if (magnitude >= kMaxF16) return std::copysign(kMaxF16, value);
  // 11 significant bits, or a multiple of 2^-24 below the normal range.
  int exponent = 0;
  std::frexp(magnitude, &exponent);  // magnitude < 2^exponent
  const int unit = std::max(exponent - 11, -24);
  const float rounded = std::ldexp(std::rint(std::ldexp(value, -unit)), unit);
  return rounded == 0 ? 0.0f : rounded;
}

absl::StatusOr<Grid> MakeGrid(const float* weight, int64_t rows,
                              int64_t columns, const GridOptions& options,
                              const std::vector<bool>& dead) {
  if (rows < 1 || columns < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("weight of shape [", rows, ", ", columns, "] is empty"));
  }
  if (options.group_size < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("group size must be 0 or more, not ", options.group_size));
  }
  Grid grid;
  grid.rows = rows;
  grid.columns = columns;
  grid.group_size =
      options.group_size == 0 ? columns : std::min(options.group_size, columns);
  grid.groups = (columns + grid.group_size - 1) / grid.group_size;
  grid.min.resize(rows * grid.groups);
  grid.max.resize(rows * grid.groups);
  const bool any_dead = std::find(dead.begin(), dead.end(), true) != dead.end();
  std::vector<int64_t> bad(rows, -1);
  ParallelFor(rows, [&](int64_t r) {
    const float* w = weight + r * columns;
    bad[r] = FirstNonFinite(w, columns);
    if (bad[r] >= 0) return;
    std::vector<float> live;
    if (any_dead) {
      live.assign(w, w + columns);
      for (int64_t j = 0; j < columns; ++j) {
        if (dead[j]) live[j] = 0;
      }
      w = live.data();
    }
    GridOptions of_row = options;
    if (!options.row_levels.empty()) of_row.levels = options.row_levels[r];
    for (int64_t g = 0; g < grid.groups; ++g) {
      const int64_t begin = g * grid.group_size;
      const int64_t width = std::min(grid.group_size, columns - begin);
      const Range range = RangeOf(w + begin, width, of_row);
      grid.min[r * grid.groups + g] = range.min;
      grid.max[r * grid.groups + g] = range.max;
    }
  });
  for (int64_t r = 0; r < rows; ++r) {
    if (bad[r] >= 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "weight value at [", r, ", ", bad[r], "] is ",
          weight[r * columns + bad[r]], "; the source checkpoint is damaged"));
    }
  }
  return grid;
}

}  // namespace bitwright::quant
