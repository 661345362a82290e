#include "worker/quant/hessian.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "worker/quant/blas.h"
#include "worker/quant/kernels.h"
#include "worker/quant/parallel.h"

namespace bitwright::quant {
namespace {

// Edge of the square tiles that accumulation is cut into: small layers get more
// of them, so that there is work for every core.
int64_t TileEdge(int64_t columns) {
  if (columns <= 512) return 96;
  return columns < 2048 ? 256 : 512;
}

constexpr int64_t kReduceChunk = 1 << 16;

}  // namespace

HessianAccumulator::HessianAccumulator(int64_t columns)
    : columns_(columns), sum_(columns * columns) {}

absl::Status HessianAccumulator::Add(const float* x, int64_t tokens) {
  if (tokens < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a batch of ", tokens, " tokens"));
  }
  if (tokens == 0) return absl::OkStatus();
  PinBlasToOneThread();
  const float keep = tokens_ > 0 ? 1.0f : 0.0f;  // 0: sum_ is not read.
  const int64_t edge = TileEdge(columns_);
  const int64_t tiles = (columns_ + edge - 1) / edge;
  ParallelFor(tiles * (tiles + 1) / 2, [&](int64_t index) {
    int64_t row = 0;
    while ((row + 1) * (row + 2) / 2 <= index) ++row;
    const int64_t i = row * edge;
    const int64_t j = (index - row * (row + 1) / 2) * edge;
    const int64_t height = std::min(edge, columns_ - i);
    const int64_t width = std::min(edge, columns_ - j);
    float* tile = sum_.data() + i * columns_ + j;
    if (i == j) {
      cblas_ssyrk(CblasRowMajor, CblasLower, CblasTrans, height, tokens, 1.0f,
                  x + i, columns_, keep, tile, columns_);
    } else {
      Gemm(true, false, height, width, tokens, 1.0f, x + i, columns_, x + j,
           columns_, keep, tile, columns_);
    }
  });
  tokens_ += tokens;
  return absl::OkStatus();
}

std::vector<float> HessianAccumulator::Packed() const {
  std::vector<float> packed(PackedSize(columns_));
  if (tokens_ == 0) return packed;
  for (int64_t i = 0; i < columns_; ++i) {
    std::copy_n(sum_.data() + i * columns_, i + 1,
                packed.data() + i * (i + 1) / 2);
  }
  return packed;
}

absl::StatusOr<std::vector<float>> ReduceHessians(
    absl::Span<const absl::Span<const float>> partials, int64_t columns,
    int64_t n) {
  if (partials.empty()) {
    return absl::InvalidArgumentError("no partial Hessian to reduce");
  }
  if (n < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("a Hessian over ", n, " calibration sequences"));
  }
  const int64_t size = PackedSize(columns);
  for (size_t s = 0; s < partials.size(); ++s) {
    if (static_cast<int64_t>(partials[s].size()) != size) {
      return absl::InvalidArgumentError(absl::StrCat(
          "partial Hessian of shard ", s, " has ", partials[s].size(),
          " values; ", columns, " columns need ", size));
    }
  }
  std::vector<float> sum(size);
  const double factor = 2.0 / static_cast<double>(n);
  ParallelFor((size + kReduceChunk - 1) / kReduceChunk, [&](int64_t chunk) {
    const int64_t end = std::min(size, (chunk + 1) * kReduceChunk);
    for (int64_t i = chunk * kReduceChunk; i < end; ++i) {
      double total = 0;
      for (const absl::Span<const float>& partial : partials) {
        total += partial[i];
      }
      sum[i] = static_cast<float>(factor * total);
    }
  });
  return sum;
}

absl::StatusOr<HessianView> HessianView::Create(absl::Span<const float> data,
                                                int64_t columns, double scale) {
  const int64_t size = static_cast<int64_t>(data.size());
  const bool packed = size == PackedSize(columns);
  if (columns < 1 || (!packed && size != columns * columns)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "Hessian of ", size, " values; ", columns, " columns need ",
        columns * columns, " (full) or ", PackedSize(columns), " (packed)"));
  }
  HessianView view(data.data(), columns, packed, scale);
  std::vector<int64_t> bad(columns);
  ParallelFor(columns,
              [&](int64_t i) { bad[i] = FirstNonFinite(view.Row(i), i + 1); });
  for (int64_t i = 0; i < columns; ++i) {
    if (bad[i] >= 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "Hessian value at [", i, ", ", bad[i], "] is ", view.Row(i)[bad[i]],
          "; the calibration activations are not finite"));
    }
    if (view.Row(i)[i] < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("Hessian diagonal at ", i, " is negative (",
                       view.Row(i)[i], "); it is no sum of squares"));
    }
  }
  return view;
}

}  // namespace bitwright::quant
