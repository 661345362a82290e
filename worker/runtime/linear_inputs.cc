#include "worker/runtime/linear_inputs.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "common/base/status_macros.h"
#include "common/checkpoint/safetensors.h"
#include "worker/quant/hessian.h"
#include "worker/runtime/task_inputs.h"

namespace bitwright {
namespace {

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

}  // namespace

absl::Status CheckBlock(const ModelConfig& config, int64_t block) {
  if (block >= 0 && block < config.num_layers) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "the model has no block ", block, "; it has ", config.num_layers));
}

absl::StatusOr<LinearSpec> FindLinear(const ModelConfig& config, int64_t block,
                                      const std::string& name) {
  BW_RETURN_IF_ERROR(CheckBlock(config, block));
  for (const LinearSpec& linear : BlockLinears(config, block)) {
    if (linear.name == name) return linear;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("block ", block, " has no linear ", name));
}

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

quant::QuantizeOptions GridOptions(const v1::MethodSpec& spec) {
  quant::QuantizeOptions options;
  options.group_size = spec.group_size();
  options.symmetric = spec.symmetric();
  options.mse_clip = spec.mse_clip();
  options.act_order = spec.act_order();
  if (spec.damping() != 0) options.damping = spec.damping();
  options.f16_ranges = true;
  return options;
}

}  // namespace bitwright
