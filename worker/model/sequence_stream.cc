#include "worker/model/sequence_stream.h"

#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "worker/model/torch_util.h"
#include "worker/quant/parallel.h"

namespace bitwright::model {
namespace {

// Sequences on their way, in either direction: one more than is waited for
// leaves the device something to do, and bounds the page-locked memory.
constexpr size_t kOnTheirWay = 2;
constexpr int64_t kPiece = 1 << 20;  // Floats that one thread copies.

void WaitFor(const c10::Event& event) {
  while (!event.query()) absl::SleepFor(absl::Microseconds(20));
}

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

c10::Event SequenceStream::Mark() const {
  c10::Event event(device_.type());
  event.record(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
  return event;
}

at::Tensor SequenceStream::In(const float* values, at::IntArrayRef shape) {
  if (!device_.is_cuda()) return CopyToTensor(values, shape, device_);
  if (entered_.size() > kOnTheirWay) {
    WaitFor(entered_.front());
    entered_.pop_front();
  }
  // Torch keeps it from being reused until the copy below is done.
  const at::Tensor staged = PageLocked(shape);
  CopyInPieces(values, staged.numel(), staged.data_ptr<float>());
  at::Tensor sent = staged.to(device_, /*non_blocking=*/true);
  entered_.push_back(Mark());
  return sent;
}

void SequenceStream::Out(const at::Tensor& tensor, float* values) {
  if (!device_.is_cuda()) return CopyFromTensor(tensor, values);
  at::Tensor staged = PageLocked(tensor.sizes());
  staged.copy_(tensor, /*non_blocking=*/true);
  pending_.push_back({std::move(staged), Mark(), values});
  if (pending_.size() > kOnTheirWay) FinishFirst();
}

void SequenceStream::Finish() {
  while (!pending_.empty()) FinishFirst();
}

void SequenceStream::FinishFirst() {
  const Pending& first = pending_.front();
  WaitFor(first.arrived);
  CopyInPieces(first.staged.data_ptr<float>(), first.staged.numel(),
               first.values);
  pending_.pop_front();
}

}  // namespace bitwright::model
