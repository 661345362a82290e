// gradient: one shard backwards through one block, and how much the outputs of
// its linears move the likelihood (worker.proto, GradientParameters; math.md
// §3c).
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status_macros.h"
#include "worker/runtime/executor.h"
#include "worker/runtime/linear_inputs.h"
#include "worker/runtime/task_inputs.h"

namespace bitwright {
namespace {

using model::HiddenStates;
using model::OutputSensitivity;

// At the last block's output, with the shard's likelihood as metadata.
absl::StatusOr<HiddenStates> GradientAtOutput(
    const TaskContext& context, const model::DecoderModel& decoder,
    const HiddenStates& input, std::map<std::string, std::string>* metadata) {
  const v1::GradientParameters& parameters = context.action->gradient();
  BW_ASSIGN_OR_RETURN(
      TokenWindows windows,
      ReadWindows(context, parameters.shard(), parameters.shards()));
  if (windows.count != input.sequences || windows.seqlen != input.seqlen) {
    return absl::InvalidArgumentError(absl::StrCat(
        "input hidden has ", input.sequences, " sequences of ", input.seqlen,
        " tokens, but the shard of input windows has ", windows.count, " of ",
        windows.seqlen));
  }
  double nll = 0;
  HiddenStates states = input;
  if (input.sequences > 0) {
    BW_RETURN_IF_ERROR(
        decoder.RunBlock(parameters.block(), nullptr, &states, nullptr));
    BW_RETURN_IF_ERROR(context.control->Check());
    BW_ASSIGN_OR_RETURN(std::vector<double> sums,
                        decoder.WindowNll(states, windows.tokens));
    for (double sum : sums) nll += sum;
    BW_RETURN_IF_ERROR(context.control->Check());
    BW_ASSIGN_OR_RETURN(states, decoder.NllGradient(states, windows.tokens));
  }
  (*metadata)["nll"] = absl::StrFormat("%.17g", nll);
  (*metadata)["predictions"] =
      absl::StrCat(windows.count * (windows.seqlen - 1));
  return states;
}

// A shard may be empty: there may be more shards than sequences.
std::vector<OutputSensitivity> NoSensitivity(const ModelConfig& config,
                                             int64_t block) {
  std::vector<OutputSensitivity> sums;
  for (const LinearSpec& linear : BlockLinears(config, block)) {
    sums.push_back({.linear = linear.name,
                    .squares = std::vector<double>(linear.rows),
                    .fisher = std::vector<double>(linear.rows)});
  }
  return sums;
}

// `of`: which of the two sums.
TaskOutput SumsBlob(std::string name,
                    const std::vector<OutputSensitivity>& sums,
                    std::vector<double> OutputSensitivity::*of,
                    const std::map<std::string, std::string>& metadata) {
  std::vector<Tensor> tensors;
  for (const OutputSensitivity& sum : sums) {
    const std::vector<double>& values = sum.*of;
    Tensor& tensor = tensors.emplace_back();
    tensor.spec = {.name = sum.linear,
                   .dtype = DType::kF64,
                   .shape = {static_cast<int64_t>(values.size())}};
    tensor.bytes = std::string(BytesOf(values));
  }
  return {.name = std::move(name),
          .bytes = SerializeSafetensors(tensors, metadata)};
}

}  // namespace

absl::StatusOr<TaskResult> ExecuteGradient(const TaskContext& context) {
  const v1::GradientParameters& parameters = context.action->gradient();
  const ModelConfig& config = context.model->config();
  const int64_t block = parameters.block();
  BW_RETURN_IF_ERROR(CheckBlock(config, block));
  BW_ASSIGN_OR_RETURN(const model::DecoderModel* decoder,
                      context.model->Decoder());
  BW_ASSIGN_OR_RETURN(HiddenStates input, ReadStates(context, "hidden"));
  std::map<std::string, std::string> metadata = {
      {"sequences", absl::StrCat(input.sequences)},
      {"tokens", absl::StrCat(input.sequences * input.seqlen)}};
  HiddenStates gradient;
  if (block == config.num_layers - 1) {
    BW_ASSIGN_OR_RETURN(gradient,
                        GradientAtOutput(context, *decoder, input, &metadata));
  } else {
    BW_ASSIGN_OR_RETURN(gradient, ReadStates(context, "gradient"));
  }
  context.control->SetFraction(0.4);
  BW_RETURN_IF_ERROR(context.control->Check());

  std::vector<OutputSensitivity> sums = NoSensitivity(config, block);
  if (input.sequences > 0) {
    BW_ASSIGN_OR_RETURN(
        sums, decoder->BackpropBlock(block, nullptr, input, gradient,
                                     block == 0 ? nullptr : &gradient,
                                     parameters.fisher()
                                         ? model::Sensitivity::kWeights
                                         : model::Sensitivity::kOutputs));
  }
  TaskResult result;
  result.counters.tokens = input.sequences * input.seqlen;
  if (block > 0) {
    BW_ASSIGN_OR_RETURN(TaskOutput output,
                        WriteStates(context, "gradient", gradient));
    result.outputs.push_back(std::move(output));
  }
  result.outputs.push_back(
      SumsBlob("sensitivity", sums, &OutputSensitivity::squares, metadata));
  if (parameters.fisher()) {
    result.outputs.push_back(
        SumsBlob("fisher", sums, &OutputSensitivity::fisher, metadata));
  }
  return result;
}

}  // namespace bitwright
