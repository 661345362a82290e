#include "worker/quant/kernels.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

// BITWRIGHT_DISPATCH(Type, Name, (parameters), (arguments)) defines Name to run
// NameBody compiled for the best instruction set of this machine.
#define BITWRIGHT_INLINE [[gnu::always_inline]] inline
#if defined(__x86_64__) && defined(__GNUC__)
#define BITWRIGHT_DISPATCH(Type, Name, parameters, arguments)            \
  [[gnu::target("avx2")]] static Type Name##Avx2 parameters {            \
    return Name##Body arguments;                                         \
  }                                                                      \
  [[gnu::target(                                                         \
      "avx512f,avx512vl,avx512bw,avx512dq,"                              \
      "prefer-vector-width=512")]] static Type Name##Avx512 parameters { \
    return Name##Body arguments;                                         \
  }                                                                      \
  Type Name parameters {                                                 \
    switch (ActiveSimd()) {                                              \
      case Simd::kAvx512:                                                \
        return Name##Avx512 arguments;                                   \
      case Simd::kAvx2:                                                  \
        return Name##Avx2 arguments;                                     \
      case Simd::kPortable:                                              \
        break;                                                           \
    }                                                                    \
    return Name##Body arguments;                                         \
  }
#else
#define BITWRIGHT_DISPATCH(Type, Name, parameters, arguments) \
  Type Name parameters { return Name##Body arguments; }
#endif

namespace bitwright::quant {
namespace {

Simd BestSimd() {
#if defined(__x86_64__) && defined(__GNUC__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq")) {
    return Simd::kAvx512;
  }
  if (__builtin_cpu_supports("avx2")) return Simd::kAvx2;
#endif
  return Simd::kPortable;
}

std::atomic<Simd> active_simd{BestSimd()};

// Running sums in this many lanes, so that the order of additions is the same
// with any vector width.
constexpr int kLanes = 16;

template <typename Real>
BITWRIGHT_INLINE double Total(const Real* lane) {
  double total = 0;
  for (int l = 0; l < kLanes; ++l) total += static_cast<double>(lane[l]);
  return total;
}

// Float32 sums of squares outside of this are taken again in float64: squares
// of very small or very large values leave the range of float32.
BITWRIGHT_INLINE bool SumIsSafe(double sum) {
  return sum > 1e-25 && sum < 1e30;
}

template <typename Real>
BITWRIGHT_INLINE double SquareRunBody(const Real* t, int64_t n) {
  double sum[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      sum[l] += static_cast<double>(t[i + l]) * static_cast<double>(t[i + l]);
    }
  }
  for (int l = 0; i < n; ++i, ++l) {
    sum[l] += static_cast<double>(t[i]) * static_cast<double>(t[i]);
  }
  return Total(sum);
}

template <typename Real>
BITWRIGHT_INLINE Real Clamp(Real x, Real low, Real high) {
  const Real y = x > low ? x : low;
  return y < high ? y : high;
}

template <typename Real>
BITWRIGHT_INLINE double SquareSum(const Real* t, int64_t n) {
  Real sum[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) sum[l] += t[i + l] * t[i + l];
  }
  for (int l = 0; i < n; ++i, ++l) sum[l] += t[i] * t[i];
  const double total = Total(sum);
  return SumIsSafe(total) ? total : SquareRunBody(t, n);
}

// ŵ is float32 arithmetic: it is what a reader of the file decodes.
template <typename Code>
BITWRIGHT_INLINE float ValueOf(Code code, float scale, float zero) {
  return scale * (static_cast<float>(code) - zero);
}

// With scale 0 the quotient is infinite or NaN, and both end as code 0 and ŵ =
// 0.
template <typename Real>
BITWRIGHT_INLINE Real CodeOf(Real t, float scale, float zero, float top) {
  return Clamp<Real>(std::rint(t / scale) + zero, Real{0}, top);
}

template <typename Real>
BITWRIGHT_INLINE RunSums RoundRunBody(const GridRun& grid, int64_t n,
                                      const float* w, Real* t, Real* rounding,
                                      uint8_t* codes) {
  const float* scale = grid.scale;
  const float* zero = grid.zero;
  const float* top = grid.top;
#pragma GCC ivdep  // Nothing overlaps.
  for (int64_t i = 0; i < n; ++i) {
    const Real target = w[i] + t[i];
    const Real code = CodeOf(target, scale[i], zero[i], top[i]);
    const float value = ValueOf(code, scale[i], zero[i]);
    codes[i] = static_cast<uint8_t>(static_cast<int32_t>(code));
    rounding[i] = target - value;
    t[i] = static_cast<Real>(w[i]) - value;
  }
  return {SquareSum(rounding, n), SquareSum(t, n)};
}

