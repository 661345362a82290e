// The elementwise parts of the factorization (math.md §2): the flip before
// cuSOLVER's Cholesky, and the way back.
#include "worker/quant/kernels_cuda.h"

namespace bitwright::quant {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxGridY = 65535;

// H of positions p and q, `added` on its diagonal.
__device__ double DampedAt(const FlipInput& in, int64_t p, int64_t q,
                           double added) {
  const int64_t a = in.order[p], b = in.order[q];
  const int64_t i = a > b ? a : b;
  const int64_t j = a > b ? b : a;
  const float h = in.packed ? in.hessian[i * (i + 1) / 2 + j]
                            : in.hessian[i * in.columns + j];
  const double value = in.scale * static_cast<double>(h);
  if (p != q) return value;
  return (in.dead[a] ? 1.0 : value) + added;
}

__global__ void FillFlippedKernel(FlipInput in, double added, double* out) {
  const int64_t n = in.columns;
  const int64_t r = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (r >= n) return;
  for (int64_t c = blockIdx.y; c <= r; c += gridDim.y) {
    out[c * n + r] = DampedAt(in, n - 1 - r, n - 1 - c, added);
  }
}

__global__ void DampedHessianKernel(FlipInput in, double added, double mean,
                                    float* out, float* inverse) {
  const int64_t n = in.columns;
  const int64_t q = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (q >= n) return;
  for (int64_t p = blockIdx.y; p < n; p += gridDim.y) {
    const float value = static_cast<float>(DampedAt(in, p, q, added) / mean);
    out[p * n + q] = value;
    if (p == q) inverse[p] = in.dead[in.order[p]] ? 0.0f : 1.0f / value;
  }
}

__global__ void FlippedDiagonalKernel(const double* l, int64_t n,
                                      double* diagonal) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (k < n) diagonal[k] = l[(n - 1 - k) * n + (n - 1 - k)];
}

// L[r, c] is at c·n + r: row k of `unit` is column n−1−k of L, backwards.
__global__ void UnflipKernel(const double* l, const double* diagonal, int64_t n,
                             float* unit) {
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (j >= n) return;
  for (int64_t k = blockIdx.y; k < n; k += gridDim.y) {
    unit[k * n + j] =
        j < k
            ? static_cast<float>(l[(n - 1 - k) * n + (n - 1 - j)] / diagonal[k])
            : 0.0f;
  }
}

dim3 Grid2d(int64_t x, int64_t y) {
  return dim3(static_cast<unsigned>(DivideUp(x, kThreads)),
              static_cast<unsigned>(y < kMaxGridY ? y : kMaxGridY));
}

}  // namespace

CudaStatus FillFlipped(const FlipInput& in, double added, double* out,
                       cudaStream_t stream) {
  FillFlippedKernel<<<Grid2d(in.columns, in.columns), kThreads, 0, stream>>>(
      in, added, out);
  BW_CUDA_LAUNCHED("FillFlipped");
  return {};
}

CudaStatus DampedHessian(const FlipInput& in, double added, double mean,
                         float* out, float* inverse, cudaStream_t stream) {
  DampedHessianKernel<<<Grid2d(in.columns, in.columns), kThreads, 0, stream>>>(
      in, added, mean, out, inverse);
  BW_CUDA_LAUNCHED("DampedHessian");
  return {};
}

CudaStatus FlippedDiagonal(const double* l, int64_t columns, double* diagonal,
                           cudaStream_t stream) {
  FlippedDiagonalKernel<<<Grid2d(columns, 1), kThreads, 0, stream>>>(l, columns,
                                                                     diagonal);
  BW_CUDA_LAUNCHED("FlippedDiagonal");
  return {};
}

CudaStatus Unflip(const double* l, const double* diagonal, int64_t columns,
                  float* unit, cudaStream_t stream) {
  UnflipKernel<<<Grid2d(columns, columns), kThreads, 0, stream>>>(
      l, diagonal, columns, unit);
  BW_CUDA_LAUNCHED("Unflip");
  return {};
}

}  // namespace bitwright::quant
