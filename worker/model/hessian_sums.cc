#include "worker/model/hessian_sums.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/quant/layer_engine_cuda.h"

namespace bitwright::model {
namespace {

absl::StatusOr<int> InputIndex(const std::string& group) {
  for (int i = 0; i < kBlockInputs; ++i) {
    if (group == kBlockInputNames[i]) return i;
  }
  return absl::InternalError(
      absl::StrCat("Hessian group \"", group, "\" is of no known input"));
}

std::vector<float> PackLower(const at::Tensor& square) {
  const at::Tensor host = square.cpu().contiguous();
  const float* values = host.data_ptr<float>();
  const int64_t n = host.size(0);
  std::vector<float> packed(quant::PackedSize(n));
  for (int64_t i = 0; i < n; ++i) {
    std::copy_n(values + i * n, i + 1, packed.data() + i * (i + 1) / 2);
  }
  return packed;
}

}  // namespace

absl::StatusOr<HessianSums> HessianSums::Create(const ModelConfig& config,
                                                int64_t block,
                                                const at::Device& device) {
  HessianSums sums;
  for (const LinearSpec& linear : BlockLinears(config, block)) {
    BW_ASSIGN_OR_RETURN(const int input, InputIndex(linear.hessian_group));
    if (std::any_of(sums.groups_.begin(), sums.groups_.end(),
                    [&](const Group& g) { return g.input == input; })) {
      continue;
    }
    Group group;
    group.input = input;
    group.cols = linear.cols;
    BW_RETURN_IF_ERROR(Open(device, group));
    sums.groups_.push_back(std::move(group));
  }
  return sums;
}

absl::Status HessianSums::Open(const at::Device& device, Group& group) {
  if (device.is_cpu()) {
    group.host.emplace_back(group.cols);
    return absl::OkStatus();
  }
  if (device.is_cuda() && quant::CudaDeviceStatus().ok()) {
    BW_ASSIGN_OR_RETURN(group.cuda,
                        quant::CudaHessianAccumulator::Create(
                            group.cols, quant::ActiveCudaHessianMode()));
    return absl::OkStatus();
  }
  group.device =
      at::zeros({group.cols, group.cols},
                at::TensorOptions().dtype(at::kFloat).device(device));
  return absl::OkStatus();
}

absl::Status HessianSums::Add(const CapturedInputs& inputs) {
  for (Group& group : groups_) {
    const at::Tensor x = inputs[group.input].contiguous();
    if (x.size(1) != group.cols) {
      return absl::InternalError(absl::StrCat(
          "Hessian group \"", kBlockInputNames[group.input], "\" has ",
          group.cols, " columns, its input ", x.size(1)));
    }
    if (group.device.defined()) {
      group.device.addmm_(x.t(), x);
    } else if (group.cuda != nullptr) {
      // Nothing here leaves torch's default stream, which is CUDA's.
      BW_RETURN_IF_ERROR(group.cuda->Add(x.data_ptr<float>(), x.size(0),
                                         /*stream=*/nullptr));
    } else {
      BW_RETURN_IF_ERROR(
          group.host.front().Add(x.data_ptr<float>(), x.size(0)));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> HessianSums::Packed(const Group& group) {
  if (group.cuda != nullptr) return group.cuda->Packed();
  if (group.device.defined()) return PackLower(group.device);
  return group.host.front().Packed();
}

absl::StatusOr<std::vector<HessianSum>> HessianSums::Take() {
  std::vector<HessianSum> result;
  for (Group& group : groups_) {
    HessianSum sum;
    sum.group = kBlockInputNames[group.input];
    sum.cols = group.cols;
    BW_ASSIGN_OR_RETURN(sum.packed_lower, Packed(group));
    group = Group();  // Its memory.
    result.push_back(std::move(sum));
  }
  return result;
}

}  // namespace bitwright::model
