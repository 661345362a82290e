#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include "worker/quant/runtime_cuda.h"

namespace bitwright::quant {
namespace {

// What the pool keeps of freed memory, so that layers of one size after another
// do not ask the driver again.
constexpr uint64_t kKeptBytes = uint64_t{4} << 30;
// The oldest GPUs that the module has code for (cuda.cmake).
constexpr int kOldestMajor = 8;
// What NVIDIA recommends for Hopper.
constexpr size_t kWorkspaceBytes = size_t{32} << 20;

std::string NameOf(const char* expression) {
  const char* end = std::strchr(expression, '(');
  return end == nullptr ? expression : std::string(expression, end);
}

CudaStatus Failure(CudaStatus::Kind kind, const char* expression,
                   const std::string& why) {
  return {kind, NameOf(expression) + ": " + why};
}

struct Pool {
  CudaStatus status;
  cudaMemPool_t pool = nullptr;
};

CudaStatus MakePool(cudaMemPool_t* pool) {
  cudaMemPoolProps props{};
  props.allocType = cudaMemAllocationTypePinned;
  props.handleTypes = cudaMemHandleTypeNone;
  props.location.type = cudaMemLocationTypeDevice;
  props.location.id = 0;
  BW_CUDA(cudaMemPoolCreate(pool, &props));
  uint64_t kept = kKeptBytes;
  BW_CUDA(
      cudaMemPoolSetAttribute(*pool, cudaMemPoolAttrReleaseThreshold, &kept));
  return {};
}

const Pool& DevicePool() {
  static const Pool* const pool = [] {
    auto* p = new Pool;
    p->status = MakePool(&p->pool);
    return p;
  }();
  return *pool;
}

// Contexts that no engine uses now. Never destroyed: CUDA may be gone by then.
struct IdleContexts {
  std::mutex mutex;
  std::vector<CudaContext*> contexts;
};

IdleContexts& Idle() {
  static auto* const idle = new IdleContexts;
  return *idle;
}

}  // namespace

CudaStatus CheckCall(cudaError_t error, const char* expression) {
  if (error == cudaSuccess) return {};
  cudaGetLastError();  // Or the next call would report it again.
  const std::string why = std::string(cudaGetErrorString(error)) + " (" +
                          cudaGetErrorName(error) + ")";
  switch (error) {
    case cudaErrorMemoryAllocation:
      return Failure(CudaStatus::kOutOfMemory, expression, why);
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorInitializationError:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorStubLibrary:
      return Failure(CudaStatus::kNoDevice, expression, why);
    default:
      return Failure(CudaStatus::kFailed, expression, why);
  }
}

CudaStatus CheckCall(cublasStatus_t error, const char* expression) {
  if (error == CUBLAS_STATUS_SUCCESS) return {};
  return Failure(error == CUBLAS_STATUS_ALLOC_FAILED ? CudaStatus::kOutOfMemory
                                                     : CudaStatus::kFailed,
                 expression, cublasGetStatusString(error));
}

CudaStatus CheckCall(cusolverStatus_t error, const char* expression) {
  if (error == CUSOLVER_STATUS_SUCCESS) return {};
  return Failure(error == CUSOLVER_STATUS_ALLOC_FAILED
                     ? CudaStatus::kOutOfMemory
                     : CudaStatus::kFailed,
                 expression,
                 "cusolverStatus_t " + std::to_string(static_cast<int>(error)));
}

CudaStatus AllocateDevice(cudaStream_t stream, size_t bytes, void** out) {
  const Pool& pool = DevicePool();
  if (!pool.status.ok()) return pool.status;
  CudaStatus status = CheckCall(
      cudaMallocFromPoolAsync(out, bytes == 0 ? 1 : bytes, pool.pool, stream),
      "cudaMallocFromPoolAsync");
  if (!status.ok()) {
    status.message += ", asked for " + std::to_string(bytes) + " bytes";
  }
  return status;
}

void FreeDevice(cudaStream_t stream, void* memory) {
  // An error here is one of an earlier call, which has been reported.
  if (cudaFreeAsync(memory, stream) != cudaSuccess) cudaGetLastError();
}

CudaStatus CudaContext::Open() {
  BW_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  BW_CUDA(cudaStreamCreateWithFlags(&copy_stream_, cudaStreamNonBlocking));
  BW_CUDA(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming));
  BW_CUDA(AllocateDevice(stream_, kWorkspaceBytes, &workspace_));
  BW_CUDA(cublasCreate(&cublas_));
  BW_CUDA(cublasSetStream(cublas_, stream_));  // Forgets the workspace.
  BW_CUDA(cublasSetWorkspace(cublas_, workspace_, kWorkspaceBytes));
  BW_CUDA(cublasSetAtomicsMode(cublas_, CUBLAS_ATOMICS_NOT_ALLOWED));
  BW_CUDA(cublasSetMathMode(
      cublas_, static_cast<cublasMath_t>(
                   CUBLAS_DEFAULT_MATH |
                   CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION)));
  BW_CUDA(cusolverDnCreate(&cusolver_));
  BW_CUDA(cusolverDnSetStream(cusolver_, stream_));
  BW_CUDA(cusolverDnSetDeterministicMode(cusolver_,
                                         CUSOLVER_DETERMINISTIC_RESULTS));
  BW_CUDA(cusolverDnCreateParams(&params_));
  return {};
}

CudaContext::~CudaContext() {
  if (params_ != nullptr) cusolverDnDestroyParams(params_);
  if (cusolver_ != nullptr) cusolverDnDestroy(cusolver_);
  if (cublas_ != nullptr) cublasDestroy(cublas_);
  if (workspace_ != nullptr) FreeDevice(stream_, workspace_);
  if (event_ != nullptr) cudaEventDestroy(event_);
  if (copy_stream_ != nullptr) cudaStreamDestroy(copy_stream_);
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

void ReturnContext::operator()(CudaContext* context) const {
  IdleContexts& idle = Idle();
  const std::lock_guard<std::mutex> lock(idle.mutex);
  idle.contexts.push_back(context);
}

CudaStatus LeaseContext(CudaContextLease* out) {
  BW_CUDA(CheckDevice());
  {
    IdleContexts& idle = Idle();
    const std::lock_guard<std::mutex> lock(idle.mutex);
    if (!idle.contexts.empty()) {
      out->reset(idle.contexts.back());
      idle.contexts.pop_back();
      return {};
    }
  }
  auto context = std::make_unique<CudaContext>();
  BW_CUDA(context->Open());
  out->reset(context.release());
  return {};
}

CudaStatus UseDevice() {
  int devices = 0;
  BW_CUDA(cudaGetDeviceCount(&devices));
  if (devices == 0) return {CudaStatus::kNoDevice, "this machine has none"};
  BW_CUDA(cudaSetDevice(0));
  return {};
}

// Apart from UseDevice, which every call begins with.
CudaStatus CheckDevice() {
  BW_CUDA(UseDevice());
  int major = 0;
  BW_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
  if (major < kOldestMajor) {
    return {CudaStatus::kNoDevice,
            "it is of compute capability " + std::to_string(major) +
                ".x; this build needs " + std::to_string(kOldestMajor) +
                ".0 or newer"};
  }
  return {};
}

extern "C" __attribute__((visibility("default"))) int BitwrightCudaAbi() {
  return kCudaModuleAbi;
}

extern "C" __attribute__((visibility("default"))) void BitwrightCudaProbe(
    CudaStatus* status) {
  *status = CheckDevice();
}

}  // namespace bitwright::quant
