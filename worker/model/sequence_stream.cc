#include "worker/model/sequence_stream.h"

#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <cstring>
#include <thread>
#include <utility>

#include "worker/model/torch_util.h"
#include "worker/quant/parallel.h"

namespace bitwright::model {
namespace {

// Sequences whose results are on their way: one more than can be waited for
// leaves the device something to do.
constexpr size_t kOnTheirWay = 2;
constexpr int64_t kPiece = 1 << 20;  // Floats that one thread copies.

// One thread copies more slowly than the device computes.
void CopyInPieces(const float* from, int64_t count, float* to) {
  quant::ParallelFor((count + kPiece - 1) / kPiece, [&](int64_t piece) {
    const int64_t begin = piece * kPiece;
    std::memcpy(to + begin, from + begin,
                std::min(kPiece, count - begin) * sizeof(float));
  });
}

at::Tensor PageLocked(at::IntArrayRef shape) {
  return at::empty(shape,
                   at::TensorOptions().dtype(at::kFloat).pinned_memory(true));
}

}  // namespace

at::Tensor SequenceStream::In(const float* values,
                              at::IntArrayRef shape) const {
  if (!device_.is_cuda()) return CopyToTensor(values, shape, device_);
  // Torch keeps it from being reused until the copy below is done.
  const at::Tensor staged = PageLocked(shape);
  CopyInPieces(values, staged.numel(), staged.data_ptr<float>());
  return staged.to(device_, /*non_blocking=*/true);
}

void SequenceStream::Out(const at::Tensor& tensor, float* values) {
  if (!device_.is_cuda()) return CopyFromTensor(tensor, values);
  Pending next{PageLocked(tensor.sizes()), c10::Event(device_.type()), values};
  next.staged.copy_(tensor, /*non_blocking=*/true);
  next.arrived.record(
      c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
  pending_.push_back(std::move(next));
  if (pending_.size() > kOnTheirWay) FinishFirst();
}

void SequenceStream::Finish() {
  while (!pending_.empty()) FinishFirst();
}

void SequenceStream::FinishFirst() {
  const Pending& first = pending_.front();
  while (!first.arrived.query()) std::this_thread::yield();
  CopyInPieces(first.staged.data_ptr<float>(), first.staged.numel(),
               first.values);
  pending_.pop_front();
}

}  // namespace bitwright::model
