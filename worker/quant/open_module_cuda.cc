#include "worker/quant/open_module_cuda.h"

#include <dlfcn.h>

#include <filesystem>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "worker/quant/layer_engine_cuda.h"

namespace bitwright::quant {
namespace {

constexpr char kCudaModule[] = "libbitwright_cuda.so";

absl::Status LookUp(void* module, CudaModule* out) {
  out->layer = reinterpret_cast<decltype(out->layer)>(
      dlsym(module, "BitwrightCudaLayer"));
  out->hessian = reinterpret_cast<decltype(out->hessian)>(
      dlsym(module, "BitwrightCudaHessian"));
  out->probe = reinterpret_cast<decltype(out->probe)>(
      dlsym(module, "BitwrightCudaProbe"));
  const auto abi = reinterpret_cast<decltype(&BitwrightCudaAbi)>(
      dlsym(module, "BitwrightCudaAbi"));
  if (abi == nullptr || abi() != kCudaModuleAbi || out->layer == nullptr ||
      out->hessian == nullptr || out->probe == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat(kCudaModule, " is of another version than this program"));
  }
  return absl::OkStatus();
}

// Beside the program, or where a sibling directory of it holds libraries.
absl::StatusOr<CudaModule> LoadCudaModule() {
  namespace fs = std::filesystem;
  // First, because the module's libraries take most of a second to load.
  if (dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL) == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("no CUDA device: the NVIDIA driver is not installed (",
                     dlerror(), "); use --device cpu"));
  }
  std::error_code error;
  const fs::path program =
      fs::read_symlink("/proc/self/exe", error).parent_path();
  if (program.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "cannot tell where this program lies (/proc/self/exe: ",
        error.message(), "), and so not where ", kCudaModule, " is"));
  }
  for (const char* place : {".", "../bin", "../lib"}) {
    const fs::path path = program / place / kCudaModule;
    if (!fs::exists(path, error)) continue;
    // Never closed: CUDA's libraries do not like to go.
    void* opened = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (opened == nullptr) {
      return absl::FailedPreconditionError(
          absl::StrCat("the CUDA libraries are not usable: ", dlerror(),
                       "; install them, or use --device cpu"));
    }
    CudaModule module;
    if (absl::Status s = LookUp(opened, &module); !s.ok()) return s;
    return module;
  }
  return absl::FailedPreconditionError(
      absl::StrCat("this build has no CUDA (", kCudaModule,
                   " is not beside the program in ", program.string(),
                   "); build it where nvcc is installed, or use --device "
                   "cpu"));
}

}  // namespace

absl::StatusOr<const CudaModule*> OpenCudaModule() {
  static const auto* const module =
      new absl::StatusOr<CudaModule>(LoadCudaModule());
  if (!module->ok()) return module->status();
  return &**module;
}

absl::Status ToStatus(const CudaStatus& status) {
  switch (status.kind) {
    case CudaStatus::kOk:
      return absl::OkStatus();
    case CudaStatus::kNoDevice:
      return absl::FailedPreconditionError(absl::StrCat(
          "no CUDA device: ", status.message, "; use --device cpu"));
    case CudaStatus::kOutOfMemory:
      return absl::ResourceExhaustedError(
          absl::StrCat("CUDA: ", status.message,
                       "; use --device cpu, or a device with more memory"));
    case CudaStatus::kFailed:
      break;
  }
  return absl::InternalError(absl::StrCat("CUDA: ", status.message));
}

absl::Status CudaDeviceStatus() {
  absl::StatusOr<const CudaModule*> module = OpenCudaModule();
  if (!module.ok()) return module.status();
  CudaStatus status;
  (*module)->probe(&status);
  return ToStatus(status);
}

}  // namespace bitwright::quant
