#include "worker/quant/gptq.h"

#include <algorithm>

#include "worker/quant/blas.h"
#include "worker/quant/kernels.h"
#include "worker/quant/parallel.h"

namespace bitwright::quant {
namespace {

constexpr int64_t kOuterBlock = 256;  // columns per outer block (one GEMM each)
constexpr int64_t kInnerBlock = 32;   // columns whose feedback is done by hand
// Tiles of a transposition. Few rows: rows are often a power of two apart, and
// then share one set of the cache.
constexpr int64_t kTileRows = 8;
constexpr int64_t kTileFloats = 16;
constexpr int64_t kTileCodes = 64;
constexpr int64_t kNearestRows = 16;  // rows per piece of RoundToNearest

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

// The sums that one chunk of rows leaves behind.
struct ChunkSums {
  std::vector<double> rounding;  // [columns] ‖t_k − ŵ_k‖², by position
  double squared_error = 0;      // ‖W − Ŵ‖²
};

// Rows [first, first + n) through every column.
class ChunkPass {
 public:
  ChunkPass(const FeedbackInput& in, const RangeRuns& ranges, int64_t first,
            int64_t n, FeedbackResult& result, ChunkSums& sums)
      : in_(in),
        ranges_(ranges),
        first_(first),
        n_(n),
        columns_(in.factor->columns),
        result_(result),
        sums_(sums),
        errors_(columns_ * n),
        targets_(kOuterBlock * n),
        codes_(kOuterBlock * n) {}

  void Run() {
    sums_.rounding.resize(columns_);
    LoadTransposed();
    for (int64_t start = 0; start < columns_; start += kOuterBlock) {
      const int64_t end = std::min(start + kOuterBlock, columns_);
      std::copy(Errors(start), Errors(start) + (end - start) * n_,
                targets_.data());
      if (start > 0) Feedback(0, start, start, end, targets_.data());
      for (int64_t inner = start; inner < end; inner += kInnerBlock) {
        const int64_t inner_end = std::min(inner + kInnerBlock, end);
        if (inner > start) {
          Feedback(start, inner, inner, inner_end,
                   targets_.data() + (inner - start) * n_);
        }
        for (int64_t k = inner; k < inner_end; ++k) {
          RoundColumn(inner, k, targets_.data() + (k - start) * n_,
                      codes_.data() + (k - start) * n_);
        }
      }
      StoreCodes(start, end);
    }
  }

 private:
  float* Errors(int64_t position) { return errors_.data() + position * n_; }

  // t of positions [to, to_end) += Σ_j (w_j − ŵ_j) R_jk / R_kk over j in
  // [from, from_end).
  void Feedback(int64_t from, int64_t from_end, int64_t to, int64_t to_end,
                float* t) {
    Gemm(false, false, to_end - to, n_, from_end - from, 1.0f,
         in_.factor->unit.data() + to * columns_ + from, columns_, Errors(from),
         n_, 1.0f, t, n_);
  }

  // Feedback from the inner block's earlier columns, then rounding; the weights
  // of position k are replaced by their errors.
  void RoundColumn(int64_t inner, int64_t k, float* t, uint8_t* codes) {
    AccumulateRun(Errors(inner), n_,
                  in_.factor->unit.data() + k * columns_ + inner, k - inner, n_,
                  t);
    const int32_t column = in_.factor->order[k];
    if (in_.targets != nullptr) {
      std::copy_n(t, n_, in_.targets + column * in_.rows + first_);
    }
    const int64_t range = in_.grid->GroupOf(column) * in_.rows + first_;
    RoundRun(ranges_.min.data() + range, ranges_.max.data() + range,
             in_.levels[column], n_, t, Errors(k), codes);
    sums_.rounding[k] = SquareRun(t, n_);
    sums_.squared_error += SquareRun(Errors(k), n_);
  }

