// The Hessian proxy H = (2/n) Σ x xᵀ (math.md §1): accumulation over a
// calibration shard, reduction over shards, and a read-only view.
//
//   HessianAccumulator shard(columns);
//   for (const Batch& b : batches) BW_RETURN_IF_ERROR(shard.Add(b.x,
//   b.tokens)); std::vector<float> partial = shard.Packed();            // sent
//   as a blob
//   ...
//   BW_ASSIGN_OR_RETURN(std::vector<float> h,               // in shard order
//                       ReduceHessians({partial0, partial1}, columns, n));
//
// Only the lower triangle is computed, stored and sent. "Packed" means rows of
// the lower triangle one after the other: H[i][j], j <= i, is at i(i+1)/2 + j.
#ifndef BITWRIGHT_WORKER_QUANT_HESSIAN_H_
#define BITWRIGHT_WORKER_QUANT_HESSIAN_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/quant/raw_vector.h"

namespace bitwright::quant {

inline int64_t PackedSize(int64_t columns) {
  return columns * (columns + 1) / 2;
}

// Σ x xᵀ over the tokens of one shard, in float32. Not thread-safe; runs on
// Threads() threads itself. Holds columns² floats.
class HessianAccumulator {
 public:
  explicit HessianAccumulator(int64_t columns);

  // x is [tokens, columns], row-major, borrowed for the call. The result
  // depends on the order and the sizes of the batches (float32 sums), so both
  // must be fixed by the job. INVALID_ARGUMENT when tokens is negative.
  // Values are not checked here: a NaN or Inf ends up in H, where
  // QuantizeLinear refuses it.
  absl::Status Add(const float* x, int64_t tokens);

  int64_t columns() const { return columns_; }
  int64_t tokens() const { return tokens_; }

  // The lower triangle, packed; PackedSize(columns) floats. Not normalised.
  std::vector<float> Packed() const;

 private:
  int64_t columns_;
  int64_t tokens_ = 0;
  // [columns, columns]; tiles on or below the diagonal. Unset while there are
  // no tokens.
  RawVector<float> sum_;
};

// The sum of packed partial Hessians, taken in the order given (the order of
// the shards, never that of arrival) with float64 sums, times 2/n, where n is
// the number of calibration sequences of all shards together. INVALID_ARGUMENT
// when there is none, a size differs from PackedSize(columns), or n < 1.
absl::StatusOr<std::vector<float>> ReduceHessians(
    absl::Span<const absl::Span<const float>> partials, int64_t columns,
    int64_t n);

// A symmetric matrix borrowed from its owner, full [columns, columns] (of which
// only the lower triangle is read) or packed; every value times `scale`.
class HessianView {
 public:
  // The storage is told from data.size(). INVALID_ARGUMENT when that is neither
  // columns² nor PackedSize(columns), or when a value is NaN or infinite or a
  // diagonal one negative (the message says which).
  static absl::StatusOr<HessianView> Create(absl::Span<const float> data,
                                            int64_t columns,
                                            double scale = 1.0);

  int64_t columns() const { return columns_; }
  double scale() const { return scale_; }

  // Row i of the lower triangle: i + 1 values, not yet times scale().
  const float* Row(int64_t i) const {
    return data_ + (packed_ ? i * (i + 1) / 2 : i * columns_);
  }
  // H[i][j] for any i and j.
  double At(int64_t i, int64_t j) const {
    return scale_ * (i >= j ? Row(i)[j] : Row(j)[i]);
  }

 private:
  HessianView(const float* data, int64_t columns, bool packed, double scale)
      : data_(data), columns_(columns), packed_(packed), scale_(scale) {}

  const float* data_;
  int64_t columns_;
  bool packed_;
  double scale_;
};

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_HESSIAN_H_
