// Sums of squared gradients over the tokens of sequences: what
// DecoderModel::BackpropBlock returns, as tensors. Private to this folder.
#ifndef BITWRIGHT_WORKER_MODEL_SQUARE_SUMS_H_
#define BITWRIGHT_WORKER_MODEL_SQUARE_SUMS_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "common/checkpoint/model_config.h"
#include "worker/model/decoder_model.h"

namespace bitwright::model {

// Of one sequence: a [rows] float64 tensor for each linear of a block.
struct SquareSums {
  SquareSums() = default;
  // Zeros.
  SquareSums(absl::Span<const LinearSpec> linears, const at::Device& device,
             Sensitivity sensitivity);

  // What UseGradient gets. May throw what torch throws.
  void Use(int64_t linear, const at::Tensor& input, const at::Tensor& gradient);

  std::vector<at::Tensor> outputs;  // OutputSensitivity::squares
  std::vector<at::Tensor> weights;  // ::fisher; empty unless asked for
};

// The sums over all sequences, in their order, of which there is at least one.
std::vector<OutputSensitivity> SumOverSequences(
    absl::Span<const LinearSpec> linears, absl::Span<const SquareSums> sums);

}  // namespace bitwright::model

#endif  // BITWRIGHT_WORKER_MODEL_SQUARE_SUMS_H_
