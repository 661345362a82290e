// CudaHessian of module_cuda.h. To cuBLAS, which is column-major, the inputs
// [tokens, columns] are X of [columns, tokens], and the sum X·Xᵀ has its rows
// where the row-major one has its columns.
#include <cuda_bf16.h>

#include <memory>

#include "worker/quant/kernels_cuda.h"
#include "worker/quant/module_cuda.h"
#include "worker/quant/runtime_cuda.h"

namespace bitwright::quant {
namespace {

// Rows of H that one product covers, up to and including the diagonal: small
// enough to leave most of the other triangle out, large enough for cuBLAS.
constexpr int64_t kPanel = 1024;
constexpr int kThreads = 256;
// Tokens split at a time: bounds the memory that the halves take.
constexpr int64_t kSplitTokens = 8192;
constexpr int kSplitBlocks = 4096;

// out holds [hi, hi, lo, hi], each `size` values: with the tokens of three
// copies end to end, out·(out + size)ᵀ = hi·hiᵀ + hi·loᵀ + lo·hiᵀ.
__global__ void SplitKernel(const float* x, int64_t size, __nv_bfloat16* out) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
       i < size; i += step) {
    const float value = x[i];
    const __nv_bfloat16 high = __float2bfloat16_rn(value);
    const __nv_bfloat16 low =
        __float2bfloat16_rn(__fsub_rn(value, __bfloat162float(high)));
    out[i] = high;
    out[size + i] = high;
    out[2 * size + i] = low;
    out[3 * size + i] = high;
  }
}

__global__ void PackLowerKernel(const float* square, int64_t n, float* packed) {
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  for (int64_t i = blockIdx.y; i < n; i += gridDim.y) {
    if (j <= i) packed[i * (i + 1) / 2 + j] = square[i * n + j];
  }
}

class Hessian final : public CudaHessian {
 public:
  Hessian(int64_t columns, bool split) : columns_(columns), split_(split) {}

  CudaStatus Open() {
    BW_CUDA(LeaseContext(&context_));
    BW_CUDA(sum_.Allocate(stream(), columns_ * columns_));
    BW_CUDA(cudaMemsetAsync(sum_.get(), 0, sum_.bytes(), stream()));
    return {};
  }

  CudaStatus Add(const float* x, int64_t tokens, void* stream_of_x) override {
    BW_CUDA(UseDevice());
    const auto theirs = static_cast<cudaStream_t>(stream_of_x);
    // After what computed x; and they do not reuse x before this is done.
    BW_CUDA(cudaEventRecord(context_->event(), theirs));
    BW_CUDA(cudaStreamWaitEvent(stream(), context_->event(), 0));
    BW_CUDA(split_ ? AddSplit(x, tokens) : AddFloat32(x, tokens));
    BW_CUDA(cudaEventRecord(context_->event(), stream()));
    BW_CUDA(cudaStreamWaitEvent(theirs, context_->event(), 0));
    return {};
  }

  CudaStatus Packed(float* out) override {
    BW_CUDA(UseDevice());
    const int64_t size = columns_ * (columns_ + 1) / 2;
    DeviceBuffer<float> packed;
    BW_CUDA(packed.Allocate(stream(), size));
    const dim3 grid(static_cast<unsigned>(DivideUp(columns_, kThreads)),
                    static_cast<unsigned>(columns_ < 65535 ? columns_ : 65535));
    PackLowerKernel<<<grid, kThreads, 0, stream()>>>(sum_.get(), columns_,
                                                     packed.get());
    BW_CUDA_LAUNCHED("PackLower");
    BW_CUDA(CopyToHost(out, packed.get(), size, stream()));
    BW_CUDA(cudaStreamSynchronize(stream()));
    return {};
  }

 private:
  cudaStream_t stream() const { return context_->stream(); }

  CudaStatus AddFloat32(const float* x, int64_t tokens) {
    const float one = 1.0f;
    const int n = static_cast<int>(columns_);
    for (int64_t first = 0; first < columns_; first += kPanel) {
      const int64_t width = Width(first);
      BW_CUDA(cublasSgemm(context_->cublas(), CUBLAS_OP_N, CUBLAS_OP_T,
                          static_cast<int>(first + width),
                          static_cast<int>(width), static_cast<int>(tokens),
                          &one, x, n, x + first, n, &one,
                          sum_.get() + first * columns_, n));
    }
    return {};
  }

  CudaStatus AddSplit(const float* x, int64_t tokens) {
    for (int64_t begin = 0; begin < tokens; begin += kSplitTokens) {
      const int64_t count =
          tokens - begin < kSplitTokens ? tokens - begin : kSplitTokens;
      BW_CUDA(AddSplitPiece(x + begin * columns_, count));
    }
    return {};
  }

  CudaStatus AddSplitPiece(const float* x, int64_t tokens) {
    const int64_t size = tokens * columns_;
    BW_CUDA(halves_.Allocate(stream(), 4 * size));
    const int64_t blocks = DivideUp(size, kThreads);
    SplitKernel<<<static_cast<unsigned>(blocks < kSplitBlocks ? blocks
                                                              : kSplitBlocks),
                  kThreads, 0, stream()>>>(x, size, halves_.get());
    BW_CUDA_LAUNCHED("Split");
    const float one = 1.0f;
    const int n = static_cast<int>(columns_);
    for (int64_t first = 0; first < columns_; first += kPanel) {
      const int64_t width = Width(first);
      BW_CUDA(
          cublasGemmEx(context_->cublas(), CUBLAS_OP_N, CUBLAS_OP_T,
                       static_cast<int>(first + width), static_cast<int>(width),
                       static_cast<int>(3 * tokens), &one, halves_.get(),
                       CUDA_R_16BF, n, halves_.get() + size + first,
                       CUDA_R_16BF, n, &one, sum_.get() + first * columns_,
                       CUDA_R_32F, n, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
    }
    return {};
  }

  int64_t Width(int64_t first) const {
    return columns_ - first < kPanel ? columns_ - first : kPanel;
  }

  CudaContextLease context_;  // First: the buffers need its streams.
  const int64_t columns_;
  const bool split_;
  DeviceBuffer<float> sum_;  // [columns, columns]; lower triangle by panels
  DeviceBuffer<__nv_bfloat16> halves_;
};

}  // namespace

extern "C" __attribute__((visibility("default"))) CudaHessian*
BitwrightCudaHessian(int64_t columns, bool split_bf16, CudaStatus* status) {
  auto sum = std::make_unique<Hessian>(columns, split_bf16);
  *status = sum->Open();
  return status->ok() ? sum.release() : nullptr;
}

}  // namespace bitwright::quant
