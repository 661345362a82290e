// What the device code of this folder stands on: checked calls, device memory,
// and one context (streams and library handles) per engine at work. Included by
// *_cuda.cu only.
//
//   CudaStatus Grow(CudaContext& context, DeviceBuffer<float>& x) {
//     BW_CUDA(x.Allocate(context.stream(), 1 << 20));
//     BW_CUDA(cudaMemsetAsync(x.get(), 0, x.bytes(), context.stream()));
//     return {};
//   }
#ifndef BITWRIGHT_WORKER_QUANT_RUNTIME_CUDA_H_
#define BITWRIGHT_WORKER_QUANT_RUNTIME_CUDA_H_

#include <cublas_v2.h>
#include <cuda_runtime.h>
#include <cusolverDn.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "worker/quant/module_cuda.h"

namespace bitwright::quant {

// The status of a call; `expression` is its source, of which the name is kept.
CudaStatus CheckCall(cudaError_t error, const char* expression);
CudaStatus CheckCall(cublasStatus_t error, const char* expression);
CudaStatus CheckCall(cusolverStatus_t error, const char* expression);
inline CudaStatus CheckCall(CudaStatus status, const char*) { return status; }

// Returns from the function when the call fails.
#define BW_CUDA(call)                                  \
  do {                                                 \
    ::bitwright::quant::CudaStatus bw_cuda_status_ =   \
        ::bitwright::quant::CheckCall((call), #call);  \
    if (!bw_cuda_status_.ok()) return bw_cuda_status_; \
  } while (false)

// What the launch of the kernel before it came to.
#define BW_CUDA_LAUNCHED(kernel)                                   \
  do {                                                             \
    ::bitwright::quant::CudaStatus bw_cuda_status_ =               \
        ::bitwright::quant::CheckCall(cudaGetLastError(), kernel); \
    if (!bw_cuda_status_.ok()) return bw_cuda_status_;             \
  } while (false)

// `bytes` of device 0, in the order of `stream`, from a pool that keeps some of
// what is given back. Not zeroed.
CudaStatus AllocateDevice(cudaStream_t stream, size_t bytes, void** out);
void FreeDevice(cudaStream_t stream, void* memory);

// Device memory, given back in the order of the stream it was allocated on,
// which must still be there.
template <typename T>
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;
  ~DeviceBuffer() { Free(); }

  // Keeps what is there when it is of that size; its contents are unspecified.
  CudaStatus Allocate(cudaStream_t stream, int64_t count) {
    if (data_ != nullptr && count_ == count) return {};
    Free();
    void* memory = nullptr;
    CudaStatus status =
        AllocateDevice(stream, static_cast<size_t>(count) * sizeof(T), &memory);
    if (!status.ok()) return status;
    stream_ = stream;
    data_ = static_cast<T*>(memory);
    count_ = count;
    return {};
  }
  void Free() {
    if (data_ != nullptr) FreeDevice(stream_, data_);
    data_ = nullptr;
    count_ = 0;
  }

  T* get() const { return data_; }
  int64_t count() const { return count_; }
  size_t bytes() const { return static_cast<size_t>(count_) * sizeof(T); }

 private:
  cudaStream_t stream_ = nullptr;
  T* data_ = nullptr;
  int64_t count_ = 0;
};

// Asynchronous copies; a copy from pageable memory returns when it is staged.
template <typename T>
CudaStatus CopyToDevice(T* device, const T* host, int64_t count,
                        cudaStream_t stream) {
  BW_CUDA(cudaMemcpyAsync(device, host, static_cast<size_t>(count) * sizeof(T),
                          cudaMemcpyHostToDevice, stream));
  return {};
}
template <typename T>
CudaStatus CopyToHost(T* host, const T* device, int64_t count,
                      cudaStream_t stream) {
  BW_CUDA(cudaMemcpyAsync(host, device, static_cast<size_t>(count) * sizeof(T),
                          cudaMemcpyDeviceToHost, stream));
  return {};
}

// Handles and streams, which take long to make. Results of cuBLAS are the same
// every time: one stream, a workspace of its own, no atomics, no TF32.
class CudaContext {
 public:
  CudaContext() = default;
  CudaContext(const CudaContext&) = delete;
  CudaContext& operator=(const CudaContext&) = delete;
  ~CudaContext();

  CudaStatus Open();

  cudaStream_t stream() const { return stream_; }
  cudaStream_t copy_stream() const { return copy_stream_; }
  cudaEvent_t event() const { return event_; }
  cublasHandle_t cublas() const { return cublas_; }
  cusolverDnHandle_t cusolver() const { return cusolver_; }
  cusolverDnParams_t params() const { return params_; }

 private:
  cudaStream_t stream_ = nullptr, copy_stream_ = nullptr;
  cudaEvent_t event_ = nullptr;
  cublasHandle_t cublas_ = nullptr;
  cusolverDnHandle_t cusolver_ = nullptr;
  cusolverDnParams_t params_ = nullptr;
  void* workspace_ = nullptr;
};

// A context that goes back to the idle ones, for the next engine, when it is
// destroyed; thread-safe to take.
struct ReturnContext {
  void operator()(CudaContext* context) const;
};
using CudaContextLease = std::unique_ptr<CudaContext, ReturnContext>;
CudaStatus LeaseContext(CudaContextLease* out);

// Makes device 0 the calling thread's.
CudaStatus UseDevice();
// The same, and whether the module has code for it.
CudaStatus CheckDevice();

inline int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_RUNTIME_CUDA_H_
