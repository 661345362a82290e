// The seam between torch, which throws, and the rest, which returns statuses.
#ifndef BITWRIGHT_WORKER_MODEL_TORCH_UTIL_H_
#define BITWRIGHT_WORKER_MODEL_TORCH_UTIL_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace bitwright::model {

// Runs `body` without gradients and with torch single-threaded on this thread.
// What it throws becomes a status that begins with `what`: RESOURCE_EXHAUSTED
// when memory ran out, INTERNAL otherwise.
absl::Status CatchTorch(absl::string_view what,
                        absl::FunctionRef<absl::Status()> body);

// CatchTorch for each of 0 .. n-1: in parallel on the CPU, one after the other
// on other devices. The first error in index order.
absl::Status ForEachSequence(const at::Device& device, int64_t n,
                             absl::string_view what,
                             absl::FunctionRef<absl::Status(int64_t)> body);

// How many of them run together: what to hold of those that each need memory of
// their own.
int64_t SequencesAtOnce(const at::Device& device);

// Takes the values over without copying them when `device` is the CPU.
at::Tensor ToTensor(std::vector<float> values, at::IntArrayRef shape,
                    const at::Device& device);

// Copies `count` floats at `data` (host memory) to a tensor on `device`.
at::Tensor CopyToTensor(const float* data, at::IntArrayRef shape,
                        const at::Device& device);

// Copies a float32 tensor to host memory, which holds tensor.numel() floats.
void CopyFromTensor(const at::Tensor& tensor, float* out);

}  // namespace bitwright::model

#endif  // BITWRIGHT_WORKER_MODEL_TORCH_UTIL_H_
