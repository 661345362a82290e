// The inner loops of this folder, over contiguous runs of rows. Private to it,
// but for FakeQuantizeRun.
//
// Each loop has one body, compiled for the baseline, for AVX2 and for AVX-512,
// and chosen at run time. The source spells out every operation and its order,
// and contraction to fused multiply-add is off, so all give the same bits. What
// a loop writes may not overlap anything else that it is given.
#ifndef BITWRIGHT_WORKER_QUANT_KERNELS_H_
#define BITWRIGHT_WORKER_QUANT_KERNELS_H_

#include <array>
#include <cstdint>

namespace bitwright::quant {

// One grid per row: what a run of rows is rounded to. `top` is levels − 1; rows
// of one level have scale 0 and round to 0.
struct GridRun {
  const float* scale = nullptr;
  const float* zero = nullptr;
  const float* top = nullptr;
};

// scale and zero of the ranges [min[i], max[i]] cut into top[i] + 1 levels, as
// MakeGridPoint of grid.h has them.
void MakeGridRun(const float* min, const float* max, const float* top,
                 int64_t n, float* scale, float* zero);

// What RoundRun leaves of a run.
struct RunSums {
  double rounding = 0;  // Σ (w + t − ŵ)²
  double error = 0;     // Σ (w − ŵ)²
};

// Rounds w[i] + t[i] to ŵ[i] on its grid: codes[i] and rounding[i] = w[i] +
// t[i] − ŵ[i]; t[i] becomes w[i] − ŵ[i].
RunSums RoundRun(const GridRun& grid, int64_t n, const float* w, float* t,
                 float* rounding, uint8_t* codes);
RunSums RoundRun(const GridRun& grid, int64_t n, const float* w, double* t,
                 double* rounding, uint8_t* codes);

// e[i] = w[i] − ŵ[i], with ŵ decoded from codes[i].
void ErrorRun(const GridRun& grid, int64_t n, const float* w,
              const uint8_t* codes, float* e);
void ErrorRun(const GridRun& grid, int64_t n, const float* w,
              const uint8_t* codes, double* e);

// Rounds ŵ[i] + slope[i]·inverse, with ŵ decoded from codes[i], on its grid:
// codes[i] becomes its code there, slope[i] becomes ŵ[i] before − ŵ[i] now, by
// which w − ŵ has grown.
void RevisitRun(const GridRun& grid, int64_t n, float inverse, float* slope,
                uint8_t* codes);
void RevisitRun(const GridRun& grid, int64_t n, double inverse, double* slope,
                uint8_t* codes);

// x[i] *= factor.
void ScaleRun(float factor, int64_t n, float* x);
void ScaleRun(double factor, int64_t n, double* x);

// t[i] += Σ_j r[j] · e[j·stride + i], j = 0..count−1 in this order.
void AccumulateRun(const float* e, int64_t stride, const float* r,
                   int64_t count, int64_t n, float* t);
void AccumulateRun(const double* e, int64_t stride, const double* r,
                   int64_t count, int64_t n, double* t);

// A grid as steps away from 0, by row: inverse = 1/scale, and the first and
// last step −zero and levels − 1 − zero.
struct StepRun {
  const float* scale;
  const float* inverse;
  const float* low;
  const float* high;
};

// Σ (t − Q(t))² of kDistortionColumns columns on one grid, which is loaded once
// for all of them; where there are fewer, one is repeated. Multiplies by the
// inverse where RoundRun divides: for measuring, not for coding.
inline constexpr int kDistortionColumns = 4;
using DistortionSums = std::array<double, kDistortionColumns>;
DistortionSums DistortionRun(
    const std::array<const float*, kDistortionColumns>& t, const StepRun& grid,
    int64_t n);

// out[i] = 1 / x[i].
void InverseRun(const float* x, int64_t n, float* out);

// min(0, x...), max(0, x...), and whether all are finite (if not, the other two
// mean nothing).
struct Extent {
  float min = 0, max = 0;
  bool finite = true;
};
Extent ExtentRun(const float* x, int64_t n);

// Rounds w[i] to the grid scale · (q − zero), q in 0..top: weight[i], and
// slope[i], its derivative by the scale, with the rounding passed straight
// through, a clamped code not at all, and one at 0 or top by the share `edge`.
struct LearnedGrid {
  float scale = 0, zero = 0, top = 0, edge = 0;
};
void FakeQuantizeRun(const float* w, const LearnedGrid& grid, int64_t n,
                     float* weight, float* slope);

// Index of the first value that is NaN or infinite, or -1.
int64_t FirstNonFinite(const float* x, int64_t n);

// Σ t².
double SquareRun(const float* t, int64_t n);
double SquareRun(const double* t, int64_t n);

// The instruction sets that the loops are compiled for.
enum class Simd { kPortable, kAvx2, kAvx512 };

// The best one of this machine, or what LimitSimd left of it.
Simd ActiveSimd();
// Uses nothing above `limit` from now on: for tests and comparisons. Not while
// a loop runs.
void LimitSimd(Simd limit);

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_KERNELS_H_
