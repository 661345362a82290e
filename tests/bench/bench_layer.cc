#include "tests/bench/bench_layer.h"

#include <cblas.h>

#include <cmath>
#include <random>

namespace bitwright::bench {
namespace {

// A sum of uniforms: near enough to normal, and the same on every library.
float Draw(std::mt19937& bits) {
  double sum = 0;
  for (int i = 0; i < 3; ++i) sum += bits() * 0x1p-32 - 0.5;
  return static_cast<float>(2 * sum);
}

BenchLayer Make(int64_t rows, int64_t columns) {
  BenchLayer layer;
  layer.rows = rows;
  layer.columns = columns;
  std::mt19937 bits(static_cast<uint32_t>(rows * 31 + columns));
  layer.weight.resize(rows * columns);
  for (float& w : layer.weight) w = 0.05f * Draw(bits);
  layer.inputs.resize(kTokens * columns);
  for (int64_t t = 0; t < kTokens; ++t) {
    float carried = 0;
    for (int64_t j = 0; j < columns; ++j) {
      carried = 0.6f * carried + Draw(bits);
      layer.inputs[t * columns + j] =
          carried * static_cast<float>(1 + j * 7919 % 13);
    }
  }
  layer.hessian.resize(columns * columns);
  cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, columns, columns,
              kTokens, 2.0f / kTokens, layer.inputs.data(), columns,
              layer.inputs.data(), columns, 0.0f, layer.hessian.data(),
              columns);
  return layer;
}

}  // namespace

const BenchLayer& LayerFor(int64_t rows, int64_t columns) {
  static BenchLayer layer;
  if (layer.rows != rows || layer.columns != columns) {
    layer = {};  // Not two large layers at once.
    layer = Make(rows, columns);
  }
  return layer;
}

}  // namespace bitwright::bench
