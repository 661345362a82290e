// The kernels of this folder. Included by *_cuda.cu only.
//
// On the device a layer is kept column by column in the factor's order ("by
// position"): [columns, stride] with the rows contiguous. stride is rows
// rounded up to whole tiles of kRowTile; what is beyond `rows` holds zeros,
// which round to zero and add nothing. Every sum has a fixed order and no
// atomics. These functions start their kernels on `stream` and do not wait.
#ifndef BITWRIGHT_WORKER_QUANT_KERNELS_CUDA_H_
#define BITWRIGHT_WORKER_QUANT_KERNELS_CUDA_H_

#include <cstdint>

#include "worker/quant/runtime_cuda.h"

namespace bitwright::quant {

inline constexpr int kRowTile = 32;  // one row per lane of a warp

// Columns of one PassBlock, which is how many go between two updates of the
// columns behind them.
inline constexpr int kPassColumns = 128;
// Rows that one partial sum of Distortion covers, and counts of one launch.
inline constexpr int kDistortionRows = 1024;
inline constexpr int kDistortionCounts = 7;

// ---- Layout (layout_cuda.cu) ----

// out[p, i] = raw[i, order[p]], 0 for dead columns and for i >= rows.
CudaStatus GatherWeight(const float* raw, const int32_t* order,
                        const uint8_t* dead, int64_t rows, int64_t columns,
                        int64_t stride, float* out, cudaStream_t stream);
// out[i, order[p]] = codes[p, i].
CudaStatus ScatterCodes(const uint8_t* codes, const int32_t* order,
                        int64_t rows, int64_t columns, int64_t stride,
                        uint8_t* out, cudaStream_t stream);

// ---- Factor (factor_cuda.cu) ----

struct FlipInput {
  const float* hessian;  // device; packed or full
  bool packed;
  double scale;
  const int32_t* order;
  const uint8_t* dead;
  int64_t columns;
};
// The lower triangle, column-major, of P (H + added·I) P, P reversing `order`;
// dead columns have 1 on the diagonal of H.
CudaStatus FillFlipped(const FlipInput& in, double added, double* out,
                       cudaStream_t stream);
// R_pp by position, from the factor L of FillFlipped's matrix.
CudaStatus FlippedDiagonal(const double* l, int64_t columns, double* diagonal,
                           cudaStream_t stream);
// unit[k, j] = R_jk / R_kk for j < k, 0 elsewhere.
CudaStatus Unflip(const double* l, const double* diagonal, int64_t columns,
                  float* unit, cudaStream_t stream);
// out, [columns, columns] by position: (H + added·I) / mean, both triangles,
// with 1 for H_jj of dead columns; inverse[p] = 1 / out[p, p], 0 for dead
// columns.
CudaStatus DampedHessian(const FlipInput& in, double added, double mean,
                         float* out, float* inverse, cudaStream_t stream);

// ---- Error feedback (gptq_cuda.cu) ----

struct PassBuffers {
  int64_t rows, columns, stride;
  const float* weight;         // [columns, stride]
  const float* unit;           // [columns, columns], or null: no feedback;
                               // RefineBlock: DampedHessian
  const float *min, *max;      // [groups, stride]
  const int32_t* group_of;     // [columns]
  const uint16_t* levels;      // [columns], or null:
  const uint16_t* row_levels;  // [stride]
  float* targets;              // [columns, stride] weights plus the feedback
                               // of the columns before the block, replaced by
                               // what was rounded; RefineBlock: slopes, read
  float* errors;               // [columns, stride] receives w − ŵ;
                               // RefineBlock: reads it, too
  uint8_t* codes;              // [columns, stride]
  // PassBlock: [stride / kRowTile, columns] sums over a tile of rows.
  double *rounding, *error;
  // RefineBlock:
  const float* inverse;  // [columns] 1 / H_kk
  float*
      moved;  // [kPassColumns, stride] by how much the block's errors changed
};
// Positions [start, start + kPassColumns), feedback among them included.
CudaStatus PassBlock(const PassBuffers& in, int64_t start, cudaStream_t stream);
// The same positions in a sweep of refine.h; targets are the slopes (E H)_k.
CudaStatus RefineBlock(const PassBuffers& in, int64_t start,
                       cudaStream_t stream);
// in.errors = weight − what in.codes stand for.
CudaStatus ErrorsOfCodes(const PassBuffers& in, cudaStream_t stream);
// out[p] = Σ_i x[p, i]², x [columns, stride].
CudaStatus SquareColumns(const float* x, int64_t columns, int64_t stride,
                         double* out, cudaStream_t stream);
// out[p] = Σ_t partial[t, p], t = 0..tiles−1 in this order.
CudaStatus SumTiles(const double* partial, int64_t tiles, int64_t columns,
                    double* out, cudaStream_t stream);

// ---- Distortion (distortion_cuda.cu) ----

struct DistortionInput {
  int64_t rows, columns, stride;
  const float* values;      // [columns, stride]
  const float *min, *max;   // [groups, stride]
  const int32_t* group_of;  // [columns]
  const int* counts;        // [n]
  int n;
};
// partial is [DivideUp(rows, kDistortionRows), columns, n].
CudaStatus MeasureDistortion(const DistortionInput& in, double* partial,
                             cudaStream_t stream);

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_KERNELS_CUDA_H_
