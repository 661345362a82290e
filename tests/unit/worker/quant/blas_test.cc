#include "worker/quant/blas.h"

#include <cmath>
#include <cstdint>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tests/unit/worker/quant/quant_test_util.h"
#include "worker/quant/parallel.h"

namespace bitwright::quant {
namespace {

constexpr int64_t kPadding = 3;  // beyond the end of every row

struct Product {
  bool transpose_a, transpose_b;
  int64_t m, n, k;
  float alpha, beta;
};

// [rows, columns] in rows of columns + kPadding.
struct Padded {
  Padded(int64_t rows, int64_t columns, uint32_t seed)
      : stride(columns + kPadding),
        values(RandomFloats(rows * stride, 1.0f, seed)) {}
  double At(bool transposed, int64_t i, int64_t j) const {
    return transposed ? values[j * stride + i] : values[i * stride + j];
  }
  int64_t stride;
  std::vector<float> values;
};

void Multiply(const Product& p, const Padded& a, const Padded& b, Padded& c) {
  Gemm(p.transpose_a, p.transpose_b, p.m, p.n, p.k, p.alpha, a.values.data(),
       a.stride, b.values.data(), b.stride, p.beta, c.values.data(), c.stride);
}

class GemmTest : public testing::TestWithParam<Product> {
 protected:
  void SetUp() override { PinBlasToOneThread(); }

  const Product p_ = GetParam();
  const Padded a_ =
      p_.transpose_a ? Padded(p_.k, p_.m, 1) : Padded(p_.m, p_.k, 1);
  const Padded b_ =
      p_.transpose_b ? Padded(p_.n, p_.k, 2) : Padded(p_.k, p_.n, 2);
};

TEST_P(GemmTest, EqualsFloat64) {
  const Padded before(p_.m, p_.n, 3);
  Padded c(before);
  Multiply(p_, a_, b_, c);
  for (int64_t i = 0; i < p_.m; ++i) {
    for (int64_t j = 0; j < c.stride; ++j) {
      const int64_t at = i * c.stride + j;
      if (j >= p_.n) {
        ASSERT_EQ(c.values[at], before.values[at]) << "beyond row " << i;
        continue;
      }
      double sum = 0;
      for (int64_t l = 0; l < p_.k; ++l) {
        sum += a_.At(p_.transpose_a, i, l) * b_.At(p_.transpose_b, l, j);
      }
      const double want = p_.alpha * sum + p_.beta * before.values[at];
      ASSERT_NEAR(c.values[at], want, 1e-5 * std::sqrt(p_.k)) << i << " " << j;
    }
  }
}

TEST_P(GemmTest, DoesNotReadWhatBetaZeroReplaces) {
  Product p = p_;
  p.beta = 0;
  Padded c(p.m, p.n, 3);
  for (float& value : c.values) value = NAN;
  Multiply(p, a_, b_, c);
  for (int64_t i = 0; i < p.m; ++i) {
    for (int64_t j = 0; j < p.n; ++j) {
      ASSERT_TRUE(std::isfinite(c.values[i * c.stride + j])) << i << " " << j;
    }
  }
}

TEST_P(GemmTest, SameBytesOnEveryThread) {
  const Padded before(p_.m, p_.n, 3);
  Padded here(before);
  Multiply(p_, a_, b_, here);
  std::vector<Padded> there(4, before);
  std::vector<std::thread> threads;
  for (Padded& c : there) {
    threads.emplace_back([&] { Multiply(p_, a_, b_, c); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Padded& c : there) EXPECT_EQ(c.values, here.values);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, GemmTest,
    testing::Values(Product{false, false, 1, 1, 1, 1, 1},
                    Product{false, false, 32, 256, 32, 1, 1},
                    Product{false, false, 61, 144, 300, 1, 1},
                    Product{false, false, 300, 7, 128, 2, 0.5f},
                    Product{true, false, 129, 256, 128, -1, 1},
                    Product{true, false, 128, 48, 515, 1, 0},
                    Product{false, true, 70, 70, 1030, 0.25f, 1},
                    Product{true, true, 5, 33, 17, 1, 0}));

}  // namespace
}  // namespace bitwright::quant
