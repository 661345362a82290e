#include "tests/bench/plain_reference.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace bitwright::bench {
namespace {

using Clock = std::chrono::steady_clock;

double Since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// A = Uᵀ U, in place: U in the upper triangle, zero below. False if A is not
// positive definite.
bool UpperCholesky(std::vector<float>& a, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    float* row = a.data() + i * n;
    std::fill(row, row + i, 0.0f);
    for (int64_t k = 0; k < i; ++k) {
      const float* above = a.data() + k * n;
      const float factor = above[i];
      for (int64_t j = i; j < n; ++j) row[j] -= factor * above[j];
    }
    if (!(row[i] > 0)) return false;
    const float inverse = 1.0f / std::sqrt(row[i]);
    for (int64_t j = i; j < n; ++j) row[j] *= inverse;
  }
  return true;
}

// V = (U⁻¹)ᵀ, lower triangular, from A = Uᵀ U. Then A⁻¹ = Vᵀ V.
std::vector<float> InverseTransposed(const std::vector<float>& u, int64_t n) {
  std::vector<float> v(n * n, 0.0f);
  for (int64_t i = 0; i < n; ++i) {
    // Row i of V solves Uᵀ V = I from the rows above it.
    float* row = v.data() + i * n;
    row[i] = 1.0f;
    for (int64_t k = 0; k < i; ++k) {
      const float factor = u[k * n + i];
      const float* above = v.data() + k * n;
      for (int64_t j = 0; j <= k; ++j) row[j] -= factor * above[j];
    }
    const float inverse = 1.0f / u[i * n + i];
    for (int64_t j = 0; j <= i; ++j) row[j] *= inverse;
  }
  return v;
}

// A⁻¹ = Vᵀ V, upper triangle only.
std::vector<float> GramOfColumns(const std::vector<float>& v, int64_t n) {
  std::vector<float> gram(n * n, 0.0f);
  for (int64_t i = 0; i < n; ++i) {
    float* row = gram.data() + i * n;
    for (int64_t k = i; k < n; ++k) {
      const float factor = v[k * n + i];
      const float* other = v.data() + k * n;
      for (int64_t j = i; j <= k; ++j) row[j] += factor * other[j];
    }
  }
  return gram;
}

// The upper Cholesky factor of (H + damping·mean(diag H)·I)⁻¹; empty if there
// is none.
std::vector<float> InverseFactor(const PlainLayer& layer) {
  const int64_t n = layer.columns;
  std::vector<float> h(layer.hessian, layer.hessian + n * n);
  double mean = 0;
  for (int64_t j = 0; j < n; ++j) mean += h[j * n + j] / n;
  for (int64_t j = 0; j < n; ++j) {
    h[j * n + j] += static_cast<float>(layer.damping * mean);
  }
  if (!UpperCholesky(h, n)) return {};
  std::vector<float> inverse = GramOfColumns(InverseTransposed(h, n), n);
  if (!UpperCholesky(inverse, n)) return {};
  return inverse;
}

// Algorithm 1: columns left to right, the error of each spread over the rest.
void QuantizeColumns(const PlainLayer& layer, const std::vector<float>& u,
                     PlainResult& out) {
  const int64_t rows = layer.rows, columns = layer.columns;
  std::vector<float> w(layer.weight, layer.weight + rows * columns);
  std::vector<float> low(rows, 0.0f), high(rows, 0.0f);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      low[i] = std::min(low[i], w[i * columns + j]);
      high[i] = std::max(high[i], w[i * columns + j]);
    }
    if (low[i] == high[i]) low[i] = -1, high[i] = 1;
  }
  out.codes.assign(rows * columns, 0);
  out.column_loss.assign(columns, 0);
  for (int64_t j = 0; j < columns; ++j) {
    const float* factor = u.data() + j * columns;
    const float top = static_cast<float>(out.levels[j] - 1);
    for (int64_t i = 0; i < rows; ++i) {
      float* row = w.data() + i * columns;
      const float t = row[j];
      float rounded = 0;
      if (top > 0) {
        const float scale = (high[i] - low[i]) / top;
        const float zero = std::rint(-low[i] / scale);
        const float code = std::clamp(std::rint(t / scale) + zero, 0.0f, top);
        out.codes[i * columns + j] = static_cast<uint8_t>(code);
        rounded = scale * (code - zero);
      }
      const float error = (t - rounded) / factor[j];
      out.column_loss[j] += 0.5 * error * error;
      for (int64_t k = j; k < columns; ++k) row[k] -= error * factor[k];
    }
  }
}

std::vector<uint16_t> BaqLevels(const std::vector<double>& loss, double bits,
                                double theta) {
  const double n = static_cast<double>(loss.size());
  double log_sum = 0;
  for (double l : loss) log_sum += std::log(l + 1e-8);
  const double geometric_mean = std::exp(log_sum / n);
  std::vector<uint16_t> levels;
  for (double l : loss) {
    const double level =
        std::pow(l / geometric_mean * std::exp2(theta * bits), 1 / theta);
    levels.push_back(
        static_cast<uint16_t>(std::nearbyint(std::clamp(level, 1.0, 256.0))));
  }
  return levels;
}

// The factor, and a pass with uniform levels; then `more` on the same clock.
template <typename More>
PlainResult Quantize(const PlainLayer& layer, int bits, More more) {
  PlainResult out;
  auto start = Clock::now();
  const std::vector<float> u = InverseFactor(layer);
  out.seconds.factor = Since(start);
  out.positive_definite = !u.empty();
  if (!out.positive_definite) return out;
  start = Clock::now();
  out.levels.assign(layer.columns, static_cast<uint16_t>(1 << bits));
  QuantizeColumns(layer, u, out);
  more(u, out);
  out.seconds.columns = Since(start);
  return out;
}

}  // namespace

PlainResult PlainGptq(const PlainLayer& layer, int bits) {
  return Quantize(layer, bits, [](const std::vector<float>&, PlainResult&) {});
}

PlainResult PlainBaq(const PlainLayer& layer, int bits, double theta) {
  return Quantize(layer, bits,
                  [&](const std::vector<float>& u, PlainResult& out) {
                    out.levels = BaqLevels(out.column_loss, bits, theta);
                    QuantizeColumns(layer, u, out);
                  });
}

}  // namespace bitwright::bench
