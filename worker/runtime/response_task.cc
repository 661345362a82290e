// response: what the model's output does when one linear, or two of a block,
// are rounded (worker.proto, ResponseParameters; math.md §4).
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status_macros.h"
#include "common/checkpoint/dtype.h"
#include "worker/quant/output_change.h"
#include "worker/quant/quantize_rows.h"
#include "worker/runtime/executor.h"
#include "worker/runtime/linear_inputs.h"
#include "worker/runtime/row_bits.h"
#include "worker/runtime/task_inputs.h"

namespace bitwright {
namespace {

using model::HiddenStates;
using RoundedLinears = std::map<std::string, std::vector<float>>;

// The linear rounded to nearest, as a reader of the file would decode it, in
// the model's own dtype.
absl::StatusOr<std::vector<float>> RoundLinear(const TaskContext& context,
                                               const std::string& name,
                                               double ratio) {
  const v1::ResponseParameters& parameters = context.action->response();
  BW_ASSIGN_OR_RETURN(LinearSpec spec, FindLinear(context.model->config(),
                                                  parameters.block(), name));
  BW_ASSIGN_OR_RETURN(std::vector<double> scores, ReadRowScores(context, spec));
  const std::string tensor = absl::StrCat(name, ".weight");
  const ModelDirectory& directory = context.model->directory();
  BW_ASSIGN_OR_RETURN(std::vector<float> weight, directory.ReadFloats(tensor));
  auto rounded = quant::RoundRows(
      weight.data(), spec.rows, spec.cols, parameters.group_size(),
      RowBits(scores, ratio, parameters.bits_normal(), parameters.bits_high()));
  if (!rounded.ok()) return Annotate(rounded.status(), name);
  BW_ASSIGN_OR_RETURN(DType dtype, directory.WeightDType(tensor));
  BW_RETURN_IF_ERROR(RoundTo(dtype, absl::MakeSpan(*rounded)));
  return rounded;
}

// From the block's input to what enters the vocabulary matrix.
absl::StatusOr<HiddenStates> RunToHead(const TaskContext& context,
                                       const model::DecoderModel& decoder,
                                       const RoundedLinears& rounded,
                                       HiddenStates states) {
  const model::WeightOverride weights = [&](const std::string& linear)
      -> absl::StatusOr<std::optional<std::vector<float>>> {
    const auto it = rounded.find(linear);
    if (it == rounded.end()) return std::nullopt;
    return it->second;
  };
  const int64_t first = context.action->response().block();
  for (int64_t b = first; b < decoder.num_blocks(); ++b) {
    BW_RETURN_IF_ERROR(context.control->Check());
    BW_RETURN_IF_ERROR(
        decoder.RunBlock(b, b == first ? weights : nullptr, &states, nullptr));
  }
  return decoder.HeadInputs(states);
}

struct Shards {
  std::vector<std::string> hidden, output;  // Inputs, in shard order.
  int64_t sequences = 0, tokens = 0;
};

absl::StatusOr<Shards> FindShards(const TaskContext& context) {
  Shards shards;
  shards.hidden = InputsWithPrefix(*context.action, "hidden.");
  shards.output = InputsWithPrefix(*context.action, "output.");
  if (shards.hidden.size() != shards.output.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the task has ", shards.hidden.size(), " shards that enter the block, ",
        "and ", shards.output.size(), " that leave the model"));
  }
  for (const std::string& name : shards.hidden) {
    BW_ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file,
                        OpenInput(context, name));
    BW_ASSIGN_OR_RETURN(const TensorInfo* info, file->Require("hidden"));
    if (info->shape.size() != 3) continue;  // ReadStates refuses it.
    shards.sequences += info->shape[0];
    shards.tokens += info->shape[0] * info->shape[1];
  }
  if (shards.sequences == 0) {
    return absl::InvalidArgumentError("the task has no sequence as its input");
  }
  return shards;
}

// One shard in memory at a time, and of the model one block.
absl::StatusOr<quant::OutputChange> Measure(const TaskContext& context,
                                            const Shards& shards,
                                            const RoundedLinears& rounded,
                                            double first_fraction,
                                            double last_fraction) {
  BW_ASSIGN_OR_RETURN(const model::DecoderModel* decoder,
                      context.model->Decoder());
  BW_ASSIGN_OR_RETURN(const quant::OutputMetric* metric,
                      context.model->OutputMetric());
  quant::OutputChange change(metric, shards.tokens);
  const double step = (last_fraction - first_fraction) / shards.hidden.size();
  for (size_t s = 0; s < shards.hidden.size(); ++s) {
    context.control->SetFraction(first_fraction + s * step);
    BW_ASSIGN_OR_RETURN(HiddenStates states,
                        ReadStates(context, "hidden", shards.hidden[s]));
    if (states.sequences == 0) continue;
    BW_ASSIGN_OR_RETURN(
        const HiddenStates after,
        RunToHead(context, *decoder, rounded, std::move(states)));
    BW_ASSIGN_OR_RETURN(HiddenStates output,
                        ReadStates(context, "hidden", shards.output[s]));
    BW_ASSIGN_OR_RETURN(const HiddenStates before, decoder->HeadInputs(output));
    BW_RETURN_IF_ERROR(change.Add(before.data, after.data));
  }
  return change;
}

TaskOutput ResponseBlob(const std::string& tensor, DType dtype,
                        absl::string_view values, int64_t count,
                        std::map<std::string, std::string> metadata) {
  Tensor out;
  out.spec = {.name = tensor, .dtype = dtype, .shape = {count}};
  out.bytes = std::string(values);
  return {.name = "response", .bytes = SerializeSafetensors({out}, metadata)};
}

}  // namespace

absl::StatusOr<TaskResult> ExecuteResponse(const TaskContext& context) {
  const v1::ResponseParameters& parameters = context.action->response();
  BW_ASSIGN_OR_RETURN(const Shards shards, FindShards(context));
  RoundedLinears rounded;
  BW_ASSIGN_OR_RETURN(
      rounded[parameters.linear()],
      RoundLinear(context, parameters.linear(), parameters.ratio()));
  std::map<std::string, std::string> metadata = {
      {"sequences", absl::StrCat(shards.sequences)}};
  TaskResult result;
  if (parameters.partner().empty()) {
    BW_ASSIGN_OR_RETURN(const quant::OutputChange change,
                        Measure(context, shards, rounded, 0, 1));
    metadata["squares"] = absl::StrFormat("%.17g", change.squared_norm());
    const std::vector<float> sketch = change.Sketch();
    result.outputs.push_back(
        ResponseBlob("sketch", DType::kF32, BytesOf(sketch),
                     static_cast<int64_t>(sketch.size()), std::move(metadata)));
    result.counters.tokens = shards.tokens;
    return result;
  }
  std::vector<double> squares;
  const double options = parameters.partner_ratios_size();
  for (const double ratio : parameters.partner_ratios()) {
    BW_ASSIGN_OR_RETURN(rounded[parameters.partner()],
                        RoundLinear(context, parameters.partner(), ratio));
    const double done = static_cast<double>(squares.size());
    BW_ASSIGN_OR_RETURN(const quant::OutputChange change,
                        Measure(context, shards, rounded, done / options,
                                (done + 1) / options));
    squares.push_back(change.squared_norm());
    result.counters.tokens += shards.tokens;
  }
  result.outputs.push_back(
      ResponseBlob("squares", DType::kF64, BytesOf(squares),
                   static_cast<int64_t>(squares.size()), std::move(metadata)));
  return result;
}

}  // namespace bitwright
