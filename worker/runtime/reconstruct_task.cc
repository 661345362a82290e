// reconstruct: the linears of one block, learned together (worker.proto,
// ReconstructParameters; math.md §4).
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "common/base/status_macros.h"
#include "worker/model/reconstruction.h"
#include "worker/quant/quantize_rows.h"
#include "worker/runtime/executor.h"
#include "worker/runtime/linear_inputs.h"
#include "worker/runtime/linear_output.h"
#include "worker/runtime/row_bits.h"
#include "worker/runtime/task_inputs.h"

namespace bitwright {
namespace {

// The states of all shards, one sequence read at a time from their files.
class SequenceFiles {
 public:
  static absl::StatusOr<SequenceFiles> Open(const TaskContext& context,
                                            const std::string& prefix);

  int64_t sequences() const { return static_cast<int64_t>(places_.size()); }
  int64_t seqlen() const { return seqlen_; }
  // Whether sequence i is in the same place of the same shard in both.
  bool SameShards(const SequenceFiles& other) const {
    return seqlen_ == other.seqlen_ &&
           std::equal(places_.begin(), places_.end(), other.places_.begin(),
                      other.places_.end(), [](const Place& a, const Place& b) {
                        return a.index == b.index;
                      });
  }
  // `out` is [seqlen, width]. Thread-safe.
  absl::Status Read(int64_t sequence, absl::Span<float> out) const {
    const Place& place = places_[sequence];
    const absl::string_view bytes = place.file->Data(*place.tensor);
    const size_t size = out.size() * sizeof(float);
    std::memcpy(out.data(), bytes.data() + place.index * size, size);
    return absl::OkStatus();
  }

 private:
  struct Place {
    const SafetensorsFile* file;
    const TensorInfo* tensor;
    int64_t index;
  };
  int64_t seqlen_ = 0;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::vector<Place> places_;
};

absl::StatusOr<SequenceFiles> SequenceFiles::Open(const TaskContext& context,
                                                  const std::string& prefix) {
  SequenceFiles all;
  const int64_t width = context.model->config().hidden_size;
  for (const std::string& name : InputsWithPrefix(*context.action, prefix)) {
    BW_ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file,
                        OpenInput(context, name));
    BW_ASSIGN_OR_RETURN(const TensorInfo* tensor, file->Require("hidden"));
    const std::vector<int64_t>& shape = tensor->shape;
    if (tensor->dtype != DType::kF32 || shape.size() != 3 ||
        shape[2] != width || (all.seqlen_ != 0 && shape[1] != all.seqlen_)) {
      return absl::InvalidArgumentError(
          absl::StrCat("input ", name, " is ", DTypeName(tensor->dtype), " ",
                       ShapeString(shape), ", not F32 [sequences, ",
                       all.seqlen_ == 0 ? "tokens" : absl::StrCat(all.seqlen_),
                       ", ", width, "]"));
    }
    all.seqlen_ = shape[1];
    for (int64_t i = 0; i < shape[0]; ++i) {
      all.places_.push_back({file.get(), tensor, i});
    }
    all.files_.push_back(std::move(file));
  }
  return all;
}

model::ReconstructOptions ToOptions(const v1::ReconstructParameters& from) {
  const v1::HybridSpec& hybrid = from.hybrid();
  model::ReconstructOptions options;
  options.iterations = hybrid.iterations();
  options.batch = hybrid.batch();
  options.round_rate = hybrid.round_rate();
  options.clip_rate = hybrid.clip_rate();
  options.round_decay = hybrid.round_decay();
  options.round_weight = hybrid.round_weight();
  options.gamma_first = hybrid.gamma_first();
  options.gamma_last = hybrid.gamma_last();
  options.patience = hybrid.patience();
  // Jobs that were planned before there was such a field learned by it all.
  options.edge_gradient =
      hybrid.has_edge_gradient() ? hybrid.edge_gradient() : 1;
  options.seed = from.seed();
  options.group_size = from.group_size();
  return options;
}

// The learned codes with what they lose, packed.
absl::StatusOr<TaskOutput> Finish(const TaskContext& context,
                                  const LinearSpec& spec, ChosenRows rows,
                                  model::LearnedLinear learned,
                                  const std::vector<float>& hessian,
                                  const nlohmann::ordered_json& about) {
  BW_ASSIGN_OR_RETURN(std::vector<float> weight,
                      context.model->directory().ReadFloats(
                          absl::StrCat(spec.name, ".weight")));
  const int64_t group_size = context.action->reconstruct().group_size();
  auto described = quant::DescribeCodes({.weight = weight.data(),
                                         .rows = spec.rows,
                                         .columns = spec.cols,
                                         .hessian = hessian},
                                        std::move(rows.bits), group_size,
                                        {.range_min = learned.range_min,
                                         .range_max = learned.range_max,
                                         .codes = std::move(learned.codes)});
  if (!described.ok()) return Annotate(described.status(), spec.name);
  BW_ASSIGN_OR_RETURN(const QuantizedLinear linear,
                      PackLinear(spec.name, *described, group_size));
  const Asked asked{.method = v1::METHOD_RATIO, .ratio = rows.ratio};
  nlohmann::ordered_json report =
      DescribeLinear(*described, linear, asked, /*has_hessian=*/true,
                     /*uniform_loss=*/described->loss);
  report["reconstruction"] = about;
  return LinearOutput(absl::StrCat("linear.", spec.name), spec.name, linear,
                      report);
}

}  // namespace

