// The layers that are measured: random weights, and inputs that are correlated
// and of unequal sizes as real activations are.
//
//   const BenchLayer& layer = LayerFor(2048, 2048);   // made once, then kept
#ifndef BITWRIGHT_TESTS_BENCH_BENCH_LAYER_H_
#define BITWRIGHT_TESTS_BENCH_BENCH_LAYER_H_

#include <cstdint>
#include <vector>

namespace bitwright::bench {

inline constexpr int64_t kTokens = 4096;

struct BenchLayer {
  int64_t rows = 0, columns = 0;
  std::vector<float> weight;   // [rows, columns]
  std::vector<float> inputs;   // [kTokens, columns]
  std::vector<float> hessian;  // [columns, columns], (2/kTokens) Σ x xᵀ
};

// The same values on every machine but for the last bits of the Hessian. Keeps
// only the layer asked for last. Not thread-safe.
const BenchLayer& LayerFor(int64_t rows, int64_t columns);

}  // namespace bitwright::bench

#endif  // BITWRIGHT_TESTS_BENCH_BENCH_LAYER_H_
