// The benchmark of the CUDA path: what the layers of the usual models take, and
// one block of the shape of LLaMA-7B's, beside what the device can do.
//
//   bitwright_gpu_bench RESULTS.md [--sequences 128]
#ifndef BITWRIGHT_TESTS_GPU_GPU_BENCH_H_
#define BITWRIGHT_TESTS_GPU_GPU_BENCH_H_

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/quant/hessian_cuda.h"

namespace bitwright::gpu_bench {

inline double Now() {
  return std::chrono::duration<double>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// ---- device.cc ----

// Seconds, the median of several runs after a warm-up, on random data.
absl::StatusOr<double> SgemmSeconds(int64_t m, int64_t n, int64_t k);
absl::StatusOr<double> BfloatGemmSeconds(int64_t m, int64_t n, int64_t k);
// Bytes read and written per second by a large copy within the device.
absl::StatusOr<double> CopyRate();
// "NVIDIA H200, 132 multiprocessors, ..."
absl::StatusOr<std::string> DeviceName();
// One batch of `tokens` random tokens into a Hessian of `columns`.
absl::StatusOr<double> HessianSeconds(int64_t columns, int64_t tokens,
                                      quant::CudaHessianMode mode);

// ---- bench_layers.cc ----

// BAQ exact at 2.5 bits as quantizer.cc does it, by its phases.
struct LayerSeconds {
  double factor = 0;      // with the copies of H and of the weight
  double grid = 0;        // on the host
  double pass = 0;        // one
  double distortion = 0;  // one measurement, 26 level counts
  double allocate = 0;    // one, on the host
  double refine = 0;      // one sweep
  double codes = 0;       // copied back
  double baq = 0;         // all that BAQ does, the factor included
};
struct BenchLayer {
  const float* weight = nullptr;  // [rows, columns]
  int64_t rows = 0, columns = 0;
  const std::vector<float>* hessian = nullptr;  // packed, 2/sequences applied
};
// `weights_out` receives what the codes stand for, unless it is null.
absl::StatusOr<LayerSeconds> TimeLayer(const BenchLayer& layer,
                                       std::vector<float>* weights_out);

absl::Status BenchLayers(std::FILE* out);

// ---- bench_block.cc ----

absl::Status BenchBlock(int64_t sequences, std::FILE* out);

}  // namespace bitwright::gpu_bench

#endif  // BITWRIGHT_TESTS_GPU_GPU_BENCH_H_
