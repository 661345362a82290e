#include "worker/quant/gptq.h"

#include <algorithm>

#include "worker/quant/blas.h"
#include "worker/quant/blocked_columns.h"
#include "worker/quant/kernels.h"
#include "worker/quant/panels.h"
#include "worker/quant/parallel.h"
#include "worker/quant/raw_vector.h"

namespace bitwright::quant {
namespace {

constexpr int64_t kNearestRows = 16;  // rows per piece of RoundToNearest

// The rows of one panel through every column, in Real arithmetic.
template <typename Real>
class PanelPass {
 public:
  // `unit` is the factor's, `sums` gets [columns] by position.
  PanelPass(const FeedbackInput& in, const Real* unit, const RangeRuns& ranges,
            const RowPanels& panels, int64_t panel, RunSums* sums)
      : in_(in),
        unit_(unit),
        grids_(*in.grid, ranges, in.levels, in.row_levels, panels.First(panel),
               panels.Height(panel)),
        n_(panels.Height(panel)),
        columns_(panels.columns()),
        begin_(panels.At(panel, 0)),
        sums_(sums),
        values_(columns_ * n_),
        rounding_(n_) {}

  void Run() {
    VisitZeroColumns(unit_, columns_, columns_, n_, values_.data(),
                     [&](int64_t k, Real* t) { RoundColumn(k, t); });
  }

 private:
  int64_t At(int64_t position) const {
    return begin_ + in_.factor->order[position] * n_;
  }

  // Rounds what the feedback t makes of a column, whose errors t receives.
  void RoundColumn(int64_t k, Real* t) {
    const int64_t at = At(k);
    const float* weight = in_.weight + at;
    if (in_.targets != nullptr) {
      for (int64_t i = 0; i < n_; ++i) in_.targets[at + i] = weight[i] + t[i];
    }
    sums_[k] = RoundRun(grids_.For(in_.factor->order[k]), n_, weight, t,
                        rounding_.data(), in_.codes + at);
  }

  const FeedbackInput& in_;
  const Real* unit_;
  GridRuns grids_;
  const int64_t n_, columns_, begin_;
  RunSums* sums_;
  // [columns, n] by position: the feedback, then w − ŵ column by column.
  RawVector<Real> values_;
  RawVector<Real> rounding_;  // [n] of the current column
};

}  // namespace

FeedbackSums CollectSums(const Factor& factor, absl::Span<const RunSums> sums) {
  const int64_t columns = factor.columns;
  FeedbackSums result;
  result.column_loss.resize(columns);
  for (int64_t p = 0; p < columns; ++p) {
    double total = 0;
    for (size_t at = p; at < sums.size(); at += columns) {
      total += sums[at].rounding;
      result.squared_error += sums[at].error;
    }
    const double r = factor.diagonal[p];
    result.column_loss[factor.order[p]] = 0.5 * r * r * total;
  }
  return result;
}

FeedbackSums FeedbackPass(const FeedbackInput& input) {
  PinBlasToOneThread();
  const Factor& factor = *input.factor;
  const int64_t columns = factor.columns;
  const RowPanels panels(input.rows, columns);
  std::vector<RunSums> sums(panels.count() * columns);
  const RangeRuns ranges(*input.grid);
  ParallelFor(panels.count(), [&](int64_t p) {
    if (input.prepare) input.prepare(p);
    RunSums* out = sums.data() + p * columns;
    if (factor.unit64.empty()) {
      PanelPass<float>(input, factor.unit.data(), ranges, panels, p, out).Run();
    } else {
      PanelPass<double>(input, factor.unit64.data(), ranges, panels, p, out)
          .Run();
    }
  });
  return CollectSums(factor, sums);
}

NearestResult RoundToNearest(const float* weight, int64_t rows,
                             const Grid& grid,
                             absl::Span<const uint16_t> levels,
                             absl::Span<const double> diagonal) {
  const int64_t columns = grid.columns;
  NearestResult result;
  result.codes.resize(rows * columns);
  std::vector<std::vector<double>> sums((rows + kNearestRows - 1) /
                                        kNearestRows);
  ParallelFor(sums.size(), [&](int64_t c) {
    sums[c].resize(columns);
    const int64_t end = std::min(rows, (c + 1) * kNearestRows);
    for (int64_t r = c * kNearestRows; r < end; ++r) {
      for (int64_t j = 0; j < columns; ++j) {
        const int64_t g = grid.GroupOf(j);
        const GridPoint p =
            MakeGridPoint(grid.Min(r, g), grid.Max(r, g), levels[j]);
        const float w = weight[r * columns + j];
        const uint8_t code = Encode(w, p);
        result.codes[r * columns + j] = code;
        const double error = static_cast<double>(w) - Decode(code, p);
        sums[c][j] += error * error;
      }
    }
  });
  result.column_loss.resize(columns);
  for (int64_t j = 0; j < columns; ++j) {
    double total = 0;
    for (const std::vector<double>& s : sums) total += s[j];
    result.squared_error += total;
    result.column_loss[j] =
        0.5 * (diagonal.empty() ? 1.0 : diagonal[j]) * total;
  }
  return result;
}

std::vector<float> Dequantize(absl::Span<const uint8_t> codes, const Grid& grid,
                              absl::Span<const uint16_t> levels,
                              absl::Span<const uint16_t> row_levels) {
  std::vector<float> out(codes.size());
  ParallelFor(grid.rows, [&](int64_t r) {
    for (int64_t j = 0; j < grid.columns; ++j) {
      const int64_t g = grid.GroupOf(j);
      const int count = row_levels.empty() ? levels[j] : row_levels[r];
      out[r * grid.columns + j] =
          Decode(codes[r * grid.columns + j],
                 MakeGridPoint(grid.Min(r, g), grid.Max(r, g), count));
    }
  });
  return out;
}

}  // namespace bitwright::quant
