// GPTQ and BAQ the way the papers write them down, column by column: what our
// numerics are measured against, in speed and in result.
//
//   PlainResult q = PlainGptq({.weight = w, .rows = R, .columns = C,
//                              .hessian = h}, /*bits=*/3);
//
// Plain loops in float32 over row-major matrices, on one thread, without BLAS
// and without blocking: Cholesky of the damped H, its inverse, the upper
// Cholesky factor U of that (arXiv 2210.17323, Algorithm 1 with B = 1), then
// for each column: round it, and subtract its error times row j of U from all
// columns to its right. Loops run along rows in memory, so the compiler makes
// vector code of them. Shares nothing with worker/quant.
#ifndef BITWRIGHT_TESTS_BENCH_PLAIN_REFERENCE_H_
#define BITWRIGHT_TESTS_BENCH_PLAIN_REFERENCE_H_

#include <cstdint>
#include <vector>

namespace bitwright::bench {

struct PlainLayer {
  const float* weight = nullptr;  // [rows, columns], row-major
  int64_t rows = 0;
  int64_t columns = 0;
  const float* hessian = nullptr;  // [columns, columns], undamped, no dead
                                   // columns
  double damping = 0.01;
};

struct PlainSeconds {
  double factor = 0;   // H to U
  double columns = 0;  // the column loops
};

struct PlainResult {
  std::vector<uint8_t> codes;       // [rows, columns]
  std::vector<uint16_t> levels;     // [columns]
  std::vector<double> column_loss;  // [columns] ½ ‖t_k − ŵ_k‖² / U_kk²
  bool positive_definite = true;    // false: nothing else is meaningful
  PlainSeconds seconds;
};

// Asymmetric min/max grid per row, the same 2^bits levels for every column.
PlainResult PlainGptq(const PlainLayer& layer, int bits);

// BAQ as published (math.md §3a): the pass above at `bits`, levels for each
// column from its losses, then a second pass at those levels on the same U.
PlainResult PlainBaq(const PlainLayer& layer, int bits, double theta = 1.95);

}  // namespace bitwright::bench

#endif  // BITWRIGHT_TESTS_BENCH_PLAIN_REFERENCE_H_
