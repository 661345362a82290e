// A decoder-only language model, run block by block: the Llama family (Llama,
// Mistral, Qwen2) and OPT.
//
//   BW_ASSIGN_OR_RETURN(auto directory, ModelDirectory::Open("/models/llama"));
//   BW_ASSIGN_OR_RETURN(auto model, DecoderModel::Open(directory.get(),
//   "auto")); BW_ASSIGN_OR_RETURN(HiddenStates states,
//                       model->Embed(tokens, /*sequences=*/4,
//                       /*seqlen=*/2048));
//   for (int64_t b = 0; b < model->num_blocks(); ++b) {
//     BW_RETURN_IF_ERROR(model->RunBlock(b, nullptr, &states, nullptr));
//   }
//   BW_ASSIGN_OR_RETURN(std::vector<double> nll,
//                       model->WindowNll(states, tokens));
//
// Gradients go the same way back, one block in memory at a time, from the
// states that entered each block:
//
//   BW_ASSIGN_OR_RETURN(HiddenStates g, model->NllGradient(states, tokens));
//   for (int64_t b = model->num_blocks() - 1; b >= 0; --b) {
//     BW_ASSIGN_OR_RETURN(std::vector<OutputSensitivity> sums,
//                         model->BackpropBlock(b, nullptr, entered[b], g, &g));
//   }
//
// Memory: weights are read, converted to float32 and freed block by block, so
// the peak does not grow with the number of blocks; of the embedding only the
// rows in use are read, and the head is streamed in pieces of the vocabulary.
// A sequence on its way back holds about 12 tensors of [seqlen, width] and 4 of
// [seqlen, intermediate_size].
//
// Determinism: each sequence is computed on its own by one thread, so its
// result depends neither on the number of threads nor on the other sequences
// of the batch. Hessian sums are taken in the order of the sequences.
//
// All arithmetic is float32, unless SetCudaProducts says otherwise. Sequences
// run in parallel on quant::Threads() threads (worker/quant/parallel.h); on
// CUDA one after the other. This header is free of torch on purpose: its
// headers take long to compile.
#ifndef BITWRIGHT_WORKER_MODEL_DECODER_MODEL_H_
#define BITWRIGHT_WORKER_MODEL_DECODER_MODEL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/checkpoint/model_config.h"
#include "common/checkpoint/model_directory.h"

namespace bitwright::model {

// A batch of hidden states: [sequences, seqlen, width] float32, row-major, in
// ordinary host memory.
struct HiddenStates {
  int64_t sequences = 0, seqlen = 0, width = 0;
  std::vector<float> data;
};

// Asked once for each linear of a block, by its name
// ("model.layers.0.self_attn.q_proj"), on the calling thread: the weight to use
// instead of the model's own, [rows * cols] row by row, or nullopt for the
// model's own. A null function stands for one that always says nullopt.
using WeightOverride =
    std::function<absl::StatusOr<std::optional<std::vector<float>>>(
        const std::string& linear_name)>;

// The plain sum Σ x xᵀ over all tokens of a batch, x being what the linears of
// one Hessian group read (LinearSpec::hessian_group); math.md §1 without its
// factor 2/n. The lower triangle, packed by rows: (i, j), j <= i, is at
// i(i+1)/2 + j; cols(cols+1)/2 floats.
struct HessianSum {
  std::string group;
  int64_t cols = 0;
  std::vector<float> packed_lower;
};

// What one linear does to the likelihood. Sums of batches add.
struct OutputSensitivity {
  std::string linear;  // LinearSpec::name
  // [rows] Σ g² over all tokens of all sequences, with g = d(NLL of the token's
  // sequence, in nats)/d(output r at that token) (math.md §3c). Divided by the
  // number of tokens it is the mean squared gradient.
  std::vector<double> squares;
  // [rows] Σ g² over the weights of the row and all sequences, with g = d(NLL
  // of the sequence)/d(weight) (math.md §4). Divided by columns and sequences
  // it is the impact score of the row: the mean of the empirical Fisher
  // diagonal. Empty unless asked for.
  std::vector<double> fisher = {};
};

// What BackpropBlock sums.
enum class Sensitivity {
  kOutputs,  // OutputSensitivity::squares
  kWeights,  // and OutputSensitivity::fisher, half a forward pass more
};

// How linears multiply on a CUDA device, on their way forward.
enum class CudaProducts {
  kFloat32,
  // Matrices that the checkpoint stores in 16 bits stay as they are, and what
  // they read is rounded to the same type: ten times the rate, and what serving
  // such a checkpoint computes. Sums, and all else, are float32: quantized
  // weights too, which a reader decodes to float32.
  kStored,
};
// kFloat32 until it is set; for blocks that are loaded afterwards, in the whole
// process. No part of any action's digest: results of both must not meet in one
// job. Thread-safe.
void SetCudaProducts(CudaProducts products);
CudaProducts ActiveCudaProducts();

// Const functions are thread-safe. Errors of all of them: INVALID_ARGUMENT for
// arguments that do not fit the model (the message says which), the errors of
// ModelDirectory for weights, RESOURCE_EXHAUSTED when memory runs out, INTERNAL
// for anything else that torch reports.
class DecoderModel {
 public:
  // `directory` must outlive the model. `device` is "cpu", "cuda" or "auto"
  // (CUDA if there is one). FAILED_PRECONDITION for "cuda" where there is none.
  static absl::StatusOr<std::unique_ptr<DecoderModel>> Open(
      const ModelDirectory* directory, const std::string& device);
  ~DecoderModel();
  DecoderModel(const DecoderModel&) = delete;
  DecoderModel& operator=(const DecoderModel&) = delete;

