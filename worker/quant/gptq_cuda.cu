// One block of columns of error feedback (math.md §2) or of a sweep of
// refine.h, all in one kernel: a thread block takes a tile of kRowTile rows,
// one row per lane.
//
// Columns go in strips of kStrip. All warps bring the feedback of the block's
// earlier strips into the strip's values and make its grids; then one warp
// takes the strip column by column with its rows' values in registers, which is
// the only part that is sequential; then all warps sum what it left.
//
// Both kinds carry something from column to column, weighted by a lower
// triangle: feedback the errors, by the factor, into the values to be rounded;
// a sweep the changes of the errors, by H, into the slopes.
#include "worker/quant/kernels_cuda.h"
#include "worker/quant/round_cuda.h"

namespace bitwright::quant {
namespace {

constexpr int kWarps = 8;
constexpr int kStrip = 32;
constexpr int kPerWarp = kStrip / kWarps;
// Rows of the factor in shared memory: 16-byte aligned, and off the banks.
constexpr int kPitch = kPassColumns + 4;

struct PassShared {
  float unit[kPassColumns][kPitch];       // [column, earlier column]
  float carried[kPassColumns][kRowTile];  // w − ŵ, or what it changed by
  float targets[kStrip][kRowTile];        // t or slope, then t − ŵ
  float scale[kStrip][kRowTile];
  float zero[kStrip][kRowTile];
  float weight[kStrip][kRowTile];  // w
  float before[kStrip][kRowTile];  // w − ŵ before the sweep
  float top[kStrip];
  float inverse[kStrip];  // 1 / H_kk
};

struct Tile {
  int64_t start;  // first position of the block
  int width;      // positions in it
  int64_t row;    // of this lane
  int lane, warp;
};

__device__ float TopOf(const PassBuffers& in, int64_t position, int64_t row) {
  return static_cast<float>(
      (in.levels != nullptr ? in.levels[position] : in.row_levels[row]) - 1);
}

// The block's part of the triangle.
__device__ void LoadBlock(const PassBuffers& in, const Tile& tile,
                          PassShared& s) {
  const int threads = kWarps * kRowTile;
  const int thread = tile.warp * kRowTile + tile.lane;
  for (int i = thread; i < kPassColumns * kPassColumns; i += threads) {
    const int k = i / kPassColumns, j = i % kPassColumns;
    s.unit[k][j] = in.unit != nullptr && j < k && k < tile.width
                       ? in.unit[(tile.start + k) * in.columns + tile.start + j]
                       : 0.0f;
  }
}

// The values of the strip's columns with what the block's earlier strips carry
// into them; each warp takes kPerWarp columns.
__device__ void CarryIntoStrip(const PassBuffers& in, const Tile& tile,
                               int strip, PassShared& s) {
  const int first = tile.warp * kPerWarp;  // in the strip
  float sum[kPerWarp];
#pragma unroll
  for (int q = 0; q < kPerWarp; ++q) {
    const int k = strip + first + q;
    sum[q] = k < tile.width
                 ? in.targets[(tile.start + k) * in.stride + tile.row]
                 : 0.0f;
  }
  for (int j = 0; j < strip; j += 4) {
    const float e0 = s.carried[j][tile.lane];
    const float e1 = s.carried[j + 1][tile.lane];
    const float e2 = s.carried[j + 2][tile.lane];
    const float e3 = s.carried[j + 3][tile.lane];
#pragma unroll
    for (int q = 0; q < kPerWarp; ++q) {
      const float4 r =
          *reinterpret_cast<const float4*>(&s.unit[strip + first + q][j]);
      sum[q] = fmaf(e0, r.x, sum[q]);
      sum[q] = fmaf(e1, r.y, sum[q]);
      sum[q] = fmaf(e2, r.z, sum[q]);
      sum[q] = fmaf(e3, r.w, sum[q]);
    }
  }
#pragma unroll
  for (int q = 0; q < kPerWarp; ++q) s.targets[first + q][tile.lane] = sum[q];
}

// All else that RoundStrip reads.
template <bool kRefine>
__device__ void PrepareStrip(const PassBuffers& in, const Tile& tile, int strip,
                             PassShared& s) {
  CarryIntoStrip(in, tile, strip, s);
#pragma unroll
  for (int q = 0; q < kPerWarp; ++q) {
    const int i = tile.warp * kPerWarp + q;  // in the strip
    const bool inside = strip + i < tile.width;
    const int64_t position = tile.start + strip + i;
    const int64_t at = position * in.stride + tile.row;
    float top = 0;
    DeviceGridPoint point{0.0f, 0.0f};
    if (inside) {
      top = TopOf(in, position, tile.row);
      if (top > 0) {
        const int64_t range = in.group_of[position] * in.stride + tile.row;
        point = MakeDeviceGridPoint(in.min[range], in.max[range], top);
      }
    }
    s.scale[i][tile.lane] = point.scale;
    s.zero[i][tile.lane] = point.zero;
    s.weight[i][tile.lane] = inside ? in.weight[at] : 0.0f;
    if (kRefine) s.before[i][tile.lane] = inside ? in.errors[at] : 0.0f;
    if (tile.lane == 0) {
      s.top[i] = top;
      if (kRefine) s.inverse[i] = inside ? in.inverse[position] : 0.0f;
    }
  }
}

// Rounds the strip column by column: one warp.
template <bool kRefine>
__device__ void RoundStrip(const PassBuffers& in, const Tile& tile, int strip,
                           PassShared& s) {
  const float row_top = in.levels != nullptr
                            ? 0.0f
                            : static_cast<float>(in.row_levels[tile.row] - 1);
  float t[kStrip];
#pragma unroll
  for (int i = 0; i < kStrip; ++i) t[i] = s.targets[i][tile.lane];
#pragma unroll
  for (int i = 0; i < kStrip; ++i) {
    const int k = strip + i;
    const float weight = s.weight[i][tile.lane];
    const float before = kRefine ? s.before[i][tile.lane] : 0.0f;
    const float value =
        kRefine ? fmaf(t[i], s.inverse[i], __fsub_rn(weight, before)) : t[i];
    const float top = in.levels != nullptr ? s.top[i] : row_top;
    float code = 0, rounded = 0;
    if (top > 0) {
      const DeviceGridPoint point{s.scale[i][tile.lane], s.zero[i][tile.lane]};
      code = DeviceEncode(value, point, top);
      rounded = DeviceDecode(code, point);
    }
    const float error = __fsub_rn(weight, rounded);
    const float carried = kRefine ? __fsub_rn(error, before) : error;
    s.carried[k][tile.lane] = carried;
    s.targets[i][tile.lane] = __fsub_rn(value, rounded);
    if (k < tile.width) {
      const int64_t at = (tile.start + k) * in.stride + tile.row;
      in.errors[at] = error;
      in.codes[at] = static_cast<uint8_t>(static_cast<int>(code));
      if (kRefine) {
        in.moved[k * in.stride + tile.row] = carried;
      } else {
        in.targets[at] = value;
      }
    }
#pragma unroll
    for (int j = i + 1; j < kStrip; ++j) {
      t[j] = fmaf(carried, s.unit[strip + j][k], t[j]);
    }
  }
}

// Σ over the lanes of x², the same in every lane.
__device__ double SumSquares(float x) {
  double sum = static_cast<double>(x) * static_cast<double>(x);
#pragma unroll
  for (int offset = kRowTile / 2; offset > 0; offset /= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  }
  return sum;
}

__device__ void SumStrip(const PassBuffers& in, const Tile& tile, int strip,
                         const PassShared& s) {
#pragma unroll
  for (int q = 0; q < kPerWarp; ++q) {
    const int i = tile.warp * kPerWarp + q;
    const double rounding = SumSquares(s.targets[i][tile.lane]);
    const double error = SumSquares(s.carried[strip + i][tile.lane]);
    if (tile.lane == 0 && strip + i < tile.width) {
      const int64_t at = static_cast<int64_t>(blockIdx.x) * in.columns +
                         tile.start + strip + i;
      in.rounding[at] = rounding;
      in.error[at] = error;
    }
  }
}

template <bool kRefine>
__global__ void __launch_bounds__(kWarps* kRowTile)
    BlockKernel(PassBuffers in, int64_t start) {
  extern __shared__ __align__(16) unsigned char memory[];
  PassShared& s = *reinterpret_cast<PassShared*>(memory);
  Tile tile;
  tile.start = start;
  tile.width = static_cast<int>(
      in.columns - start < kPassColumns ? in.columns - start : kPassColumns);
  tile.lane = threadIdx.x % kRowTile;
  tile.warp = threadIdx.x / kRowTile;
  tile.row = static_cast<int64_t>(blockIdx.x) * kRowTile + tile.lane;
  LoadBlock(in, tile, s);
  __syncthreads();
#pragma unroll 1
  for (int strip = 0; strip < tile.width; strip += kStrip) {
    PrepareStrip<kRefine>(in, tile, strip, s);
    __syncthreads();
    if (tile.warp == 0) RoundStrip<kRefine>(in, tile, strip, s);
    __syncthreads();
    if (!kRefine) {
      SumStrip(in, tile, strip, s);
      __syncthreads();
    }
  }
}

template <bool kRefine>
CudaStatus LaunchBlock(const PassBuffers& in, int64_t start,
                       cudaStream_t stream) {
  BW_CUDA(cudaFuncSetAttribute(BlockKernel<kRefine>,
                               cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(sizeof(PassShared))));
  const auto tiles = static_cast<unsigned>(in.stride / kRowTile);
  BlockKernel<kRefine>
      <<<tiles, kWarps * kRowTile, sizeof(PassShared), stream>>>(in, start);
  BW_CUDA_LAUNCHED("BlockKernel");
  return {};
}

constexpr int kSumThreads = 128;

__global__ void SumTilesKernel(const double* partial, int64_t tiles,
                               int64_t columns, double* out) {
  const int64_t p =
      static_cast<int64_t>(blockIdx.x) * kSumThreads + threadIdx.x;
  if (p >= columns) return;
  double sum = 0;
#pragma unroll 8
  for (int64_t t = 0; t < tiles; ++t) sum += partial[t * columns + p];
  out[p] = sum;
}

constexpr int kSquareThreads = 256;

// One column per thread block.
__global__ void SquareColumnsKernel(const float* x, int64_t stride,
                                    double* out) {
  __shared__ double sums[kSquareThreads];
  const float* column = x + static_cast<int64_t>(blockIdx.x) * stride;
  double sum = 0;
  for (int64_t i = threadIdx.x; i < stride; i += kSquareThreads) {
    sum += static_cast<double>(column[i]) * static_cast<double>(column[i]);
  }
  sums[threadIdx.x] = sum;
  for (int half = kSquareThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x == 0) out[blockIdx.x] = sums[0];
}

// grid: tiles of rows, positions (strided).
__global__ void ErrorsKernel(PassBuffers in) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRowTile + threadIdx.x;
  for (int64_t p = blockIdx.y; p < in.columns; p += gridDim.y) {
    const int64_t at = p * in.stride + row;
    const float top = TopOf(in, p, row);
    float rounded = 0;
    if (top > 0) {
      const int64_t range = in.group_of[p] * in.stride + row;
      rounded =
          DeviceDecode(static_cast<float>(in.codes[at]),
                       MakeDeviceGridPoint(in.min[range], in.max[range], top));
    }
    in.errors[at] = __fsub_rn(in.weight[at], rounded);
  }
}

}  // namespace

