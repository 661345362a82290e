#include "worker/model/torch_util.h"

#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <exception>
#include <memory>
#include <new>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "worker/quant/parallel.h"

namespace bitwright::model {
namespace {

absl::Status OutOfMemory(absl::string_view what, absl::string_view detail) {
  return absl::ResourceExhaustedError(
      absl::StrCat(what, ": out of memory: ", detail,
                   "; use fewer threads or a shorter seqlen"));
}

// Torch runs its loops on threads of its own unless it is told otherwise, which
// takes effect on the telling thread only.
void PinThisThread() {
  thread_local const bool pinned = (at::set_num_threads(1), true);
  static_cast<void>(pinned);
}

// A c10::Error for host memory is of no type of its own.
bool IsHostMemoryMessage(absl::string_view message) {
  return absl::StrContains(message, "can't allocate memory") ||
         absl::StrContains(message, "not enough memory");
}

}  // namespace

absl::Status CatchTorch(absl::string_view what,
                        absl::FunctionRef<absl::Status()> body) {
  try {
    PinThisThread();
    c10::NoGradGuard no_grad;
    return body();
  } catch (const c10::OutOfMemoryError& error) {
    return OutOfMemory(what, error.what_without_backtrace());
  } catch (const c10::Error& error) {
    const absl::string_view message = error.what_without_backtrace();
    if (IsHostMemoryMessage(message)) return OutOfMemory(what, message);
    return absl::InternalError(absl::StrCat(what, ": ", message));
  } catch (const std::bad_alloc& error) {
    return OutOfMemory(what, error.what());
  } catch (const std::exception& error) {
    return absl::InternalError(absl::StrCat(what, ": ", error.what()));
  }
}

absl::Status ForEachSequence(const at::Device& device, int64_t n,
                             absl::string_view what,
                             absl::FunctionRef<absl::Status(int64_t)> body) {
  std::vector<absl::Status> statuses(n);
  const auto run = [&](int64_t i) {
    statuses[i] = CatchTorch(what, [&] { return body(i); });
  };
  if (device.is_cpu()) {
    quant::ParallelFor(n, run);
  } else {
    for (int64_t i = 0; i < n; ++i) run(i);
  }
  for (absl::Status& status : statuses) {
    if (!status.ok()) return std::move(status);
  }
  return absl::OkStatus();
}

int64_t SequencesAtOnce(const at::Device& device) {
  return device.is_cpu() ? std::max(1, quant::Threads()) : 1;
}

at::Tensor ToTensor(std::vector<float> values, at::IntArrayRef shape,
                    const at::Device& device) {
  if (!device.is_cpu()) return CopyToTensor(values.data(), shape, device);
  auto owner = std::make_shared<std::vector<float>>(std::move(values));
  float* data = owner->data();
  return at::from_blob(
      data, shape, [owner = std::move(owner)](void*) {},
      at::TensorOptions().dtype(at::kFloat));
}

at::Tensor CopyToTensor(const float* data, at::IntArrayRef shape,
                        const at::Device& device) {
  return at::from_blob(const_cast<float*>(data), shape,
                       at::TensorOptions().dtype(at::kFloat))
      .to(at::TensorOptions().dtype(at::kFloat).device(device),
          /*non_blocking=*/false, /*copy=*/true);
}

void CopyFromTensor(const at::Tensor& tensor, float* out) {
  at::from_blob(out, tensor.sizes(), at::TensorOptions().dtype(at::kFloat))
      .copy_(tensor);
}

}  // namespace bitwright::model
