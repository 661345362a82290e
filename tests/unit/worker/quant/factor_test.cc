#include "worker/quant/factor.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "tests/unit/worker/quant/quant_test_util.h"
#include "worker/quant/parallel.h"

namespace bitwright::quant {
namespace {

Factor FactorOf(const std::vector<float>& h, int64_t columns,
                FactorOptions options = {}) {
  const auto view = HessianView::Create(h, columns);
  EXPECT_TRUE(view.ok()) << view.status();
  auto factor = FactorHessian(*view, options);
  EXPECT_TRUE(factor.ok()) << factor.status();
  return *std::move(factor);
}

// R by position, from the diagonal and the unit part.
Matrix DenseR(const Factor& f) {
  Matrix r = Matrix::Zero(f.columns, f.columns);
  for (int64_t k = 0; k < f.columns; ++k) {
    r(k, k) = f.diagonal[k];
    for (int64_t j = 0; j < k; ++j) {
      r(j, k) = f.unit[k * f.columns + j] * f.diagonal[k];
    }
  }
  return r;
}

// What of `unit` means something: below the diagonal.
std::vector<float> UnitOf(const Factor& f) {
  std::vector<float> out;
  for (int64_t k = 0; k < f.columns; ++k) {
    const float* row = f.unit.data() + k * f.columns;
    out.insert(out.end(), row, row + k);
  }
  return out;
}

// max |R Rᵀ − (H + added)| / max H, in the factor's order.
double Error(const Factor& f, const std::vector<float>& h) {
  const Matrix r = DenseR(f);
  const Matrix product = r * r.transpose();
  double worst = 0, largest = 0;
  for (int64_t i = 0; i < f.columns; ++i) {
    for (int64_t j = 0; j < f.columns; ++j) {
      double want = h[f.order[i] * f.columns + f.order[j]];
      if (i == j && f.dead[f.order[i]]) want = 1;
      if (i == j) want += f.added;
      worst = std::max(worst, std::abs(product(i, j) - want));
      largest = std::max(largest, std::abs(want));
    }
  }
  return worst / largest;
}

TEST(FactorHessianTest, ReproducesTheDampedHessian) {
  for (int64_t columns : {1, 2, 31, 128, 129, 300, 513}) {
    const Layer layer = MakeLayer(1, columns, 11);
    const Factor f = FactorOf(layer.hessian, columns);
    EXPECT_LT(Error(f, layer.hessian), 1e-6) << columns;
    EXPECT_EQ(f.report.attempts, 1);
    EXPECT_EQ(f.report.damping, 0.01);
    EXPECT_FALSE(f.report.diagonal_fallback);
    const Factor packed = FactorOf(PackLower(layer.hessian, columns), columns);
    EXPECT_EQ(UnitOf(packed), UnitOf(f));
  }
}

TEST(FactorHessianTest, ActOrderSortsByDiagonal) {
  const Layer layer = MakeLayer(1, 150, 12);
  const Factor f = FactorOf(layer.hessian, 150, {.act_order = true});
  EXPECT_LT(Error(f, layer.hessian), 1e-6);
  for (int64_t p = 1; p < 150; ++p) {
    EXPECT_GE(layer.hessian[f.order[p - 1] * 151],
              layer.hessian[f.order[p] * 151]);
  }
}

TEST(FactorHessianTest, DeadColumns) {
  Layer layer = MakeLayer(1, 40, 13);
  for (int64_t dead : {0, 17, 39}) {
    for (int64_t j = 0; j < 40; ++j) {
      layer.hessian[dead * 40 + j] = layer.hessian[j * 40 + dead] = 0;
    }
  }
  const Factor f = FactorOf(layer.hessian, 40);
  EXPECT_EQ(f.report.dead_columns, 3);
  EXPECT_TRUE(f.dead[0] && f.dead[17] && f.dead[39] && !f.dead[1]);
  EXPECT_LT(Error(f, layer.hessian), 1e-6);
}

// x·[[1, 2], [2, 1]] has eigenvalues 3x and −x: with λ·mean = λx it needs λ
// > 1.
TEST(FactorHessianTest, DampingLadder) {
  const std::vector<float> h{1, 2, 2, 1};
  const Factor f = FactorOf(h, 2, {.damping = 0.02});
  EXPECT_EQ(f.report.attempts, 3);
  EXPECT_NEAR(f.report.damping, 2.0, 1e-12);
  EXPECT_NEAR(f.added, 2.0, 1e-12);
  EXPECT_FALSE(f.report.diagonal_fallback);
  EXPECT_LT(Error(f, h), 1e-6);
}

// The same two columns among many of a unit matrix: where the factorization
// gives up, whole panels are done.
TEST(FactorHessianTest, GivesUpInAnyPanel) {
  constexpr int64_t kColumns = 530;
  for (const int64_t at : {0, 127, 300, 500}) {
    std::vector<float> h(kColumns * kColumns);
    for (int64_t j = 0; j < kColumns; ++j) h[j * kColumns + j] = 1;
    h[at * kColumns + at + 1] = h[(at + 1) * kColumns + at] = 2;
    for (const int threads : {1, 2}) {
      SCOPED_TRACE(testing::Message() << at << " with " << threads);
      SetThreads(threads);
      const Factor f = FactorOf(h, kColumns, {.damping = 0.02});
      EXPECT_EQ(f.report.attempts, 3);
      EXPECT_NEAR(f.report.damping, 2.0, 1e-12);
      EXPECT_LT(Error(f, h), 1e-6);
    }
  }
  SetThreads(0);
}

TEST(FactorHessianTest, FallsBackToTheDiagonal) {
  const std::vector<float> h{4, 1e9f, 1e9f, 9};
  const Factor f = FactorOf(h, 2);
  EXPECT_EQ(f.report.attempts, 6);
  EXPECT_TRUE(f.report.diagonal_fallback);
  EXPECT_EQ(f.added, 0);
  EXPECT_EQ(f.diagonal, (std::vector<double>{2, 3}));
  EXPECT_EQ(UnitOf(f), std::vector<float>(1, 0.0f));
}

TEST(FactorHessianTest, SingularAndHugeRanges) {
  // Rank one, values over 24 orders of magnitude; and an undamped zero matrix.
  std::vector<float> x(50), h;
  for (int i = 0; i < 50; ++i) x[i] = std::pow(10.0f, i % 13 - 6);
  for (float a : x) {
    for (float b : x) h.push_back(a * b);
  }
  const Factor f = FactorOf(h, 50);
  EXPECT_FALSE(f.report.diagonal_fallback);
  EXPECT_LT(Error(f, h), 1e-6);
  for (float v : UnitOf(f)) EXPECT_TRUE(std::isfinite(v));
  const Factor zero = FactorOf(std::vector<float>(9, 0.0f), 3, {.damping = 0});
  EXPECT_EQ(zero.report.dead_columns, 3);
  EXPECT_EQ(zero.diagonal, std::vector<double>(3, 1.0));
}

TEST(FactorHessianTest, SameBytesForAnyNumberOfThreads) {
  const Layer layer = MakeLayer(1, 530, 14);
  SetThreads(1);
  const Factor one = FactorOf(layer.hessian, 530);
  for (int threads : {2, 3, 7}) {
    SetThreads(threads);
    const Factor f = FactorOf(layer.hessian, 530);
    EXPECT_EQ(UnitOf(f), UnitOf(one));
    EXPECT_EQ(f.diagonal, one.diagonal);
  }
  SetThreads(0);
}

TEST(FactorHessianTest, RefusesBadDamping) {
  const auto view = HessianView::Create({1.0f}, 1);
  EXPECT_FALSE(FactorHessian(*view, {.damping = -1}).ok());
  EXPECT_FALSE(FactorHessian(*view, {.damping = NAN}).ok());
}

// One block, the last one narrower, and one that is wider than the matrix.
TEST(FactorBlocksTest, AreTheFactorAndItsTranspose) {
  constexpr int64_t kWidth = 48;
  for (const int64_t n : {1, 31, 48, 130}) {
    SCOPED_TRACE(n);
    const Factor f =
        FactorOf(MakeLayer(1, n, 15).hessian, n, {.act_order = true});
    const Matrix r = DenseR(f) / std::sqrt(f.mean);
    const RawVector<float> blocks = FactorBlocks<float>(f, kWidth);
    const RawVector<float> rows = TransposeBlocks(blocks, n, kWidth);
    for (int64_t start = 0; start < n; start += kWidth) {
      const int64_t width = std::min(kWidth, n - start);
      const int64_t at = BlockOffset(n, kWidth, start);
      for (int64_t k = 0; k < width; ++k) {
        for (int64_t m = 0; m < n - start; ++m) {
          const float value = blocks[at + m * width + k];
          ASSERT_NEAR(value, r(start + k, start + m), 1e-6)
              << "row " << start + k << " column " << start + m;
          ASSERT_EQ(rows[at + k * (n - start) + m], value);
        }
      }
    }
  }
}

}  // namespace
}  // namespace bitwright::quant
