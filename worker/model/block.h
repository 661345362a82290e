// One decoder block with its weights on the device, ready to run.
#ifndef BITWRIGHT_WORKER_MODEL_BLOCK_H_
#define BITWRIGHT_WORKER_MODEL_BLOCK_H_

#include <ATen/ATen.h>

#include <array>
#include <cstdint>
#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "worker/model/decoder_model.h"
#include "worker/model/weights.h"

namespace bitwright::model {

// The places where a block's linears read, as LinearSpec::hessian_group names
// them.
enum BlockInput : int { kAttnIn, kAttnOut, kMlpIn, kMlpOut };
inline constexpr int kBlockInputs = 4;
inline constexpr const char* kBlockInputNames[kBlockInputs] = {
    "attn_in", "attn_out", "mlp_in", "mlp_out"};
// What they read in one sequence, each [seqlen, cols].
using CapturedInputs = std::array<at::Tensor, kBlockInputs>;

// Takes what linear `linear` read, [seqlen, cols], and d(loss)/d(its output),
// [seqlen, rows]: gradientᵀ · input is d(loss)/d(its weight). `linear` counts
// as BlockLinears does. Both may be kept: nobody writes to them afterwards.
using UseGradient = absl::FunctionRef<void(
    int64_t linear, const at::Tensor& input, const at::Tensor& gradient)>;

// d(loss)/d(a block's output), [seqlen, width], asked for once. `output`
// computes that output, for those who need it.
using OutputGradient =
    absl::FunctionRef<at::Tensor(absl::FunctionRef<at::Tensor()> output)>;

class DecoderBlock {
 public:
  virtual ~DecoderBlock() = default;

  // x is [seqlen, width], one sequence. Fills `captured` unless it is null.
  // Returns the block's output, or, unless `need_output`, an undefined tensor.
  // Thread-safe. May throw what torch throws.
  virtual at::Tensor Forward(const at::Tensor& x, CapturedInputs* captured,
                             bool need_output) const = 0;

  // From d(loss)/d(Forward's output) to the gradient at x; runs forward first,
  // keeping what it needs. Calls `use` once for each linear, in no stated
  // order. Returns an undefined tensor unless `need_input`. Thread-safe. May
  // throw what torch throws.
  virtual at::Tensor Backward(const at::Tensor& x, OutputGradient gradient,
                              bool need_input, UseGradient use) const = 0;

  // The weight of linear `linear`, counted as BlockLinears does, [rows, cols]:
  // what is put there is used from then on.
  virtual at::Tensor& Weight(int64_t linear) = 0;
};

// Reads block `block`'s weights, for sequences of `seqlen` tokens.
// INVALID_ARGUMENT unless the model has that block.
absl::StatusOr<std::unique_ptr<DecoderBlock>> LoadBlock(
    const ModelDirectory& directory, const at::Device& device,
    const WeightOverride& weights, int64_t block, int64_t seqlen);

// The families.
absl::StatusOr<std::unique_ptr<DecoderBlock>> LoadLlamaBlock(
    const WeightReader& reader, const ModelConfig& config, int64_t block,
    int64_t seqlen);
absl::StatusOr<std::unique_ptr<DecoderBlock>> LoadOptBlock(
    const WeightReader& reader, const ModelConfig& config, int64_t block);

}  // namespace bitwright::model

#endif  // BITWRIGHT_WORKER_MODEL_BLOCK_H_
