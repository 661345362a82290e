// The inner loops of this folder, over contiguous runs of rows. Private to it.
//
// Each has one body, compiled for the baseline and for AVX2 and chosen at run
// time. The source spells out every operation and its order, and contraction to
// fused multiply-add is off, so both give the same bits.
#ifndef BITWRIGHT_WORKER_QUANT_KERNELS_H_
#define BITWRIGHT_WORKER_QUANT_KERNELS_H_

#include <cstdint>

namespace bitwright::quant {

// Rounds t[i] to ŵ[i] on the grid of `levels` levels over [min[i], max[i]]
// (grid.h): codes[i]; t[i] becomes t[i] − ŵ[i] and w[i] becomes w[i] − ŵ[i].
void RoundRun(const float* min, const float* max, int levels, int64_t n,
              float* t, float* w, uint8_t* codes);

// t[i] += Σ_j r[j] · e[j·stride + i], j = 0..count−1 in this order.
void AccumulateRun(const float* e, int64_t stride, const float* r,
                   int64_t count, int64_t n, float* t);

// Per row: scale, 1/scale and zero of `levels` >= 2 levels.
void GridRun(const float* min, const float* max, int levels, int64_t n,
             float* scale, float* inverse, float* zero);

// Σ (t − Q(t))² with the output of GridRun. Multiplies by 1/scale where
// RoundRun divides: for measuring, not for coding.
double DistortionRun(const float* t, const float* scale, const float* inverse,
                     const float* zero, int levels, int64_t n);

// Σ t².
double SquareRun(const float* t, int64_t n);
// Σ a·b.
double DotRun(const float* a, const float* b, int64_t n);

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_KERNELS_H_
