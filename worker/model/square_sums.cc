#include "worker/model/square_sums.h"

#include <algorithm>

namespace bitwright::model {
namespace {

// sums[r] += Σ_t gradient[t, r]², in float64.
void AddSquares(const at::Tensor& gradient, at::Tensor* sums) {
  constexpr int64_t kTokens = 128;  // Converted at once.
  for (int64_t begin = 0; begin < gradient.size(0); begin += kTokens) {
    const int64_t n = std::min(kTokens, gradient.size(0) - begin);
    sums->add_(gradient.narrow(0, begin, n).to(at::kDouble).square_().sum(0));
  }
}

// sums[r] += Σ_c (gradientᵀ · input)[r, c]², in float64.
void AddWeightSquares(const at::Tensor& input, const at::Tensor& gradient,
                      at::Tensor* sums) {
  constexpr int64_t kRows = 128;  // Formed at once.
  for (int64_t begin = 0; begin < gradient.size(1); begin += kRows) {
    const int64_t n = std::min(kRows, gradient.size(1) - begin);
    at::Tensor product = at::mm(gradient.narrow(1, begin, n).t(), input);
    sums->narrow(0, begin, n).add_(product.to(at::kDouble).square_().sum(1));
  }
}

using Sums = std::vector<at::Tensor> SquareSums::*;

std::vector<double> Total(absl::Span<const SquareSums> sums, Sums of,
                          size_t linear) {
  at::Tensor total = (sums[0].*of)[linear].clone();
  for (const SquareSums& sum : sums.subspan(1)) {
    total.add_((sum.*of)[linear]);
  }
  const at::Tensor host = total.cpu();
  const double* values = host.data_ptr<double>();
  return {values, values + host.numel()};
}

}  // namespace

SquareSums::SquareSums(absl::Span<const LinearSpec> linears,
                       const at::Device& device, Sensitivity sensitivity) {
  const auto options = at::TensorOptions().dtype(at::kDouble).device(device);
  for (const LinearSpec& linear : linears) {
    outputs.push_back(at::zeros({linear.rows}, options));
    if (sensitivity == Sensitivity::kOutputs) continue;
    weights.push_back(at::zeros({linear.rows}, options));
  }
}

void SquareSums::Use(int64_t linear, const at::Tensor& input,
                     const at::Tensor& gradient) {
  AddSquares(gradient, &outputs[linear]);
  if (weights.empty()) return;
  AddWeightSquares(input, gradient, &weights[linear]);
}

std::vector<OutputSensitivity> SumOverSequences(
    absl::Span<const LinearSpec> linears, absl::Span<const SquareSums> sums) {
  std::vector<OutputSensitivity> result;
  for (size_t l = 0; l < linears.size(); ++l) {
    OutputSensitivity& linear = result.emplace_back();
    linear.linear = linears[l].name;
    linear.squares = Total(sums, &SquareSums::outputs, l);
    if (sums[0].weights.empty()) continue;
    linear.fisher = Total(sums, &SquareSums::weights, l);
  }
  return result;
}

}  // namespace bitwright::model
