// What the device can do, by its own libraries.
#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <random>

#include "absl/strings/str_format.h"
#include "common/base/status_macros.h"
#include "tests/gpu/gpu_bench.h"

namespace bitwright::gpu_bench {
namespace {

constexpr int kRuns = 7;

absl::Status Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(
      absl::StrFormat("%s: %s", what, cudaGetErrorString(error)));
}

absl::Status CheckBlas(cublasStatus_t error, const char* what) {
  if (error == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(
      absl::StrFormat("%s: %s", what, cublasGetStatusString(error)));
}

struct Free {
  void operator()(void* memory) const { cudaFree(memory); }
};
using Memory = std::unique_ptr<void, Free>;

absl::StatusOr<Memory> Allocate(int64_t bytes) {
  void* memory = nullptr;
  BW_RETURN_IF_ERROR(Check(cudaMalloc(&memory, bytes), "cudaMalloc"));
  return Memory(memory);
}

// `count` floats in [-1, 1), the same 2^20 over and over.
absl::StatusOr<Memory> RandomFloats(int64_t count) {
  constexpr int64_t kPiece = 1 << 20;
  static const std::vector<float> host = [] {
    std::mt19937 bits(9);
    std::vector<float> values(kPiece);
    for (float& v : values) v = static_cast<float>(bits()) * 0x1p-31f - 1.0f;
    return values;
  }();
  BW_ASSIGN_OR_RETURN(Memory memory, Allocate(count * sizeof(float)));
  for (int64_t begin = 0; begin < count; begin += kPiece) {
    BW_RETURN_IF_ERROR(
        Check(cudaMemcpy(static_cast<float*>(memory.get()) + begin, host.data(),
                         std::min(kPiece, count - begin) * sizeof(float),
                         cudaMemcpyHostToDevice),
              "cudaMemcpy"));
  }
  return memory;
}

// The same as bfloat16: the upper halves.
absl::StatusOr<Memory> RandomBfloats(int64_t count) {
  std::mt19937 bits(10);
  std::vector<__nv_bfloat16> host(count);
  for (__nv_bfloat16& v : host) {
    v = __float2bfloat16(static_cast<float>(bits()) * 0x1p-31f - 1.0f);
  }
  BW_ASSIGN_OR_RETURN(Memory memory, Allocate(count * sizeof(host[0])));
  BW_RETURN_IF_ERROR(
      Check(cudaMemcpy(memory.get(), host.data(), count * sizeof(host[0]),
                       cudaMemcpyHostToDevice),
            "cudaMemcpy"));
  return memory;
}

absl::StatusOr<double> MedianSeconds(const std::function<absl::Status()>& run) {
  std::vector<double> seconds;
  for (int i = 0; i <= kRuns; ++i) {
    BW_RETURN_IF_ERROR(Check(cudaDeviceSynchronize(), "cudaDeviceSynchronize"));
    const double begin = Now();
    BW_RETURN_IF_ERROR(run());
    BW_RETURN_IF_ERROR(Check(cudaDeviceSynchronize(), "cudaDeviceSynchronize"));
    if (i > 0) seconds.push_back(Now() - begin);  // The first warms up.
  }
  std::nth_element(seconds.begin(), seconds.begin() + kRuns / 2, seconds.end());
  return seconds[kRuns / 2];
}

struct BlasHandle {
  ~BlasHandle() {
    if (handle != nullptr) cublasDestroy(handle);
  }
  cublasHandle_t handle = nullptr;
};

}  // namespace

absl::StatusOr<double> SgemmSeconds(int64_t m, int64_t n, int64_t k) {
  BW_ASSIGN_OR_RETURN(const Memory a, RandomFloats(m * k));
  BW_ASSIGN_OR_RETURN(const Memory b, RandomFloats(k * n));
  BW_ASSIGN_OR_RETURN(const Memory c, RandomFloats(m * n));
  BlasHandle blas;
  BW_RETURN_IF_ERROR(CheckBlas(cublasCreate(&blas.handle), "cublasCreate"));
  const float one = 1.0f;
  return MedianSeconds([&] {
    return CheckBlas(
        cublasSgemm(blas.handle, CUBLAS_OP_N, CUBLAS_OP_N, static_cast<int>(m),
                    static_cast<int>(n), static_cast<int>(k), &one,
                    static_cast<const float*>(a.get()), static_cast<int>(m),
                    static_cast<const float*>(b.get()), static_cast<int>(k),
                    &one, static_cast<float*>(c.get()), static_cast<int>(m)),
        "cublasSgemm");
  });
}

absl::StatusOr<double> BfloatGemmSeconds(int64_t m, int64_t n, int64_t k) {
  BW_ASSIGN_OR_RETURN(const Memory a, RandomBfloats(m * k));
  BW_ASSIGN_OR_RETURN(const Memory b, RandomBfloats(k * n));
  BW_ASSIGN_OR_RETURN(const Memory c, RandomFloats(m * n));
  BlasHandle blas;
  BW_RETURN_IF_ERROR(CheckBlas(cublasCreate(&blas.handle), "cublasCreate"));
  const float one = 1.0f;
  return MedianSeconds([&] {
    return CheckBlas(
        cublasGemmEx(blas.handle, CUBLAS_OP_N, CUBLAS_OP_N, static_cast<int>(m),
                     static_cast<int>(n), static_cast<int>(k), &one, a.get(),
                     CUDA_R_16BF, static_cast<int>(m), b.get(), CUDA_R_16BF,
                     static_cast<int>(k), &one, c.get(), CUDA_R_32F,
                     static_cast<int>(m), CUBLAS_COMPUTE_32F,
                     CUBLAS_GEMM_DEFAULT),
        "cublasGemmEx");
  });
}

absl::StatusOr<double> CopyRate() {
  constexpr int64_t kFloats = int64_t{1} << 30;
  BW_ASSIGN_OR_RETURN(const Memory from, RandomFloats(kFloats));
  BW_ASSIGN_OR_RETURN(const Memory to, Allocate(kFloats * sizeof(float)));
  BW_ASSIGN_OR_RETURN(const double seconds, MedianSeconds([&] {
                        return Check(cudaMemcpyAsync(to.get(), from.get(),
                                                     kFloats * sizeof(float),
                                                     cudaMemcpyDeviceToDevice),
                                     "cudaMemcpyAsync");
                      }));
  return 2.0 * kFloats * sizeof(float) / seconds;
}

absl::StatusOr<std::string> DeviceName() {
  cudaDeviceProp properties;
  BW_RETURN_IF_ERROR(Check(cudaGetDeviceProperties(&properties, 0),
                           "cudaGetDeviceProperties"));
  int driver = 0;
  BW_RETURN_IF_ERROR(
      Check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion"));
  return absl::StrFormat(
      "%s, %d multiprocessors, %.0f GiB; CUDA %d.%d, driver for %d.%d",
      properties.name, properties.multiProcessorCount,
      static_cast<double>(properties.totalGlobalMem) / (1 << 30),
      CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10, driver / 1000,
      driver % 1000 / 10);
}

absl::StatusOr<double> HessianSeconds(int64_t columns, int64_t tokens,
                                      quant::CudaHessianMode mode) {
  BW_ASSIGN_OR_RETURN(const Memory x, RandomFloats(tokens * columns));
  BW_ASSIGN_OR_RETURN(auto sum,
                      quant::CudaHessianAccumulator::Create(columns, mode));
  return MedianSeconds([&] {
    return sum->Add(static_cast<const float*>(x.get()), tokens, nullptr);
  });
}

}  // namespace bitwright::gpu_bench
