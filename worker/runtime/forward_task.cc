// forward: one shard of the calibration set to the input of a block, and that
// block's Hessians (worker.proto, ForwardParameters; math.md §1).
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/runtime/executor.h"
#include "worker/runtime/linear_inputs.h"
#include "worker/runtime/task_inputs.h"

namespace bitwright {
namespace {

using model::HessianSum;
using model::HiddenStates;

// The shard as block `parameters.block()` reads it.
absl::StatusOr<HiddenStates> InputOfBlock(const TaskContext& context,
                                          const model::DecoderModel& decoder) {
  const v1::ForwardParameters& parameters = context.action->forward();
  if (parameters.block() == 0) {
    BW_ASSIGN_OR_RETURN(
        TokenWindows windows,
        ReadWindows(context, parameters.shard(), parameters.shards()));
    if (windows.count == 0) {
      return HiddenStates{.sequences = 0,
                          .seqlen = windows.seqlen,
                          .width = context.model->config().hidden_size,
                          .data = {}};
    }
    return decoder.Embed(windows.tokens, windows.count, windows.seqlen);
  }
  BW_ASSIGN_OR_RETURN(HiddenStates states, ReadStates(context, "hidden"));
  if (states.sequences == 0) return states;
  BW_RETURN_IF_ERROR(decoder.RunBlock(
      parameters.block() - 1, QuantizedWeights(context), &states, nullptr));
  return states;
}

// The block's Hessians with the model's own weights: its linears are not
// quantized yet. A shard may be empty: there may be more shards than sequences.
absl::StatusOr<std::vector<HessianSum>> SumHessians(
    const TaskContext& context, const model::DecoderModel& decoder,
    const HiddenStates& states) {
  const int64_t block = context.action->forward().block();
  if (states.sequences > 0) {
    return decoder.BlockHessians(block, nullptr, states);
  }
  std::vector<HessianSum> sums;
  for (const LinearSpec& linear :
       BlockLinears(context.model->config(), block)) {
    if (!sums.empty() && sums.back().group == linear.hessian_group) continue;
    sums.push_back({.group = linear.hessian_group,
                    .cols = linear.cols,
                    .packed_lower = std::vector<float>(linear.cols *
                                                       (linear.cols + 1) / 2)});
  }
  return sums;
}

absl::StatusOr<TaskOutput> WriteHessians(const TaskContext& context,
                                         const std::vector<HessianSum>& sums,
                                         int64_t sequences) {
  TaskOutput output{.name = "hessian",
                    .path = absl::StrCat(context.scratch, "/hessian")};
  std::vector<TensorSpec> specs;
  for (const HessianSum& sum : sums) {
    specs.push_back({.name = sum.group,
                     .dtype = DType::kF32,
                     .shape = {static_cast<int64_t>(sum.packed_lower.size())}});
  }
  BW_ASSIGN_OR_RETURN(
      std::unique_ptr<SafetensorsWriter> writer,
      SafetensorsWriter::Create(output.path, std::move(specs),
                                {{"sequences", absl::StrCat(sequences)}}));
  for (const HessianSum& sum : sums) {
    BW_RETURN_IF_ERROR(writer->Append(BytesOf(sum.packed_lower)));
  }
  BW_RETURN_IF_ERROR(writer->Close());
  return output;
}

}  // namespace

absl::StatusOr<TaskResult> ExecuteForward(const TaskContext& context) {
  const v1::ForwardParameters& parameters = context.action->forward();
  const int64_t block = parameters.block();
  // What would enter one block more is the model's output.
  const bool output = block == context.model->config().num_layers;
  if (!output) {
    BW_RETURN_IF_ERROR(CheckBlock(context.model->config(), block));
  }
  BW_ASSIGN_OR_RETURN(const model::DecoderModel* decoder,
                      context.model->Decoder());
  BW_ASSIGN_OR_RETURN(HiddenStates states, InputOfBlock(context, *decoder));
  context.control->SetFraction(block == 0 ? 0.05 : 0.5);
  BW_RETURN_IF_ERROR(context.control->Check());

  TaskResult result;
  if (!parameters.last()) {
    BW_ASSIGN_OR_RETURN(TaskOutput hidden,
                        WriteStates(context, "hidden", states));
    result.outputs.push_back(std::move(hidden));
  }
  const int64_t sequences = states.sequences;
  result.counters.tokens = sequences * states.seqlen;
  if (output) return result;
  BW_ASSIGN_OR_RETURN(std::vector<HessianSum> sums,
                      SumHessians(context, *decoder, states));
  states = {};
  BW_RETURN_IF_ERROR(context.control->Check());
  BW_ASSIGN_OR_RETURN(TaskOutput hessian,
                      WriteHessians(context, sums, sequences));
  result.outputs.push_back(std::move(hessian));
  return result;
}

}  // namespace bitwright
