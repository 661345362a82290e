// Σ (v − Q_L(v))² for every column and many level counts in one launch: how
// math.md §3b measures its curves. DistortionRun of kernels.h on the device, so
// it multiplies by 1/scale where the passes divide.
#include "worker/quant/kernels_cuda.h"
#include "worker/quant/round_cuda.h"

namespace bitwright::quant {
namespace {

constexpr int kWarps = 8;
constexpr int kTile = 32;  // positions of a thread block
constexpr int kRowsPerStep = kWarps * kRowTile;

struct DistortionShared {
  float squares[kWarps][kTile][kRowTile + 1];
  double total[kWarps][kDistortionCounts][kTile];
  int32_t group[kTile];
};

struct CountGrid {
  float scale, inverse, zero, top;
};

__device__ CountGrid GridOf(const DistortionInput& in, int32_t group,
                            int64_t row, int count) {
  const int64_t at = group * in.stride + row;
  const float top = static_cast<float>(count - 1);
  const DeviceGridPoint p = MakeDeviceGridPoint(in.min[at], in.max[at], top);
  return {p.scale, __frcp_rn(p.scale), p.zero, top};
}

__device__ float ErrorOf(float v, const CountGrid& g) {
  const float step =
      DeviceClamp(rintf(__fmul_rn(v, g.inverse)), -g.zero, g.top - g.zero);
  return __fsub_rn(v, __fmul_rn(g.scale, step));
}

// One lane's row against one count: squares[c][lane] for the tile's columns.
__device__ void SquareErrors(const DistortionInput& in, int64_t first,
                             int width, int64_t row, int count,
                             const int32_t* group,
                             float (*squares)[kRowTile + 1], int lane) {
  int32_t current = -1;
  CountGrid grid{};
#pragma unroll 4
  for (int c = 0; c < width; ++c) {
    const float v = in.values[(first + c) * in.stride + row];
    float error = v;
    if (count > 1) {
      if (group[c] != current) {
        current = group[c];
        grid = GridOf(in, current, row, count);
      }
      error = ErrorOf(v, grid);
    }
    squares[c][lane] = error * error;
  }
}

// grid: tiles of positions, pieces of kDistortionRows rows, batches of counts.
__global__ void __launch_bounds__(kWarps* kRowTile)
    DistortionKernel(DistortionInput in, double* partial) {
  __shared__ DistortionShared s;
  const int lane = threadIdx.x % kRowTile, warp = threadIdx.x / kRowTile;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kTile;
  const int width =
      static_cast<int>(in.columns - first < kTile ? in.columns - first : kTile);
  const int64_t row0 = static_cast<int64_t>(blockIdx.y) * kDistortionRows;
  const int count0 = blockIdx.z * kDistortionCounts;
  const int counts =
      in.n - count0 < kDistortionCounts ? in.n - count0 : kDistortionCounts;
  if (threadIdx.x < width)
    s.group[threadIdx.x] = in.group_of[first + threadIdx.x];
  for (int l = 0; l < kDistortionCounts; ++l) s.total[warp][l][lane] = 0;
  __syncthreads();
  for (int step = 0; step < kDistortionRows; step += kRowsPerStep) {
    const int64_t tile_row = row0 + step + warp * kRowTile;
    if (tile_row >= in.stride) break;  // The whole warp.
#pragma unroll 1
    for (int l = 0; l < counts; ++l) {
      SquareErrors(in, first, width, tile_row + lane, in.counts[count0 + l],
                   s.group, s.squares[warp], lane);
      __syncwarp();
      if (lane < width) {
        float sum = 0;
#pragma unroll
        for (int i = 0; i < kRowTile; ++i) sum += s.squares[warp][lane][i];
        s.total[warp][l][lane] += static_cast<double>(sum);
      }
      __syncwarp();
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < counts * width; i += kWarps * kRowTile) {
    const int c = i / counts, l = i % counts;
    double sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += s.total[w][l][c];
    partial[(blockIdx.y * in.columns + first + c) * in.n + count0 + l] = sum;
  }
}

}  // namespace

CudaStatus MeasureDistortion(const DistortionInput& in, double* partial,
                             cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(DivideUp(in.columns, kTile)),
                  static_cast<unsigned>(DivideUp(in.rows, kDistortionRows)),
                  static_cast<unsigned>(DivideUp(in.n, kDistortionCounts)));
  DistortionKernel<<<grid, kWarps * kRowTile, 0, stream>>>(in, partial);
  BW_CUDA_LAUNCHED("MeasureDistortion");
  return {};
}

}  // namespace bitwright::quant
