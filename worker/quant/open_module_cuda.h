// Opens the module of module_cuda.h. Private to this folder.
#ifndef BITWRIGHT_WORKER_QUANT_OPEN_MODULE_CUDA_H_
#define BITWRIGHT_WORKER_QUANT_OPEN_MODULE_CUDA_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/quant/module_cuda.h"

namespace bitwright::quant {

// The module, opened once per process. FAILED_PRECONDITION when it, or a
// library that it needs, is not there. Thread-safe.
absl::StatusOr<const CudaModule*> OpenCudaModule();

// FAILED_PRECONDITION, RESOURCE_EXHAUSTED or INTERNAL, by kind.
absl::Status ToStatus(const CudaStatus& status);

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_OPEN_MODULE_CUDA_H_
