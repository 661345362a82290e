// Between the row-by-row layout of a checkpoint and the device's own.
#include "worker/quant/kernels_cuda.h"

namespace bitwright::quant {
namespace {

constexpr int kTile = 32;
constexpr int kTileRows = 8;  // threads of a block in y

// Tiles of kTile rows (grid.x) by kTile positions (grid.y, strided).
__global__ void GatherWeightKernel(const float* raw, const int32_t* order,
                                   const uint8_t* dead, int64_t rows,
                                   int64_t columns, int64_t stride,
                                   float* out) {
  __shared__ float tile[kTile][kTile + 1];
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * kTile;
  for (int64_t p0 = static_cast<int64_t>(blockIdx.y) * kTile; p0 < columns;
       p0 += static_cast<int64_t>(gridDim.y) * kTile) {
    const int64_t p = p0 + threadIdx.x;
    const int32_t column = p < columns ? order[p] : 0;
    const bool live = p < columns && dead[column] == 0;
    for (int y = threadIdx.y; y < kTile; y += kTileRows) {
      const int64_t row = row0 + y;
      tile[y][threadIdx.x] =
          live && row < rows ? raw[row * columns + column] : 0.0f;
    }
    __syncthreads();
    for (int y = threadIdx.y; y < kTile; y += kTileRows) {
      if (p0 + y < columns) {
        out[(p0 + y) * stride + row0 + threadIdx.x] = tile[threadIdx.x][y];
      }
    }
    __syncthreads();
  }
}

__global__ void ScatterCodesKernel(const uint8_t* codes, const int32_t* order,
                                   int64_t rows, int64_t columns,
                                   int64_t stride, uint8_t* out) {
  __shared__ uint8_t tile[kTile][kTile + 4];
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * kTile;
  for (int64_t p0 = static_cast<int64_t>(blockIdx.y) * kTile; p0 < columns;
       p0 += static_cast<int64_t>(gridDim.y) * kTile) {
    for (int y = threadIdx.y; y < kTile; y += kTileRows) {
      if (p0 + y < columns) {
        tile[y][threadIdx.x] = codes[(p0 + y) * stride + row0 + threadIdx.x];
      }
    }
    __syncthreads();
    const int64_t p = p0 + threadIdx.x;
    if (p < columns) {
      const int32_t column = order[p];
      for (int y = threadIdx.y; y < kTile; y += kTileRows) {
        const int64_t row = row0 + y;
        if (row < rows) out[row * columns + column] = tile[threadIdx.x][y];
      }
    }
    __syncthreads();
  }
}

dim3 TileGrid(int64_t columns, int64_t stride) {
  const int64_t across = DivideUp(columns, kTile);
  return dim3(static_cast<unsigned>(stride / kTile),
              static_cast<unsigned>(across < 65535 ? across : 65535));
}

}  // namespace

static_assert(kRowTile == kTile);

CudaStatus GatherWeight(const float* raw, const int32_t* order,
                        const uint8_t* dead, int64_t rows, int64_t columns,
                        int64_t stride, float* out, cudaStream_t stream) {
  GatherWeightKernel<<<TileGrid(columns, stride), dim3(kTile, kTileRows), 0,
                       stream>>>(raw, order, dead, rows, columns, stride, out);
  BW_CUDA_LAUNCHED("GatherWeight");
  return {};
}

CudaStatus ScatterCodes(const uint8_t* codes, const int32_t* order,
                        int64_t rows, int64_t columns, int64_t stride,
                        uint8_t* out, cudaStream_t stream) {
  ScatterCodesKernel<<<TileGrid(columns, stride), dim3(kTile, kTileRows), 0,
                       stream>>>(codes, order, rows, columns, stride, out);
  BW_CUDA_LAUNCHED("ScatterCodes");
  return {};
}

}  // namespace bitwright::quant
