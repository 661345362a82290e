// quantize: one linear from the Hessians of all shards (worker.proto,
// QuantizeParameters; math.md §1 to §3).
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/checkpoint/native.h"
#include "nlohmann/json.hpp"
#include "worker/quant/hessian.h"
#include "worker/quant/quantizer.h"
#include "worker/runtime/executor.h"
#include "worker/runtime/task_inputs.h"

namespace bitwright {
namespace {

absl::StatusOr<LinearSpec> FindLinear(const ModelConfig& config,
                                      const v1::QuantizeParameters& asked) {
  if (asked.block() < 0 || asked.block() >= config.num_layers) {
    return absl::InvalidArgumentError(absl::StrCat("the model has no block ",
                                                   asked.block(), "; it has ",
                                                   config.num_layers));
  }
  for (const LinearSpec& linear : BlockLinears(config, asked.block())) {
    if (linear.name == asked.linear()) return linear;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("block ", asked.block(), " has no linear ", asked.linear()));
}

absl::StatusOr<quant::QuantizeOptions> ToOptions(const v1::MethodSpec& spec) {
  quant::QuantizeOptions options;
  switch (spec.method()) {
    case v1::METHOD_RTN:
      options.method = quant::Method::kRtn;
      break;
    case v1::METHOD_GPTQ:
      options.method = quant::Method::kGptq;
      break;
    case v1::METHOD_BAQ:
      options.method = quant::Method::kBaq;
      break;
    default:
      return absl::UnimplementedError(
          absl::StrCat("this worker does not know method ", spec.method()));
  }
  options.variant = spec.variant() == v1::VARIANT_REFERENCE
                        ? quant::BaqVariant::kReference
                        : quant::BaqVariant::kExact;
  options.bits = spec.bits();
  options.budget = spec.budget() == v1::BUDGET_CODES ? quant::Budget::kCodes
                                                     : quant::Budget::kFile;
  options.group_size = spec.group_size();
  options.symmetric = spec.symmetric();
  options.mse_clip = spec.mse_clip();
  options.act_order = spec.act_order();
  if (spec.damping() != 0) options.damping = spec.damping();
  options.f16_ranges = true;
  return options;
}

// The floats of a mapped tensor; copied to `copy` if they are not aligned.
absl::StatusOr<absl::Span<const float>> FloatsOf(const SafetensorsFile& file,
                                                 const TensorInfo& info,
                                                 std::vector<float>* copy) {
  const absl::string_view bytes = file.Data(info);
  if (info.dtype == DType::kF32 &&
      reinterpret_cast<uintptr_t>(bytes.data()) % alignof(float) == 0) {
    return absl::MakeConstSpan(reinterpret_cast<const float*>(bytes.data()),
                               bytes.size() / sizeof(float));
  }
  BW_ASSIGN_OR_RETURN(*copy, file.ReadFloats(info.name, info.shape));
  return absl::MakeConstSpan(*copy);
}

// H = (2/n) Σ x xᵀ over all shards, reduced in shard order whatever the order
// in which they arrived (math.md §1); empty if the action has no Hessians. The
// partial sums stay mapped, and of each blob only one group is read.
absl::StatusOr<std::vector<float>> ReduceShards(const TaskContext& context,
                                                const LinearSpec& linear) {
  std::vector<std::string> names =
      InputsWithPrefix(*context.action, "hessian.");
  if (names.empty()) return std::vector<float>();
  std::sort(names.begin(), names.end());
  std::vector<std::unique_ptr<SafetensorsFile>> files;
  std::vector<std::vector<float>> copies(names.size());
  std::vector<absl::Span<const float>> partials;
  int64_t sequences = 0;
  for (size_t i = 0; i < names.size(); ++i) {
    BW_ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file,
                        OpenInput(context, names[i]));
    BW_ASSIGN_OR_RETURN(const TensorInfo* info,
                        file->Require(linear.hessian_group));
    BW_ASSIGN_OR_RETURN(absl::Span<const float> partial,
                        FloatsOf(*file, *info, &copies[i]));
    partials.push_back(partial);
    const auto count = file->metadata().find("sequences");
    int64_t n = 0;
    if (count == file->metadata().end() ||
        !absl::SimpleAtoi(count->second, &n) || n < 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "input ", names[i], " does not say how many sequences it sums"));
    }
    sequences += n;
    files.push_back(std::move(file));
  }
  return quant::ReduceHessians(partials, linear.cols, sequences);
}

QuantizedLinear ToNative(const quant::QuantizedResult& result,
                         int64_t group_size) {
  QuantizedLinear linear;
  linear.rows = result.rows;
  linear.cols = result.columns;
  linear.group_size = group_size;
  linear.levels = result.levels;
  auto halves = [](const std::vector<float>& values) {
    std::vector<uint16_t> bits(values.size());
    std::transform(values.begin(), values.end(), bits.begin(), FloatToHalf);
    return bits;
  };
  linear.range_min = halves(result.range_min);
  linear.range_max = halves(result.range_max);
  linear.codes = PackCodes(result.codes, result.rows, result.levels);
  return linear;
}

