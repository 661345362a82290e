#include "worker/quant/baq.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "worker/quant/blocked_columns.h"
#include "worker/quant/kernels.h"
#include "worker/quant/panels.h"
#include "worker/quant/parallel.h"
#include "worker/quant/raw_vector.h"

namespace bitwright::quant {
namespace {

// ε inside the logarithm of the geometric mean, as in the public code.
constexpr double kLogEpsilon = 1e-8;
constexpr int64_t kColumnBlock = 128;  // columns per piece of the curves

double MeanOf(absl::Span<const double> values) {
  double sum = 0;
  for (double v : values) sum += v;
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

// The grid of one group for the rows of a panel.
class StepGrid {
 public:
  explicit StepGrid(int64_t n)
      : top_(n), scale_(n), inverse_(n), low_(n), high_(n) {}

  // at: of the group's first row of this panel in `ranges`.
  void Make(const RangeRuns& ranges, int64_t at, int levels) {
    const int64_t n = static_cast<int64_t>(top_.size());
    std::fill(top_.begin(), top_.end(), static_cast<float>(levels - 1));
    MakeGridRun(ranges.min.data() + at, ranges.max.data() + at, top_.data(), n,
                scale_.data(), low_.data());
    InverseRun(scale_.data(), n, inverse_.data());
    for (int64_t i = 0; i < n; ++i) {
      high_[i] = top_[i] - low_[i];
      low_[i] = -low_[i];
    }
  }

  StepRun View() const {
    return {scale_.data(), inverse_.data(), low_.data(), high_.data()};
  }

 private:
  std::vector<float> top_, scale_, inverse_, low_, high_;
};

}  // namespace

double GmOverAm(absl::Span<const double> column_loss) {
  const double am = MeanOf(column_loss);
  if (am == 0) return 1;
  double log_sum = 0;
  for (double loss : column_loss) log_sum += std::log(loss + kLogEpsilon);
  return std::exp(log_sum / static_cast<double>(column_loss.size())) / am;
}

double PredictedGain(absl::Span<const double> column_loss) {
  double log_sum = 0, sum = 0;
  int64_t positive = 0;
  for (double loss : column_loss) {
    if (!(loss > 0)) continue;
    log_sum += std::log(loss);
    sum += loss;
    ++positive;
  }
  if (positive == 0) return 1;
  const double n = static_cast<double>(positive);
  return std::min(1.0, std::exp(log_sum / n - std::log(sum / n)));
}

std::vector<uint16_t> ReferenceLevels(absl::Span<const double> column_loss,
                                      double bits, double theta) {
  const double mean = GmOverAm(column_loss) * MeanOf(column_loss);
  std::vector<uint16_t> levels(column_loss.size(), 1);
  if (mean == 0) return levels;
  const double base = std::exp2(theta * bits);
  for (size_t j = 0; j < levels.size(); ++j) {
    const double l =
        std::max(1.0, std::pow(column_loss[j] / mean * base, 1.0 / theta));
    levels[j] =
        static_cast<uint16_t>(std::min<double>(std::nearbyint(l), kMaxLevels));
  }
  return levels;
}

double ColumnBits(int64_t rows, int levels, Budget budget) {
  if (levels <= 1) return 0;
  const double log2_levels = std::log2(static_cast<double>(levels));
  if (budget == Budget::kCodes) return static_cast<double>(rows) * log2_levels;
  if ((levels & (levels - 1)) == 0) {
    const int64_t bits = std::lround(log2_levels);
    return static_cast<double>((rows * bits + 7) / 8 * 8);
  }
  const int64_t per_word = static_cast<int64_t>(std::floor(64 / log2_levels));
  return static_cast<double>((rows + per_word - 1) / per_word * 64);
}

double SideBits(int64_t rows, int64_t columns, int64_t groups, Budget budget) {
  if (budget == Budget::kCodes) return 0;
  return 16.0 * static_cast<double>(columns) +
         32.0 * static_cast<double>(rows * groups);
}

double BitsPerWeight(int64_t rows, int64_t groups,
                     absl::Span<const uint16_t> levels, Budget budget) {
  const int64_t columns = static_cast<int64_t>(levels.size());
  double bits = SideBits(rows, columns, groups, budget);
  for (uint16_t l : levels) bits += ColumnBits(rows, l, budget);
  return bits / static_cast<double>(rows * columns);
}

const std::vector<int>& MeasuredLevelCounts() {
  static const auto* counts = new std::vector<int>{
      1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11,  12,  13,
      14, 15, 16, 18, 20, 24, 32, 48, 64, 96, 128, 192, 256};
  return *counts;
}

const std::vector<int>& AllowedLevelCounts() {
  static const auto* counts = [] {
    auto* c = new std::vector<int>;
    for (int l = 1; l <= 64; ++l) c->push_back(l);
    for (int l = 66; l <= 128; l += 2) c->push_back(l);
    for (int l = 132; l <= kMaxLevels; l += 4) c->push_back(l);
    return c;
  }();
  return *counts;
}

std::vector<double> MeasureDistortion(const float* values, const Grid& grid,
                                      absl::Span<const int> counts) {
  const int64_t rows = grid.rows, columns = grid.columns;
  const int64_t points = static_cast<int64_t>(counts.size());
  const RangeRuns ranges(grid);
  const RowPanels panels(rows, columns);
  const int64_t chunks = panels.count();
  const int64_t blocks = (columns + kColumnBlock - 1) / kColumnBlock;
  RawVector<double> partial(chunks * columns * points);
  ParallelFor(chunks * blocks, [&](int64_t piece) {
    const int64_t panel = piece / blocks;
    const int64_t first = panels.First(panel), n = panels.Height(panel);
    const int64_t begin = piece % blocks * kColumnBlock;
    const int64_t end = std::min(begin + kColumnBlock, columns);
    double* out = partial.data() + panel * columns * points;
    StepGrid steps(n);
    for (int64_t p = 0; p < points; ++p) {
      int64_t group = -1;
      for (int64_t j = begin, next; j < end; j = next) {
        const float* v = values + panels.At(panel, j);
        next = j + 1;
        if (counts[p] <= 1) {
          out[j * points + p] = SquareRun(v, n);
          continue;
        }
        if (grid.GroupOf(j) != group) {
          group = grid.GroupOf(j);
          steps.Make(ranges, group * rows + first, counts[p]);
        }
        std::array<const float*, kDistortionColumns> several;
        several.fill(v);  // Where too few are left, the first again.
        for (; next < end && next - j < kDistortionColumns &&
               grid.GroupOf(next) == group;
             ++next) {
          several[next - j] = values + panels.At(panel, next);
        }
        const DistortionSums sums = DistortionRun(several, steps.View(), n);
        for (int64_t c = j; c < next; ++c) out[c * points + p] = sums[c - j];
      }
    }
  });
  std::vector<double> curves(columns * points);
  ParallelFor(blocks, [&](int64_t block) {
    const int64_t end = std::min((block + 1) * kColumnBlock, columns) * points;
    for (int64_t i = block * kColumnBlock * points; i < end; ++i) {
      for (int64_t c = 0; c < chunks; ++c) {
        curves[i] += partial[c * columns * points + i];
      }
    }
  });
  return curves;
}

std::vector<double> ExpandCurves(absl::Span<const double> measured,
                                 absl::Span<const double> weights) {
  const std::vector<int>& from = MeasuredLevelCounts();
  const std::vector<int>& to = AllowedLevelCounts();
  // Per allowed count: the measured one at or below it, and the share of the
  // way to the next.
  std::vector<std::pair<size_t, double>> place(to.size());
  size_t at = 0;
  for (size_t i = 0; i < to.size(); ++i) {
    while (at + 1 < from.size() && from[at + 1] <= to[i]) ++at;
    place[i] = {at, 0};
    if (from[at] == to[i]) continue;
    const double x0 = std::log(from[at] - 1), x1 = std::log(from[at + 1] - 1);
    place[i].second = (std::log(to[i] - 1) - x0) / (x1 - x0);
  }
  const int64_t columns = static_cast<int64_t>(weights.size());
  std::vector<double> out(columns * to.size());
  ParallelFor((columns + kColumnBlock - 1) / kColumnBlock, [&](int64_t block) {
    const int64_t end = std::min(columns, (block + 1) * kColumnBlock);
    std::vector<double> logs(from.size());
    for (int64_t j = block * kColumnBlock; j < end; ++j) {
      const double* d = measured.data() + j * from.size();
      for (size_t i = 0; i < from.size(); ++i) logs[i] = std::log(d[i]);
      for (size_t i = 0; i < to.size(); ++i) {
        const auto [low, share] = place[i];
        double value = d[low];
        if (share > 0 && d[low] > 0 && d[low + 1] > 0) {
          value = std::exp(logs[low] * (1 - share) + logs[low + 1] * share);
        }
        out[j * to.size() + i] = 0.5 * weights[j] * value;
      }
    }
  });
  return out;
}

}  // namespace bitwright::quant