template <typename Real>
BITWRIGHT_INLINE void ErrorRunBody(const GridRun& grid, int64_t n,
                                   const float* w, const uint8_t* codes,
                                   Real* e) {
  const float* scale = grid.scale;
  const float* zero = grid.zero;
#pragma GCC ivdep  // Nothing overlaps.
  for (int64_t i = 0; i < n; ++i) {
    e[i] = static_cast<Real>(w[i]) - ValueOf(codes[i], scale[i], zero[i]);
  }
}

template <typename Real>
BITWRIGHT_INLINE void RevisitRunBody(const GridRun& grid, int64_t n,
                                     Real inverse, Real* slope,
                                     uint8_t* codes) {
  const float* scale = grid.scale;
  const float* zero = grid.zero;
  const float* top = grid.top;
#pragma GCC ivdep  // Nothing overlaps.
  for (int64_t i = 0; i < n; ++i) {
    const Real before = ValueOf(codes[i], scale[i], zero[i]);
    const Real code =
        CodeOf(before + slope[i] * inverse, scale[i], zero[i], top[i]);
    codes[i] = static_cast<uint8_t>(static_cast<int32_t>(code));
    slope[i] = before - ValueOf(code, scale[i], zero[i]);
  }
}

template <typename Real>
BITWRIGHT_INLINE void ScaleRunBody(Real factor, int64_t n, Real* x) {
  for (int64_t i = 0; i < n; ++i) x[i] *= factor;
}

template <typename Real>
BITWRIGHT_INLINE void AccumulateRunBody(const Real* e, int64_t stride,
                                        const Real* r, int64_t count, int64_t n,
                                        Real* t) {
  constexpr int kWidth = 64;  // rows kept in registers
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    Real sum[kWidth];
    for (int l = 0; l < kWidth; ++l) sum[l] = t[i + l];
    for (int64_t j = 0; j < count; ++j) {
      const Real* column = e + j * stride + i;
      for (int l = 0; l < kWidth; ++l) sum[l] += r[j] * column[l];
    }
    for (int l = 0; l < kWidth; ++l) t[i + l] = sum[l];
  }
  for (; i < n; ++i) {
    Real sum = t[i];
    for (int64_t j = 0; j < count; ++j) sum += r[j] * e[j * stride + i];
    t[i] = sum;
  }
}

BITWRIGHT_INLINE void MakeGridRunBody(const float* min, const float* max,
                                      const float* top, int64_t n, float* scale,
                                      float* zero) {
  for (int64_t i = 0; i < n; ++i) {
    const bool cut = top[i] > 0;
    const float step = (max[i] - min[i]) / (cut ? top[i] : 1.0f);
    const float offset = std::rint(-min[i] / step);
    scale[i] = cut ? step : 0.0f;
    zero[i] = cut ? offset : 0.0f;
  }
}

BITWRIGHT_INLINE Extent ExtentRunBody(const float* x, int64_t n) {
  // Spelled as vectors: GCC does not turn loops of minima into any.
  using Vector = float __attribute__((vector_size(kLanes * sizeof(float))));
  Vector low = {}, high = {}, zero = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    Vector v;
    std::memcpy(&v, x + i, sizeof(v));
    low = v < low ? v : low;
    high = v > high ? v : high;
    zero += v * 0.0f;  // 0 for a finite v, else NaN.
  }
  for (; i < n; ++i) {
    low[0] = std::min(low[0], x[i]);
    high[0] = std::max(high[0], x[i]);
    zero[0] += x[i] * 0.0f;
  }
  Extent extent;
  for (int l = 0; l < kLanes; ++l) {
    extent.min = std::min(extent.min, low[l]);
    extent.max = std::max(extent.max, high[l]);
    extent.finite = extent.finite && zero[l] == 0;
  }
  return extent;
}

BITWRIGHT_INLINE void InverseRunBody(const float* x, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = 1.0f / x[i];
}

BITWRIGHT_INLINE void FakeQuantizeRunBody(const float* w,
                                          const LearnedGrid& grid, int64_t n,
                                          float* weight, float* slope) {
  const LearnedGrid g = grid;
  for (int64_t i = 0; i < n; ++i) {
    const float step = w[i] / g.scale;
    const float code = std::rint(step) + g.zero;
    const float kept = Clamp(code, 0.0f, g.top);
    // 0 for a code at an end, else at least 1; and 0 for one beyond.
    const float within = std::min(kept, g.top - kept) >= 1.0f ? 1.0f : g.edge;
    const float share = code == kept ? within : 0.0f;
    const float away = kept - g.zero;
    weight[i] = away * g.scale;
    slope[i] = away - share * step;
  }
}

using Columns = std::array<const float*, kDistortionColumns>;

