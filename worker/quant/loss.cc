// QuadraticLoss of quantizer.h.
#include <algorithm>
#include <vector>

#include "worker/quant/blas.h"
#include "worker/quant/parallel.h"
#include "worker/quant/quantizer.h"

namespace bitwright::quant {
namespace {

constexpr int64_t kPanel = 256;  // rows of H taken at a time

}  // namespace

// With H = D + S + Sᵀ by panels of rows (D the diagonal blocks), tr(E H Eᵀ) =
// Σ E∘(E·D + 2·E·Sᵀ): half the flops of a full product.
double QuadraticLoss(const float* weight, const float* quantized, int64_t rows,
                     const HessianView& h) {
  PinBlasToOneThread();
  const int64_t columns = h.columns();
  const int64_t chunk = RowChunk(rows);
  const int64_t chunks = (rows + chunk - 1) / chunk;
  std::vector<double> error(rows * columns);
  ParallelFor(rows, [&](int64_t r) {
    for (int64_t i = r * columns; i < (r + 1) * columns; ++i) {
      error[i] = static_cast<double>(weight[i]) - quantized[i];
    }
  });
  std::vector<double> panel(kPanel * columns);
  std::vector<double> partial(chunks, 0.0);
  for (int64_t begin = 0; begin < columns; begin += kPanel) {
    const int64_t height = std::min(kPanel, columns - begin);
    const int64_t width = begin + height;
    ParallelFor(height, [&](int64_t i) {
      double* out = panel.data() + i * width;
      const float* row = h.Row(begin + i);
      for (int64_t j = 0; j < begin; ++j) out[j] = 2 * h.scale() * row[j];
      for (int64_t j = begin; j < width; ++j) out[j] = h.At(begin + i, j);
    });
    ParallelFor(chunks, [&](int64_t c) {
      const int64_t first = c * chunk;
      const int64_t n = std::min(chunk, rows - first);
      std::vector<double> product(n * height);
      Gemm(false, true, n, height, width, 1.0, error.data() + first * columns,
           columns, panel.data(), width, 0.0, product.data(), height);
      for (int64_t r = 0; r < n; ++r) {
        const double* e = error.data() + (first + r) * columns + begin;
        for (int64_t i = 0; i < height; ++i) {
          partial[c] += e[i] * product[r * height + i];
        }
      }
    });
  }
  double total = 0;
  for (double p : partial) total += p;
  return total;
}

}  // namespace bitwright::quant
