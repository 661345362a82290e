// A linear's weight whose rounding is learned (math.md §4, hybrid quantizer):
// AdaRound for the rows with the higher bits, learnable clipping for the
// others.
//
//   HybridWeight weight(w, rows, options, device);
//   for (int i = 0; i < iterations; ++i) {
//     block.Weight(l) = weight.Forward();
//     ...                                  // d = d(loss)/d(weight)
//     weight.Backward(d, /*gamma=*/8);
//     weight.Step();
//   }
//   LearnedLinear learned = weight.Harden();
//
// Ranges are rounded to F16 on the way forward, as files store them, so that
// what is learned is what a reader decodes. Private to this folder.
#ifndef BITWRIGHT_WORKER_MODEL_HYBRID_WEIGHT_H_
#define BITWRIGHT_WORKER_MODEL_HYBRID_WEIGHT_H_

#include <ATen/ATen.h>

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/model/reconstruction.h"

namespace bitwright::model {

struct FakeQuantized {
  at::Tensor weight;  // As a reader decodes it.
  at::Tensor slope;   // d(weight)/d(scale), entry by entry.
};

// Weights [n, groups, group_size] rounded to the grids scale · (q − zero), q in
// 0..top; scale and zero are [n, groups, 1], top is [n, 1, 1]. The slope goes
// straight through the rounding, not at all through a code that is clamped, and
// by the share `edge_gradient` through one that lies at 0 or top.
FakeQuantized FakeQuantize(const at::Tensor& weight, const at::Tensor& scale,
                           const at::Tensor& zero, const at::Tensor& top,
                           double edge_gradient);
// The same as a dozen of torch's operations, which every device has.
FakeQuantized FakeQuantizeInSteps(const at::Tensor& weight,
                                  const at::Tensor& scale,
                                  const at::Tensor& zero, const at::Tensor& top,
                                  double edge_gradient);

// Not thread-safe, but different ones are independent. All members may throw
// what torch throws.
class HybridWeight {
 public:
  // `weight` is [rows, cols] on the CPU, float32; it lives on `device` from
  // here on. INVALID_ARGUMENT when the row bits do not fit it, or a weight is
  // not a finite number.
  static absl::StatusOr<std::unique_ptr<HybridWeight>> Create(
      std::vector<float> weight, int64_t rows, int64_t cols,
      const RowsToLearn& rows_to_learn, const ReconstructOptions& options,
      const at::Device& device);
  ~HybridWeight();

  // Entries whose rounding is learned one by one.
  int64_t rounded_entries() const;

  // Ŵ as it is now, [rows, cols]: AdaRound's entries somewhere between their
  // two codes, the others rounded.
  at::Tensor Forward();
  // Adds what d(loss)/dŴ, [rows, cols], and the regulariser Σ 1 − |2h − 1|^γ do
  // to the parameters; no regulariser where γ is 0. After Forward.
  void Backward(const at::Tensor& gradient, double gamma);
  // One step of Adam on what Backward has added.
  void Step();

  // Codes and ranges as files hold them: h is 0 or 1.
  LearnedLinear Harden() const;
  // What a reader decodes of them, on the device.
  at::Tensor Decode(const LearnedLinear& learned) const;

 private:
  struct Impl;
  explicit HybridWeight(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace bitwright::model

#endif  // BITWRIGHT_WORKER_MODEL_HYBRID_WEIGHT_H_
