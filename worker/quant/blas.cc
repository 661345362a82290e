#include "worker/quant/blas.h"

#include "absl/strings/str_cat.h"

#ifdef BITWRIGHT_ONEDNN
#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#endif

namespace bitwright::quant {
namespace {

#ifdef BITWRIGHT_ONEDNN
// Without these instructions oneDNN has no kernels that are worth it.
bool HasKernels() {
  static const bool has =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return has;
}

// False when it refuses, before it computes anything.
bool OneDnnGemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n,
                int64_t k, float alpha, const float* a, int64_t lda,
                const float* b, int64_t ldb, float beta, float* c,
                int64_t ldc) {
  // For good, and for whatever else uses OpenMP on this thread: more threads
  // would cut the sums in other places.
  thread_local const bool pinned = (omp_set_num_threads(1), true);
  (void)pinned;
  return dnnl_sgemm(transpose_a ? 'T' : 'N', transpose_b ? 'T' : 'N', m, n, k,
                    alpha, a, lda, b, ldb, beta, c, ldc) == dnnl_success;
}
#endif

}  // namespace

void Gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k,
          float alpha, const float* a, int64_t lda, const float* b, int64_t ldb,
          float beta, float* c, int64_t ldc) {
#ifdef BITWRIGHT_ONEDNN
  if (HasKernels() && OneDnnGemm(transpose_a, transpose_b, m, n, k, alpha, a,
                                 lda, b, ldb, beta, c, ldc)) {
    return;
  }
#endif
  cblas_sgemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans,
              transpose_b ? CblasTrans : CblasNoTrans, m, n, k, alpha, a, lda,
              b, ldb, beta, c, ldc);
}

std::string ProductLibrary() {
#ifdef BITWRIGHT_ONEDNN
  if (HasKernels()) {
    const dnnl_version_t* version = dnnl_version();
    return absl::StrCat("oneDNN ", version->major, ".", version->minor, ".",
                        version->patch);
  }
#endif
  return "";
}

}  // namespace bitwright::quant
