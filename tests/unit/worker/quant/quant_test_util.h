// Random layers for the tests of worker/quant, and float64 references.
#ifndef BITWRIGHT_TESTS_UNIT_WORKER_QUANT_QUANT_TEST_UTIL_H_
#define BITWRIGHT_TESTS_UNIT_WORKER_QUANT_QUANT_TEST_UTIL_H_

#include <Eigen/Dense>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "worker/quant/gptq.h"
#include "worker/quant/panels.h"

namespace bitwright::quant {

using Matrix =
    Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// A layer whose inputs are correlated and of unequal sizes, as real ones are.
struct Layer {
  int64_t rows, columns;
  std::vector<float> weight;   // [rows, columns]
  std::vector<float> hessian;  // [columns, columns], (2/tokens) Σ x xᵀ

  Matrix W() const {
    return Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic,
                                          Eigen::RowMajor>>(weight.data(), rows,
                                                            columns)
        .cast<double>();
  }
  Matrix H() const {
    return Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic,
                                          Eigen::RowMajor>>(hessian.data(),
                                                            columns, columns)
        .cast<double>();
  }
};

inline std::vector<float> RandomFloats(int64_t n, float deviation,
                                       uint32_t seed) {
  std::mt19937 bits(seed);
  std::vector<float> out(n);
  for (float& v : out) {  // Sum of uniforms: the same on every library.
    double sum = 0;
    for (int i = 0; i < 6; ++i) sum += bits() * 0x1p-32 - 0.5;
    v = static_cast<float>(sum * std::sqrt(2.0)) * deviation;
  }
  return out;
}

inline Layer MakeLayer(int64_t rows, int64_t columns, uint32_t seed,
                       int64_t tokens = 0) {
  if (tokens == 0) tokens = 2 * columns;
  Layer layer{rows, columns, RandomFloats(rows * columns, 0.05f, seed), {}};
  const std::vector<float> noise =
      RandomFloats(tokens * columns, 1.0f, seed + 1);
  Matrix x(tokens, columns);
  for (int64_t t = 0; t < tokens; ++t) {
    double carried = 0;
    for (int64_t j = 0; j < columns; ++j) {
      carried = 0.6 * carried + noise[t * columns + j];
      x(t, j) = carried * (1 + (j * 7919 % 13));
    }
  }
  const Matrix h = x.transpose() * x * (2.0 / static_cast<double>(tokens));
  layer.hessian.resize(columns * columns);
  for (int64_t i = 0; i < columns * columns; ++i) {
    layer.hessian[i] = static_cast<float>(h.data()[i]);
  }
  return layer;
}

inline std::vector<float> PackLower(const std::vector<float>& full,
                                    int64_t columns) {
  std::vector<float> packed;
  for (int64_t i = 0; i < columns; ++i) {
    packed.insert(packed.end(), full.begin() + i * columns,
                  full.begin() + i * columns + i + 1);
  }
  return packed;
}

// tr((W − Q) H (W − Q)ᵀ) in float64.
inline double LossOf(const Layer& layer, const std::vector<float>& q,
                     const Matrix& h) {
  Matrix e = layer.W();
  for (int64_t i = 0; i < e.size(); ++i) e.data()[i] -= q[i];
  return (e * h).cwiseProduct(e).sum();
}

// A pass with error feedback on matrices that lie row by row.
struct TestPass {
  std::vector<uint8_t> codes;  // [rows, columns]
  std::vector<float> targets;  // [rows, columns]
  FeedbackSums sums;
};
inline TestPass RunPass(const std::vector<float>& weight, const Factor& factor,
                        const Grid& grid, std::vector<uint16_t> levels,
                        std::vector<uint16_t> row_levels = {}) {
  const RowPanels panels(grid.rows, grid.columns);
  std::vector<float> w(weight.size()), targets(weight.size());
  std::vector<uint8_t> codes(weight.size());
  PackPanels(weight.data(), panels, w.data());
  TestPass pass;
  pass.sums = FeedbackPass({.weight = w.data(),
                            .rows = grid.rows,
                            .factor = &factor,
                            .grid = &grid,
                            .levels = levels,
                            .row_levels = row_levels,
                            .codes = codes.data(),
                            .targets = targets.data()});
  pass.codes.resize(weight.size());
  pass.targets.resize(weight.size());
  UnpackPanels(codes.data(), panels, pass.codes.data());
  UnpackPanels(targets.data(), panels, pass.targets.data());
  return pass;
}

}  // namespace bitwright::quant

#endif  // BITWRIGHT_TESTS_UNIT_WORKER_QUANT_QUANT_TEST_UTIL_H_
