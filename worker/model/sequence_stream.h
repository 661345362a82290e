// Sequences on their way between host memory and a device that computes in the
// meantime.
//
//   SequenceStream stream(device);
//   for (int64_t i = 0; i < n; ++i) {
//     const at::Tensor x = stream.In(host + i * size, {seqlen, width});
//     stream.Out(block.Forward(x, nullptr, true), host + i * size);
//   }
//   stream.Finish();
//
// On CUDA, sequences go through page-locked memory: the host copies one while
// the device works on another. Elsewhere everything is done at once.
#ifndef BITWRIGHT_WORKER_MODEL_SEQUENCE_STREAM_H_
#define BITWRIGHT_WORKER_MODEL_SEQUENCE_STREAM_H_

#include <ATen/ATen.h>
#include <c10/core/Event.h>

#include <deque>

namespace bitwright::model {

// Thread-safe on the CPU only. May throw what torch throws.
class SequenceStream {
 public:
  explicit SequenceStream(const at::Device& device) : device_(device) {}

  // Float32 values in host memory, as a tensor on the device. The memory may be
  // written to as soon as this returns. Waits for the device if that is a few
  // sequences behind.
  at::Tensor In(const float* values, at::IntArrayRef shape);
  // To tensor.numel() floats of host memory, by Finish at the latest.
  void Out(const at::Tensor& tensor, float* values);
  void Finish();

 private:
  struct Pending {
    at::Tensor staged;  // Page-locked.
    c10::Event arrived;
    float* values;
  };
  void FinishFirst();
  // What the device has been given so far.
  c10::Event Mark() const;

  const at::Device device_;
  std::deque<c10::Event> entered_;
  std::deque<Pending> pending_;
};

}  // namespace bitwright::model

#endif  // BITWRIGHT_WORKER_MODEL_SEQUENCE_STREAM_H_
