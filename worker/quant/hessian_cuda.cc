#include "worker/quant/hessian_cuda.h"

#include <atomic>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/quant/hessian.h"
#include "worker/quant/open_module_cuda.h"

namespace bitwright::quant {
namespace {

std::atomic<CudaHessianMode> active_mode{CudaHessianMode::kFloat32};

}  // namespace

void SetCudaHessianMode(CudaHessianMode mode) { active_mode = mode; }
CudaHessianMode ActiveCudaHessianMode() { return active_mode; }

CudaHessianAccumulator::CudaHessianAccumulator(int64_t columns,
                                               std::unique_ptr<CudaHessian> sum)
    : columns_(columns), sum_(std::move(sum)) {}
CudaHessianAccumulator::~CudaHessianAccumulator() = default;

absl::StatusOr<std::unique_ptr<CudaHessianAccumulator>>
CudaHessianAccumulator::Create(int64_t columns, CudaHessianMode mode) {
  if (columns < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("a Hessian of ", columns, " columns"));
  }
  BW_ASSIGN_OR_RETURN(const CudaModule* module, OpenCudaModule());
  CudaStatus status;
  std::unique_ptr<CudaHessian> sum(module->hessian(
      columns, mode == CudaHessianMode::kSplitBfloat16, &status));
  if (sum == nullptr) return ToStatus(status);
  return std::unique_ptr<CudaHessianAccumulator>(
      new CudaHessianAccumulator(columns, std::move(sum)));
}

absl::Status CudaHessianAccumulator::Add(const float* x, int64_t tokens,
                                         void* stream) {
  if (tokens < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a batch of ", tokens, " tokens"));
  }
  if (tokens == 0) return absl::OkStatus();
  BW_RETURN_IF_ERROR(ToStatus(sum_->Add(x, tokens, stream)));
  tokens_ += tokens;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<float>> CudaHessianAccumulator::Packed() {
  std::vector<float> packed(PackedSize(columns_));
  BW_RETURN_IF_ERROR(ToStatus(sum_->Packed(packed.data())));
  return packed;
}

}  // namespace bitwright::quant