  const ModelDirectory& directory() const;
  const ModelConfig& config() const { return directory().config(); }
  int64_t num_blocks() const { return config().num_layers; }
  // What it runs on: "cpu" or "cuda".
  const std::string& device() const;

  // Token embedding, positions and input projection. `tokens` is
  // [sequences, seqlen], row by row.
  absl::StatusOr<HiddenStates> Embed(absl::Span<const int32_t> tokens,
                                     int64_t sequences, int64_t seqlen) const;

  // Runs block `block`, in place. If `hessians` is not null it is set to the
  // sums of this batch, one for each Hessian group in the order of
  // BlockLinears. On error `states` is unspecified.
  absl::Status RunBlock(int64_t block, const WeightOverride& weights,
                        HiddenStates* states,
                        std::vector<HessianSum>* hessians) const;

  // The same sums without the block's output: saves the last linear, and
  // leaves `states` as they are.
  absl::StatusOr<std::vector<HessianSum>> BlockHessians(
      int64_t block, const WeightOverride& weights,
      const HiddenStates& states) const;

  // From the last block's output: final norm, head and log-softmax. For each
  // sequence the sum, in nats, of the negative log-likelihoods of
  // tokens[1 ..] given what precedes them: seqlen - 1 predictions (math.md §5).
  // INVALID_ARGUMENT also when it is not a finite number.
  absl::StatusOr<std::vector<double>> WindowNll(
      const HiddenStates& states, absl::Span<const int32_t> tokens) const;

  // From the last block's output: d(WindowNll)/d(states), each sequence's own.
  // The last position predicts nothing: its gradient is 0. Streams the head in
  // the same pieces, at the cost of two WindowNlls. INVALID_ARGUMENT also when
  // a gradient is not a finite number.
  absl::StatusOr<HiddenStates> NllGradient(
      const HiddenStates& states, absl::Span<const int32_t> tokens) const;

  // Backpropagation through one block. `input` is what entered it, `gradient`
  // the derivative of each sequence's NLL in what left it, of the same size.
  // Sets *input_gradient, which may be &gradient, to the derivative in `input`,
  // unless it is null (block 0 needs none). Returns the sums of this batch, one
  // for each linear in the order of BlockLinears. `weights` as in RunBlock: the
  // gradient is that of the block with these weights. Costs about two forward
  // passes. INVALID_ARGUMENT also when a gradient is not a finite number. On
  // error *input_gradient is unspecified.
  absl::StatusOr<std::vector<OutputSensitivity>> BackpropBlock(
      int64_t block, const WeightOverride& weights, const HiddenStates& input,
      const HiddenStates& gradient, HiddenStates* input_gradient,
      Sensitivity sensitivity = Sensitivity::kOutputs) const;

  // From the last block's output to what the vocabulary matrix multiplies:
  // [sequences, seqlen, the matrix's columns].
  absl::StatusOr<HiddenStates> HeadInputs(const HiddenStates& states) const;
  // VᵀV of the vocabulary matrix V, [columns, columns] row by row, in float64:
  // for two head inputs, ‖logits − logits'‖² = (h − h') VᵀV (h − h')ᵀ.
  absl::StatusOr<std::vector<double>> VocabularyGram() const;

  // The logits, [sequences, seqlen, vocab_size]: for small models and tests.
  absl::StatusOr<std::vector<float>> Logits(const HiddenStates& states) const;

 private:
  struct Impl;
  explicit DecoderModel(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// What DecoderModel::Open would run on, "cpu" or "cuda", and its errors.
absl::StatusOr<std::string> ResolveDevice(const std::string& device);

}  // namespace bitwright::model

#endif  // BITWRIGHT_WORKER_MODEL_DECODER_MODEL_H_
