// The grid that values are rounded to (math.md §2): a range per row, or per row
// and group of input columns, cut into as many levels as the column has.
//
//   BW_ASSIGN_OR_RETURN(Grid grid, MakeGrid(w, rows, columns, {.f16 = true}));
//   GridPoint p = MakeGridPoint(grid.Min(r, g), grid.Max(r, g), /*levels=*/5);
//   uint8_t code = Encode(t, p);
//   float w_hat = Decode(code, p);
//
// Decoding is part of the file format: float32 throughout, no fused
// multiply-add, ties to even. MakeGridPoint and Decode are its definition.
#ifndef BITWRIGHT_WORKER_QUANT_GRID_H_
#define BITWRIGHT_WORKER_QUANT_GRID_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace bitwright::quant {

inline constexpr int kMaxLevels = 256;

// Scale and zero point of one range at one level count.
struct GridPoint {
  float scale = 0;
  float zero = 0;
  float top = 0;  // levels - 1
};

inline GridPoint MakeGridPoint(float min, float max, int levels) {
  if (levels <= 1) return {};
  const float top = static_cast<float>(levels - 1);
  const float scale = (max - min) / top;
  return {scale, std::rint(-min / scale), top};
}

// Levels = 1 has the single code 0, which stands for 0.
inline uint8_t Encode(float t, const GridPoint& p) {
  if (p.top == 0) return 0;
  const float code = std::rint(t / p.scale) + p.zero;
  return static_cast<uint8_t>(std::min(std::max(code, 0.0f), p.top));
}

inline float Decode(uint8_t code, const GridPoint& p) {
  return p.scale * (static_cast<float>(code) - p.zero);
}

struct GridOptions {
  // Columns per group; 0: one group. A last group may be shorter.
  int64_t group_size = 0;
  // [-m, m] with m = max|w| instead of [min(w, 0), max(w, 0)].
  bool symmetric = false;
  // Shrink the range to what rounds `levels` levels with the least |error|^2.4
  // (GPTQ's search: 80 steps of 1 %).
  bool mse_clip = false;
  // Level count that mse_clip and symmetric aim at: the uniform one, or
  // [rows] that each have their own.
  int levels = 16;
  absl::Span<const uint16_t> row_levels = {};
  // Round the ends to F16 (nearest even, clamped to ±65504) as stored in files.
  bool f16 = false;
};

struct Grid {
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t group_size = 0;  // = columns when there is one group
  int64_t groups = 0;
  std::vector<float> min, max;  // [rows, groups]

  int64_t GroupOf(int64_t column) const { return column / group_size; }
  float Min(int64_t row, int64_t group) const {
    return min[row * groups + group];
  }
  float Max(int64_t row, int64_t group) const {
    return max[row * groups + group];
  }
};

// Ranges from the original weights [rows, columns], row-major. An all-zero (or
// vanishing) range becomes [-1, 1]. A symmetric range is widened by a few units
// in the last place where that is needed for the zero point to be levels / 2,
// as serving formats want it. `dead` columns (may be empty) count as zero.
// INVALID_ARGUMENT when a weight is NaN or infinite, a size is not positive, or
// group_size is negative.
absl::StatusOr<Grid> MakeGrid(const float* weight, int64_t rows,
                              int64_t columns, const GridOptions& options,
                              const std::vector<bool>& dead = {});

// The nearest F16 value (ties to even), clamped to ±65504.
float RoundToF16(float value);

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_GRID_H_
