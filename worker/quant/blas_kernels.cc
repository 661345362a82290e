#include "worker/quant/blas_kernels.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>

// OpenBLAS's own; absent (null) with another BLAS.
extern "C" __attribute__((weak)) char* openblas_get_corename(void);

namespace bitwright::quant {
namespace {

constexpr char kVariable[] = "OPENBLAS_CORETYPE";

}  // namespace

absl::string_view FasterBlasKernels(absl::string_view chosen, bool avx2_and_fma,
                                    bool avx512) {
  // The last resort of its choice on x86-64.
  if (chosen != "Prescott" || !avx2_and_fma) return "";
  return avx512 ? "SkylakeX" : "Haswell";
}

void RestartWithFastBlas(char** argv) {
#if defined(__x86_64__)
  if (openblas_get_corename == nullptr || getenv(kVariable) != nullptr) return;
  const bool avx512 =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  const std::string faster(FasterBlasKernels(
      openblas_get_corename(),
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), avx512));
  // By its own name, which is what process lists show.
  std::error_code error;
  const std::filesystem::path self =
      std::filesystem::read_symlink("/proc/self/exe", error);
  if (error || faster.empty()) return;
  if (setenv(kVariable, faster.c_str(), 1) != 0) return;
  execv(self.c_str(), argv);  // Returns only where it cannot: go on slowly.
#else
  (void)argv;
#endif
}

}  // namespace bitwright::quant