template <typename Sum>
BITWRIGHT_INLINE DistortionSums DistortionSum(const Columns& t,
                                              const StepRun& grid, int64_t n) {
  Sum lane[kDistortionColumns][kLanes] = {};
  int64_t i = 0;
  const auto add = [&](int l) [[gnu::always_inline]] {
    for (int c = 0; c < kDistortionColumns; ++c) {
      const float x = t[c][i + l];
      const float step = Clamp(std::rint(x * grid.inverse[i + l]),
                               grid.low[i + l], grid.high[i + l]);
      const Sum e = x - grid.scale[i + l] * step;
      lane[c][l] += e * e;
    }
  };
  for (; i + kLanes <= n; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) add(l);
  }
  for (int l = 0; i + l < n; ++l) add(l);
  DistortionSums sums;
  for (int c = 0; c < kDistortionColumns; ++c) sums[c] = Total(lane[c]);
  return sums;
}

BITWRIGHT_INLINE DistortionSums DistortionRunBody(const Columns& t,
                                                  const StepRun& grid,
                                                  int64_t n) {
  DistortionSums sums = DistortionSum<float>(t, grid, n);
  bool safe = true;
  for (double sum : sums) safe = safe && SumIsSafe(sum);
  if (safe) return sums;
  const DistortionSums wide = DistortionSum<double>(t, grid, n);
  for (int c = 0; c < kDistortionColumns; ++c) {
    if (!SumIsSafe(sums[c])) sums[c] = wide[c];
  }
  return sums;
}

}  // namespace

int64_t FirstNonFinite(const float* x, int64_t n) {
  if (ExtentRun(x, n).finite) return -1;
  return std::find_if(x, x + n, [](float v) { return !std::isfinite(v); }) - x;
}

Simd ActiveSimd() { return active_simd.load(std::memory_order_relaxed); }

void LimitSimd(Simd limit) { active_simd = std::min(limit, BestSimd()); }

BITWRIGHT_DISPATCH(void, MakeGridRun,
                   (const float* min, const float* max, const float* top,
                    int64_t n, float* scale, float* zero),
                   (min, max, top, n, scale, zero))
BITWRIGHT_DISPATCH(void, FakeQuantizeRun,
                   (const float* w, const LearnedGrid& grid, int64_t n,
                    float* weight, float* slope),
                   (w, grid, n, weight, slope))
BITWRIGHT_DISPATCH(RunSums, RoundRun,
                   (const GridRun& grid, int64_t n, const float* w, float* t,
                    float* rounding, uint8_t* codes),
                   (grid, n, w, t, rounding, codes))
BITWRIGHT_DISPATCH(RunSums, RoundRun,
                   (const GridRun& grid, int64_t n, const float* w, double* t,
                    double* rounding, uint8_t* codes),
                   (grid, n, w, t, rounding, codes))
BITWRIGHT_DISPATCH(void, RevisitRun,
                   (const GridRun& grid, int64_t n, float inverse, float* slope,
                    uint8_t* codes),
                   (grid, n, inverse, slope, codes))
BITWRIGHT_DISPATCH(void, ScaleRun, (float factor, int64_t n, float* x),
                   (factor, n, x))
BITWRIGHT_DISPATCH(void, RevisitRun,
                   (const GridRun& grid, int64_t n, double inverse,
                    double* slope, uint8_t* codes),
                   (grid, n, inverse, slope, codes))
BITWRIGHT_DISPATCH(void, ScaleRun, (double factor, int64_t n, double* x),
                   (factor, n, x))
BITWRIGHT_DISPATCH(void, ErrorRun,
                   (const GridRun& grid, int64_t n, const float* w,
                    const uint8_t* codes, float* e),
                   (grid, n, w, codes, e))
BITWRIGHT_DISPATCH(void, ErrorRun,
                   (const GridRun& grid, int64_t n, const float* w,
                    const uint8_t* codes, double* e),
                   (grid, n, w, codes, e))
BITWRIGHT_DISPATCH(void, AccumulateRun,
                   (const float* e, int64_t stride, const float* r,
                    int64_t count, int64_t n, float* t),
                   (e, stride, r, count, n, t))
BITWRIGHT_DISPATCH(void, AccumulateRun,
                   (const double* e, int64_t stride, const double* r,
                    int64_t count, int64_t n, double* t),
                   (e, stride, r, count, n, t))
BITWRIGHT_DISPATCH(DistortionSums, DistortionRun,
                   (const Columns& t, const StepRun& grid, int64_t n),
                   (t, grid, n))
BITWRIGHT_DISPATCH(Extent, ExtentRun, (const float* x, int64_t n), (x, n))
BITWRIGHT_DISPATCH(void, InverseRun, (const float* x, int64_t n, float* out),
                   (x, n, out))
BITWRIGHT_DISPATCH(double, SquareRun, (const float* t, int64_t n), (t, n))
BITWRIGHT_DISPATCH(double, SquareRun, (const double* t, int64_t n), (t, n))

}  // namespace bitwright::quant
