// BLAS and LAPACK under one overloaded name per operation. All matrices are
// row-major. Private to this folder. Callers run on fixed pieces of work, after
// PinBlasToOneThread().
//
// Products in float32, which are nearly all the arithmetic, are oneDNN's where
// it is built in (onednn.cmake), which is faster at the shapes of this folder.
#ifndef BITWRIGHT_WORKER_QUANT_BLAS_H_
#define BITWRIGHT_WORKER_QUANT_BLAS_H_

#include <cblas.h>

#include <cstdint>
#include <string>

extern "C" {
void spotrf_(const char* uplo, const int* n, float* a, const int* lda,
             int* info);
void dpotrf_(const char* uplo, const int* n, double* a, const int* lda,
             int* info);
}

namespace bitwright::quant {

// C[m, n] = alpha·op(A)·op(B) + beta·C; with beta 0 C is not read. On the
// calling thread: OpenMP, if oneDNN uses it, stays limited to one in it.
void Gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k,
          float alpha, const float* a, int64_t lda, const float* b, int64_t ldb,
          float beta, float* c, int64_t ldc);
inline void Gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n,
                 int64_t k, double alpha, const double* a, int64_t lda,
                 const double* b, int64_t ldb, double beta, double* c,
                 int64_t ldc) {
  cblas_dgemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans,
              transpose_b ? CblasTrans : CblasNoTrans, m, n, k, alpha, a, lda,
              b, ldb, beta, c, ldc);
}

// C = C − AᵀA, the lower triangle of [n, n]; A is [k, n].
inline void SubtractGram(int64_t n, int64_t k, const float* a, int64_t lda,
                         float* c, int64_t ldc) {
  cblas_ssyrk(CblasRowMajor, CblasLower, CblasTrans, n, k, -1.0f, a, lda, 1.0f,
              c, ldc);
}
inline void SubtractGram(int64_t n, int64_t k, const double* a, int64_t lda,
                         double* c, int64_t ldc) {
  cblas_dsyrk(CblasRowMajor, CblasLower, CblasTrans, n, k, -1.0, a, lda, 1.0, c,
              ldc);
}

// A = L Lᵀ in place on the lower triangle of [n, n], leading dimension n. False
// when A is not positive definite.
inline bool CholeskyLower(float* a, int64_t n) {
  const int size = static_cast<int>(n);
  int info = 0;
  // Row-major lower is LAPACK's column-major upper.
  spotrf_("U", &size, a, &size, &info);
  return info == 0;
}
inline bool CholeskyLower(double* a, int64_t n) {
  const int size = static_cast<int>(n);
  int info = 0;
  dpotrf_("U", &size, a, &size, &info);
  return info == 0;
}

// "oneDNN 2.6.3", or "" where float32 products are the BLAS's own.
std::string ProductLibrary();

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_BLAS_H_
