// LayerEngine on a CUDA device (layer_engine.h has an example of its use).
//
//   BW_ASSIGN_OR_RETURN(std::unique_ptr<LayerEngine> engine,
//                       MakeCudaEngine({w, R, C}));
//
// Factor in float64, feedback in float32 without TF32, rounding as the file
// format defines it; sums in a fixed order, so that one machine type gives the
// same bytes every time. Against the CPU engine the order of float32 additions
// in the feedback differs, and with it the last bits of what is rounded.
#ifndef BITWRIGHT_WORKER_QUANT_LAYER_ENGINE_CUDA_H_
#define BITWRIGHT_WORKER_QUANT_LAYER_ENGINE_CUDA_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/quant/layer_engine.h"

namespace bitwright::quant {

// OK when MakeCudaEngine can be expected to work. FAILED_PRECONDITION when this
// build has no CUDA module, or the machine no CUDA libraries, driver or device;
// the message says which. Cheap after the first call; thread-safe.
absl::Status CudaDeviceStatus();

// The weight is read in Factorize. Errors of CudaDeviceStatus, and later
// RESOURCE_EXHAUSTED when the device's memory does not do and INTERNAL for
// anything else that CUDA reports (the message names the call). Engines of
// different threads may run at once.
absl::StatusOr<std::unique_ptr<LayerEngine>> MakeCudaEngine(
    const LayerWeight& weight);

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_LAYER_ENGINE_CUDA_H_