// What a reader of the file decodes must be what the quantizer measured.
absl::Status CheckDecodes(const QuantizedLinear& linear,
                          const quant::QuantizedResult& result,
                          absl::string_view name) {
  BW_ASSIGN_OR_RETURN(std::vector<float> decoded, Dequantize(linear));
  const std::vector<float> expected = quant::DequantizeResult(result);
  if (decoded.size() == expected.size() &&
      std::memcmp(decoded.data(), expected.data(),
                  expected.size() * sizeof(float)) == 0) {
    return absl::OkStatus();
  }
  return absl::InternalError(absl::StrCat(
      name, ": the packed form does not decode to the quantizer's values; ",
      "please report this as a bug"));
}

absl::string_view MethodName(quant::Method method) {
  switch (method) {
    case quant::Method::kRtn:
      return "rtn";
    case quant::Method::kGptq:
      return "gptq";
    case quant::Method::kBaq:
      return "baq";
  }
  return "";
}

// Everything but the times: blobs are pure.
std::string Report(const quant::QuantizedResult& result,
                   const QuantizedLinear& linear,
                   const quant::QuantizeOptions& options, bool has_hessian,
                   double uniform_loss) {
  std::map<uint16_t, int64_t> histogram;
  for (uint16_t levels : result.levels) ++histogram[levels];
  nlohmann::ordered_json levels = nlohmann::ordered_json::object();
  for (const auto& [count, columns] : histogram) {
    levels[absl::StrCat(count)] = columns;
  }
  nlohmann::ordered_json report;
  report["method"] = std::string(MethodName(options.method));
  report["loss"] = result.loss;
  // Without a Hessian the loss is ‖W − Ŵ‖², not comparable with the others.
  report["loss_kind"] = has_hessian ? "hessian" : "squared_error";
  report["uniform_loss"] = uniform_loss;
  report["code_bits"] = linear.CodeBitsPerWeight();
  report["file_bits"] = linear.FileBitsPerWeight();
  report["gm_over_am"] = result.gm_over_am;
  report["damping"] = result.factor.damping;
  report["damping_attempts"] = result.factor.attempts;
  report["diagonal_fallback"] = result.factor.diagonal_fallback;
  report["dead_columns"] = result.factor.dead_columns;
  report["levels_histogram"] = std::move(levels);
  return report.dump();
}

void Summarize(const quant::QuantizedResult& result, double uniform_loss,
               double code_bits, TaskResult* task) {
  v1::QuantizeSummary* summary = task->summary.mutable_quantize();
  summary->set_loss(result.loss);
  summary->set_uniform_loss(uniform_loss);
  summary->set_code_bits_per_weight(code_bits);
  summary->set_damping(result.factor.damping);
  summary->set_damping_attempts(result.factor.attempts);
  summary->set_diagonal_fallback(result.factor.diagonal_fallback);
  task->counters.damping_retries = std::max(0, result.factor.attempts - 1);
  task->counters.diagonal_fallbacks = result.factor.diagonal_fallback ? 1 : 0;
}

}  // namespace

absl::StatusOr<TaskResult> ExecuteQuantize(const TaskContext& context) {
  const v1::QuantizeParameters& parameters = context.action->quantize();
  BW_ASSIGN_OR_RETURN(LinearSpec spec,
                      FindLinear(context.model->config(), parameters));
  BW_ASSIGN_OR_RETURN(quant::QuantizeOptions options,
                      ToOptions(parameters.method()));
  BW_ASSIGN_OR_RETURN(std::vector<float> hessian, ReduceShards(context, spec));
  context.control->SetFraction(0.1);
  BW_RETURN_IF_ERROR(context.control->Check());
  BW_ASSIGN_OR_RETURN(std::vector<float> weight,
                      context.model->directory().ReadFloats(
                          absl::StrCat(spec.name, ".weight")));

  auto quantized = quant::QuantizeLinear({.weight = weight.data(),
                                          .rows = spec.rows,
                                          .columns = spec.cols,
                                          .hessian = hessian,
                                          .sequences = 0},
                                         options);
  if (!quantized.ok()) return Annotate(quantized.status(), spec.name);
  const bool has_hessian = !hessian.empty();
  hessian = {};
  weight = {};
  context.control->SetFraction(0.9);
  BW_RETURN_IF_ERROR(context.control->Check());

  const QuantizedLinear linear = ToNative(*quantized, options.group_size);
  BW_RETURN_IF_ERROR(CheckDecodes(linear, *quantized, spec.name));
  // RTN and GPTQ are the uniform pass.
  const double uniform_loss = options.method == quant::Method::kBaq
                                  ? quantized->uniform_loss
                                  : quantized->loss;
  TaskResult result;
  Summarize(*quantized, uniform_loss, linear.CodeBitsPerWeight(), &result);
  result.outputs.push_back(
      {.name = "linear",
       .bytes =
           SerializeLinearBlob({.name = spec.name,
                                .linear = linear,
                                .report = Report(*quantized, linear, options,
                                                 has_hessian, uniform_loss)})});
  return result;
}

}  // namespace bitwright