CudaStatus PassBlock(const PassBuffers& in, int64_t start,
                     cudaStream_t stream) {
  return LaunchBlock<false>(in, start, stream);
}

CudaStatus RefineBlock(const PassBuffers& in, int64_t start,
                       cudaStream_t stream) {
  return LaunchBlock<true>(in, start, stream);
}

CudaStatus SumTiles(const double* partial, int64_t tiles, int64_t columns,
                    double* out, cudaStream_t stream) {
  SumTilesKernel<<<static_cast<unsigned>(DivideUp(columns, kSumThreads)),
                   kSumThreads, 0, stream>>>(partial, tiles, columns, out);
  BW_CUDA_LAUNCHED("SumTiles");
  return {};
}

CudaStatus SquareColumns(const float* x, int64_t columns, int64_t stride,
                         double* out, cudaStream_t stream) {
  SquareColumnsKernel<<<static_cast<unsigned>(columns), kSquareThreads, 0,
                        stream>>>(x, stride, out);
  BW_CUDA_LAUNCHED("SquareColumns");
  return {};
}

CudaStatus ErrorsOfCodes(const PassBuffers& in, cudaStream_t stream) {
  const dim3 grid(
      static_cast<unsigned>(in.stride / kRowTile),
      static_cast<unsigned>(in.columns < 65535 ? in.columns : 65535));
  ErrorsKernel<<<grid, kRowTile, 0, stream>>>(in);
  BW_CUDA_LAUNCHED("ErrorsOfCodes");
  return {};
}

}  // namespace bitwright::quant
