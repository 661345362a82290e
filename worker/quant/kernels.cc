#include "worker/quant/kernels.h"

#include <algorithm>
#include <cmath>

// BITWRIGHT_DISPATCH(Type, Name, (parameters), (arguments)) defines Name to run
// NameBody compiled for the best instruction set of this machine.
#define BITWRIGHT_INLINE [[gnu::always_inline]] inline
#if defined(__x86_64__) && defined(__GNUC__)
#define BITWRIGHT_DISPATCH(Type, Name, parameters, arguments)  \
  [[gnu::target("avx2")]] static Type Name##Avx2 parameters {  \
    return Name##Body arguments;                               \
  }                                                            \
  Type Name parameters {                                       \
    static const bool avx2 = __builtin_cpu_supports("avx2");   \
    return avx2 ? Name##Avx2 arguments : Name##Body arguments; \
  }
#else
#define BITWRIGHT_DISPATCH(Type, Name, parameters, arguments) \
  Type Name parameters { return Name##Body arguments; }
#endif

namespace bitwright::quant {
namespace {

constexpr int kLanes = 8;

// Eight running sums, so that the order of additions is the same with any
// vector width.
struct Lanes {
  double lane[kLanes] = {};

  BITWRIGHT_INLINE double Total() const {
    return ((lane[0] + lane[1]) + (lane[2] + lane[3])) +
           ((lane[4] + lane[5]) + (lane[6] + lane[7]));
  }
};

BITWRIGHT_INLINE double DotRunBody(const float* a, const float* b, int64_t n) {
  Lanes sum;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      sum.lane[l] +=
          static_cast<double>(a[i + l]) * static_cast<double>(b[i + l]);
    }
  }
  for (int l = 0; i < n; ++i, ++l) {
    sum.lane[l] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  }
  return sum.Total();
}

BITWRIGHT_INLINE double SquareRunBody(const float* t, int64_t n) {
  return DotRunBody(t, t, n);
}

BITWRIGHT_INLINE float Clamp(float x, float low, float high) {
  const float y = x > low ? x : low;
  return y < high ? y : high;
}

BITWRIGHT_INLINE void RoundRunBody(const float* min, const float* max,
                                   int levels, int64_t n, float* t, float* w,
                                   uint8_t* codes) {
  if (levels <= 1) {  // ŵ = 0
    std::fill_n(codes, n, uint8_t{0});
    return;
  }
  const float top = static_cast<float>(levels - 1);
  for (int64_t i = 0; i < n; ++i) {
    const float scale = (max[i] - min[i]) / top;
    const float zero = std::rint(-min[i] / scale);
    const float code = Clamp(std::rint(t[i] / scale) + zero, 0.0f, top);
    const float rounded = scale * (code - zero);
    t[i] -= rounded;
    w[i] -= rounded;
    codes[i] = static_cast<uint8_t>(static_cast<int32_t>(code));
  }
}

BITWRIGHT_INLINE void AccumulateRunBody(const float* e, int64_t stride,
                                        const float* r, int64_t count,
                                        int64_t n, float* t) {
  constexpr int kWidth = 32;  // rows kept in registers
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    float sum[kWidth];
    for (int l = 0; l < kWidth; ++l) sum[l] = t[i + l];
    for (int64_t j = 0; j < count; ++j) {
      const float* column = e + j * stride + i;
      for (int l = 0; l < kWidth; ++l) sum[l] += r[j] * column[l];
    }
    for (int l = 0; l < kWidth; ++l) t[i + l] = sum[l];
  }
  for (; i < n; ++i) {
    float sum = t[i];
    for (int64_t j = 0; j < count; ++j) sum += r[j] * e[j * stride + i];
    t[i] = sum;
  }
}

BITWRIGHT_INLINE void GridRunBody(const float* min, const float* max,
                                  int levels, int64_t n, float* scale,
                                  float* inverse, float* zero) {
  const float top = static_cast<float>(levels - 1);
  for (int64_t i = 0; i < n; ++i) {
    scale[i] = (max[i] - min[i]) / top;
    zero[i] = std::rint(-min[i] / scale[i]);
    inverse[i] = 1.0f / scale[i];
  }
}

BITWRIGHT_INLINE double DistortionRunBody(const float* t, const float* scale,
                                          const float* inverse,
                                          const float* zero, int levels,
                                          int64_t n) {
  constexpr int kWidth = 16;
  const float top = static_cast<float>(levels - 1);
  float sum[kWidth] = {};
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    for (int l = 0; l < kWidth; ++l) {
      const int64_t k = i + l;
      const float step =
          Clamp(std::rint(t[k] * inverse[k]), -zero[k], top - zero[k]);
      const float error = t[k] - scale[k] * step;
      sum[l] += error * error;
    }
  }
  double total = 0;
  for (int l = 0; l < kWidth; ++l) total += static_cast<double>(sum[l]);
  for (; i < n; ++i) {
    const float step =
        Clamp(std::rint(t[i] * inverse[i]), -zero[i], top - zero[i]);
    const float error = t[i] - scale[i] * step;
    total += static_cast<double>(error * error);
  }
  return total;
}

}  // namespace

BITWRIGHT_DISPATCH(void, RoundRun,
                   (const float* min, const float* max, int levels, int64_t n,
                    float* t, float* w, uint8_t* codes),
                   (min, max, levels, n, t, w, codes))
BITWRIGHT_DISPATCH(void, AccumulateRun,
                   (const float* e, int64_t stride, const float* r,
                    int64_t count, int64_t n, float* t),
                   (e, stride, r, count, n, t))
BITWRIGHT_DISPATCH(void, GridRun,
                   (const float* min, const float* max, int levels, int64_t n,
                    float* scale, float* inverse, float* zero),
                   (min, max, levels, n, scale, inverse, zero))
BITWRIGHT_DISPATCH(double, DistortionRun,
                   (const float* t, const float* scale, const float* inverse,
                    const float* zero, int levels, int64_t n),
                   (t, scale, inverse, zero, levels, n))
BITWRIGHT_DISPATCH(double, SquareRun, (const float* t, int64_t n), (t, n))
BITWRIGHT_DISPATCH(double, DotRun, (const float* a, const float* b, int64_t n),
                   (a, b, n))

}  // namespace bitwright::quant
