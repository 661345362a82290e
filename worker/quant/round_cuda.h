// Rounding on the device as the file format defines it: MakeGridPoint, Encode
// and Decode of grid.h, in float32 with ties to even, true division and no
// fused multiply-add, whatever the compiler's flags. Included by *_cuda.cu
// only.
#ifndef BITWRIGHT_WORKER_QUANT_ROUND_CUDA_H_
#define BITWRIGHT_WORKER_QUANT_ROUND_CUDA_H_

namespace bitwright::quant {

struct DeviceGridPoint {
  float scale, zero;
};

// top = levels − 1 > 0.
__device__ inline DeviceGridPoint MakeDeviceGridPoint(float min, float max,
                                                      float top) {
  const float scale = __fdiv_rn(__fsub_rn(max, min), top);
  return {scale, rintf(__fdiv_rn(-min, scale))};
}

__device__ inline float DeviceClamp(float x, float low, float high) {
  const float y = x > low ? x : low;  // NaN: low, as on the CPU
  return y < high ? y : high;
}

// The code, as a float.
__device__ inline float DeviceEncode(float t, DeviceGridPoint p, float top) {
  return DeviceClamp(__fadd_rn(rintf(__fdiv_rn(t, p.scale)), p.zero), 0.0f,
                     top);
}

__device__ inline float DeviceDecode(float code, DeviceGridPoint p) {
  return __fmul_rn(p.scale, __fsub_rn(code, p.zero));
}

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_ROUND_CUDA_H_