  void LoadTransposed() {
    const int64_t n = n_, columns = columns_;
    const float* weight = in_.weight + first_ * columns;
    ForTiles(0, columns, kTileFloats,
             [&](int64_t p, int64_t begin, int64_t end) {
               const int32_t column = in_.factor->order[p];
               float* out = errors_.data() + p * n;
               if (in_.factor->dead[column]) return;  // Stays zero.
               for (int64_t i = begin; i < end; ++i) {
                 out[i] = weight[i * columns + column];
               }
             });
  }

  void StoreCodes(int64_t start, int64_t end) {
    const int64_t n = n_, columns = columns_;
    uint8_t* codes = result_.codes.data() + first_ * columns;
    ForTiles(start, end, kTileCodes,
             [&](int64_t p, int64_t begin, int64_t stop) {
               uint8_t* out = codes + in_.factor->order[p];
               const uint8_t* in = codes_.data() + (p - start) * n;
               for (int64_t i = begin; i < stop; ++i) out[i * columns] = in[i];
             });
  }

  // fn(position, rows from, to) in tiles that stay in the cache both ways.
  template <typename Fn>
  void ForTiles(int64_t start, int64_t end, int64_t width, Fn fn) {
    for (int64_t p0 = start; p0 < end; p0 += width) {
      const int64_t p1 = std::min(p0 + width, end);
      for (int64_t i0 = 0; i0 < n_; i0 += kTileRows) {
        const int64_t i1 = std::min(i0 + kTileRows, n_);
        for (int64_t p = p0; p < p1; ++p) fn(p, i0, i1);
      }
    }
  }

  const FeedbackInput& in_;
  const RangeRuns& ranges_;
  const int64_t first_, n_, columns_;
  FeedbackResult& result_;
  ChunkSums& sums_;
  // [columns, n] by position: weights, replaced by w − ŵ column by column.
  std::vector<float> errors_;
  std::vector<float> targets_;  // [kOuterBlock, n] t of the current block
  std::vector<uint8_t> codes_;  // [kOuterBlock, n] of the current block
};

}  // namespace

FeedbackResult FeedbackPass(const FeedbackInput& input) {
  PinBlasToOneThread();
  const Factor& factor = *input.factor;
  const int64_t columns = factor.columns;
  const int64_t chunk = RowChunk(input.rows);
  const int64_t chunks = (input.rows + chunk - 1) / chunk;
  FeedbackResult result;
  result.codes.resize(input.rows * columns);
  result.column_loss.resize(columns);
  std::vector<ChunkSums> sums(chunks);
  const RangeRuns ranges(*input.grid);
  ParallelFor(chunks, [&](int64_t c) {
    const int64_t first = c * chunk;
    ChunkPass(input, ranges, first, std::min(chunk, input.rows - first), result,
              sums[c])
        .Run();
  });
  for (const ChunkSums& s : sums) result.squared_error += s.squared_error;
  for (int64_t p = 0; p < columns; ++p) {
    double total = 0;
    for (const ChunkSums& s : sums) total += s.rounding[p];
    const double r = factor.diagonal[p];
    result.column_loss[factor.order[p]] = 0.5 * r * r * total;
  }
  return result;
}

FeedbackResult RoundToNearest(const float* weight, int64_t rows,
                              const Grid& grid,
                              absl::Span<const uint16_t> levels,
                              absl::Span<const double> diagonal) {
  const int64_t columns = grid.columns;
  FeedbackResult result;
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
                              absl::Span<const uint16_t> levels) {
  std::vector<float> out(codes.size());
  ParallelFor(grid.rows, [&](int64_t r) {
    for (int64_t j = 0; j < grid.columns; ++j) {
      const int64_t g = grid.GroupOf(j);
      out[r * grid.columns + j] =
          Decode(codes[r * grid.columns + j],
                 MakeGridPoint(grid.Min(r, g), grid.Max(r, g), levels[j]));
    }
  });
  return out;
}

}  // namespace bitwright::quant