absl::StatusOr<TaskResult> ExecuteReconstruct(const TaskContext& context) {
  const v1::ReconstructParameters& parameters = context.action->reconstruct();
  const int64_t block = parameters.block();
  BW_RETURN_IF_ERROR(CheckBlock(context.model->config(), block));
  BW_ASSIGN_OR_RETURN(const model::DecoderModel* decoder,
                      context.model->Decoder());
  BW_ASSIGN_OR_RETURN(const SequenceFiles hidden,
                      SequenceFiles::Open(context, "hidden."));
  BW_ASSIGN_OR_RETURN(const SequenceFiles target,
                      SequenceFiles::Open(context, "target."));
  if (!hidden.SameShards(target)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "block ", block, ": the ", hidden.sequences(), " sequences of ",
        hidden.seqlen(), " tokens that enter it and the ", target.sequences(),
        " of ", target.seqlen(),
        " that leave it must be the same, in the same shards"));
  }
  const std::vector<LinearSpec> linears =
      BlockLinears(context.model->config(), block);
  std::vector<ChosenRows> rows;
  model::ReconstructProblem problem{.block = block,
                                    .sequences = hidden.sequences(),
                                    .seqlen = hidden.seqlen()};
  for (const LinearSpec& linear : linears) {
    BW_ASSIGN_OR_RETURN(ChosenRows chosen, ReadChosenRows(context, linear));
    problem.linears.push_back(
        {.bits = chosen.bits, .bits_rounded = chosen.ratio.bits_high});
    rows.push_back(std::move(chosen));
  }
  problem.read = [&](int64_t i, absl::Span<float> input,
                     absl::Span<float> output) -> absl::Status {
    BW_RETURN_IF_ERROR(hidden.Read(i, input));
    return target.Read(i, output);
  };
  const int iterations = parameters.hybrid().iterations();
  problem.watch = [&](int iteration, double loss) {
    context.control->SetFraction(0.95 * iteration / iterations);
    std::string note = absl::StrFormat("block %d, iteration %d of %d", block,
                                       iteration, iterations);
    if (!std::isnan(loss)) absl::StrAppendFormat(&note, ", loss %.4g", loss);
    context.control->SetNote(std::move(note));
    return context.control->Check();
  };
  BW_ASSIGN_OR_RETURN(
      model::ReconstructedBlock learned,
      model::ReconstructBlock(*decoder, problem, ToOptions(parameters)));

  TaskResult result;
  const nlohmann::ordered_json about = {
      {"quantizer", "hybrid"},
      {"first_loss", learned.first_loss},
      {"loss", learned.loss},
      {"iterations", learned.iterations},
      {"kept_iteration", learned.kept_iteration}};
  std::vector<float> hessian;  // Of the linears that read the same.
  for (size_t l = 0; l < linears.size(); ++l) {
    BW_RETURN_IF_ERROR(context.control->Check());
    if (l == 0 || linears[l].hessian_group != linears[l - 1].hessian_group) {
      BW_ASSIGN_OR_RETURN(hessian, ReduceShards(context, linears[l]));
    }
    BW_ASSIGN_OR_RETURN(TaskOutput output,
                        Finish(context, linears[l], std::move(rows[l]),
                               std::move(learned.linears[l]), hessian, about));
    result.outputs.push_back(std::move(output));
  }
  v1::ReconstructSummary* summary = result.summary.mutable_reconstruct();
  summary->set_first_loss(learned.first_loss);
  summary->set_loss(learned.loss);
  summary->set_iterations(learned.iterations);
  result.counters.tokens = static_cast<int64_t>(learned.iterations) *
                           parameters.hybrid().batch() * hidden.seqlen();
  return result;
}

}  // namespace bitwright
