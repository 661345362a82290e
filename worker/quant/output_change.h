// How far a change of weights moves a model's output: ‖f(x) − f'(x)‖² of the
// logits, and inner products of such moves (math.md §4, gram mode).
//
//   BW_ASSIGN_OR_RETURN(OutputMetric metric, OutputMetric::Create(gram, dim));
//   OutputChange change(&metric, /*tokens=*/128 * 256);
//   for (...) change.Add(before, after);  // head inputs, one sequence each
//   change.squared_norm();                // Σ ‖logits − logits'‖²
//   std::vector<float> sketch = change.Sketch();
//
// The logits are V h, with V the vocabulary matrix and h what enters it. With
// VᵀV = LLᵀ, ⟨V d, V e⟩ = ⟨Lᵀd, Lᵀe⟩: exact, and as wide as the model instead
// of as its vocabulary. What is still too long is sketched: each coordinate is
// added, with a sign, to one of kSketchSize sums, both drawn from its index
// (count sketch). The inner product of two sketches is that of the moves, with
// a standard error of about ‖d‖‖e‖/√kSketchSize; of two moves that have most of
// their difference in common, so are the sketches. A sketch is scaled to its
// move's exact length, so that a matrix of inner products has an exact diagonal
// and no negative eigenvalue.
#ifndef BITWRIGHT_WORKER_QUANT_OUTPUT_CHANGE_H_
#define BITWRIGHT_WORKER_QUANT_OUTPUT_CHANGE_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace bitwright::quant {

// The factor L of a vocabulary matrix. Immutable.
class OutputMetric {
 public:
  // gram: VᵀV, [dim, dim] row by row. INVALID_ARGUMENT when it is not a finite
  // positive semidefinite matrix.
  static absl::StatusOr<OutputMetric> Create(std::vector<double> gram,
                                             int64_t dim);

  int64_t dim() const { return dim_; }
  // moves [rows, dim] → Lᵀ of each row, in place of it.
  void Apply(int64_t rows, std::vector<float>* moves) const;

 private:
  OutputMetric(std::vector<float> lower, int64_t dim)
      : lower_(std::move(lower)), dim_(dim) {}
  std::vector<float> lower_;  // [dim, dim], zeros above the diagonal
  int64_t dim_;
};

// One change of the model, over all tokens of a calibration set. Not
// thread-safe; runs on Threads() threads, and the result does not depend on how
// many.
class OutputChange {
 public:
  static constexpr int64_t kSketchSize = 1 << 16;

  // `metric` must outlive the object. `tokens` is how many will be added.
  OutputChange(const OutputMetric* metric, int64_t tokens);

  // [n, dim] each, what enters the vocabulary matrix without and with the
  // change, for the next n tokens. INVALID_ARGUMENT when the sizes do not fit,
  // or when the change is not a finite number.
  absl::Status Add(absl::Span<const float> before,
                   absl::Span<const float> after);

  double squared_norm() const { return squared_norm_; }
  // min(kSketchSize, tokens · dim) values: the move itself where it is not
  // longer than that.
  std::vector<float> Sketch() const;

 private:
  const OutputMetric* metric_;
  const int64_t size_;  // tokens · dim
  int64_t added_ = 0;   // coordinates
  double squared_norm_ = 0;
  std::vector<double> sums_;
};

// Reads coordinates [begin, begin + out.size()) of sketch i.
using ReadSketch = absl::FunctionRef<absl::Status(int64_t i, int64_t begin,
                                                  absl::Span<float> out)>;

// scale · ⟨sketch_i, sketch_j⟩, [n, n] row by row, from n sketches of `size`
// values each. Holds the matrix and, at a time, 1024 coordinates of each
// sketch. The errors of `read`, which is called from one thread.
absl::StatusOr<std::vector<double>> GramOf(int64_t n, int64_t size,
                                           double scale, ReadSketch read);

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_OUTPUT_CHANGE_H_
