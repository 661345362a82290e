// cblas under one overloaded name per operation. All matrices are row-major.
// Private to this folder. Callers run on fixed pieces of work, after
// PinBlasToOneThread().
#ifndef BITWRIGHT_WORKER_QUANT_BLAS_H_
#define BITWRIGHT_WORKER_QUANT_BLAS_H_

#include <cblas.h>

#include <cstdint>

namespace bitwright::quant {

// C[m, n] = alpha·op(A)·op(B) + beta·C.
inline void Gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n,
                 int64_t k, float alpha, const float* a, int64_t lda,
                 const float* b, int64_t ldb, float beta, float* c,
                 int64_t ldc) {
  cblas_sgemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans,
              transpose_b ? CblasTrans : CblasNoTrans, m, n, k, alpha, a, lda,
              b, ldb, beta, c, ldc);
}
inline void Gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n,
                 int64_t k, double alpha, const double* a, int64_t lda,
                 const double* b, int64_t ldb, double beta, double* c,
                 int64_t ldc) {
  cblas_dgemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans,
              transpose_b ? CblasTrans : CblasNoTrans, m, n, k, alpha, a, lda,
              b, ldb, beta, c, ldc);
}

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_BLAS_H_
