#include "worker/quant/output_change.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/quant/blas.h"
#include "worker/quant/parallel.h"

namespace bitwright::quant {
namespace {

// Relative to the mean of the diagonal: what a singular VᵀV is raised by.
constexpr double kJitter = 1e-12;
constexpr int kJitterSteps = 4;  // each a hundred times the one before
constexpr int64_t kRows = 64;    // of one piece of work
constexpr int64_t kSpan = 1024;  // coordinates converted at once
constexpr uint64_t kSeed = 0x62697477726967ULL;

// SplitMix64's finaliser.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

}  // namespace

absl::StatusOr<OutputMetric> OutputMetric::Create(std::vector<double> gram,
                                                  int64_t dim) {
  PinBlasToOneThread();
  if (dim < 1 || static_cast<int64_t>(gram.size()) != dim * dim) {
    return absl::InvalidArgumentError(
        absl::StrCat("the vocabulary's Gram matrix has ", gram.size(),
                     " values for ", dim, " columns"));
  }
  double trace = 0;
  for (int64_t i = 0; i < dim; ++i) trace += gram[i * dim + i];
  double jitter = kJitter * trace / static_cast<double>(dim);
  for (int step = 0; std::isfinite(trace) && step < kJitterSteps; ++step) {
    std::vector<double> factor = gram;
    for (int64_t i = 0; i < dim; ++i) factor[i * dim + i] += jitter;
    jitter *= 100;
    if (!CholeskyLower(factor.data(), dim)) continue;
    std::vector<float> lower(dim * dim);
    for (int64_t i = 0; i < dim; ++i) {
      for (int64_t j = 0; j <= i; ++j) {
        lower[i * dim + j] = static_cast<float>(factor[i * dim + j]);
      }
    }
    return OutputMetric(std::move(lower), dim);
  }
  return absl::InvalidArgumentError(
      "the vocabulary matrix has no finite inner products that are positive; "
      "is it zero, or does it hold NaN or infinity?");
}

void OutputMetric::Apply(int64_t rows, std::vector<float>* moves) const {
  PinBlasToOneThread();
  std::vector<float> out(rows * dim_);
  ParallelFor((rows + kRows - 1) / kRows, [&](int64_t piece) {
    const int64_t begin = piece * kRows, n = std::min(kRows, rows - begin);
    Gemm(false, false, n, dim_, dim_, 1.0f, moves->data() + begin * dim_, dim_,
         lower_.data(), dim_, 0.0f, out.data() + begin * dim_, dim_);
  });
  *moves = std::move(out);
}

OutputChange::OutputChange(const OutputMetric* metric, int64_t tokens)
    : metric_(metric),
      size_(tokens * metric->dim()),
      sums_(std::min(kSketchSize, size_)) {}

absl::Status OutputChange::Add(absl::Span<const float> before,
                               absl::Span<const float> after) {
  const int64_t n = static_cast<int64_t>(before.size());
  if (after.size() != before.size() || n % metric_->dim() != 0 ||
      added_ + n > size_) {
    return absl::InvalidArgumentError(absl::StrCat(
        before.size(), " and ", after.size(), " values of head inputs ",
        metric_->dim(), " wide, where ", size_ - added_, " are left"));
  }
  std::vector<float> move(n);
  for (int64_t i = 0; i < n; ++i) move[i] = after[i] - before[i];
  metric_->Apply(n / metric_->dim(), &move);
  const bool whole = size_ <= kSketchSize;
  for (int64_t i = 0; i < n; ++i) {
    const double value = move[i];
    squared_norm_ += value * value;
    const uint64_t index = static_cast<uint64_t>(added_ + i);
    if (whole) {
      sums_[index] = value;
      continue;
    }
    const uint64_t draw = Mix(index ^ kSeed);
    sums_[draw % kSketchSize] += (draw >> 63) != 0 ? value : -value;
  }
  added_ += n;
  if (std::isfinite(squared_norm_)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "the model's output with the change is not a finite number");
}

std::vector<float> OutputChange::Sketch() const {
  double squares = 0;
  for (double sum : sums_) squares += sum * sum;
  const double scale = squares > 0 ? std::sqrt(squared_norm_ / squares) : 0;
  std::vector<float> sketch(sums_.size());
  for (size_t i = 0; i < sums_.size(); ++i) {
    sketch[i] = static_cast<float>(sums_[i] * scale);
  }
  return sketch;
}

absl::StatusOr<std::vector<double>> GramOf(int64_t n, int64_t size,
                                           double scale, ReadSketch read) {
  PinBlasToOneThread();
  const int64_t bands = (n + kRows - 1) / kRows;
  std::vector<double> gram(n * n), part(n * kSpan);
  std::vector<float> values(kSpan);
  for (int64_t begin = 0; begin < size; begin += kSpan) {
    const int64_t span = std::min(kSpan, size - begin);
    for (int64_t i = 0; i < n; ++i) {
      BW_RETURN_IF_ERROR(
          read(i, begin, absl::MakeSpan(values).subspan(0, span)));
      std::copy_n(values.begin(), span, part.begin() + i * span);
    }
    // Band by band of rows, up to the diagonal; the rest is mirrored.
    ParallelFor(bands, [&](int64_t band) {
      const int64_t first = band * kRows, rows = std::min(kRows, n - first);
      Gemm(false, true, rows, first + rows, span, scale,
           part.data() + first * span, span, part.data(), span, 1.0,
           gram.data() + first * n, n);
    });
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < i; ++j) gram[j * n + i] = gram[i * n + j];
  }
  return gram;
}

}  // namespace bitwright::quant
