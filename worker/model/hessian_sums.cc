#include "worker/model/hessian_sums.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

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
    if (device.is_cpu()) {
      group.host.emplace_back(linear.cols);
    } else {
      group.device =
          at::zeros({linear.cols, linear.cols},
                    at::TensorOptions().dtype(at::kFloat).device(device));
    }
    sums.groups_.push_back(std::move(group));
  }
  return sums;
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
    } else {
      BW_RETURN_IF_ERROR(
          group.host.front().Add(x.data_ptr<float>(), x.size(0)));
    }
  }
  return absl::OkStatus();
}

std::vector<HessianSum> HessianSums::Take() {
  std::vector<HessianSum> result;
  for (Group& group : groups_) {
    HessianSum sum;
    sum.group = kBlockInputNames[group.input];
    sum.cols = group.cols;
    sum.packed_lower = group.device.defined() ? PackLower(group.device)
                                              : group.host.front().Packed();
    group.host.clear();
    group.device.reset();
    result.push_back(std::move(sum));
  }
  return result;
}

}  // namespace bitwright::model
