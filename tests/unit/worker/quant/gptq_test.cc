#include "worker/quant/gptq.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "tests/unit/worker/quant/quant_test_util.h"
#include "worker/quant/quantizer.h"

namespace bitwright::quant {
namespace {

// GPTQ column by column as the paper (arXiv 2210.17323) has it: the upper
// Cholesky factor U of H⁻¹, errors divided by U_ii, float64. `order` lists the
// columns in the order they are taken.
std::vector<uint8_t> PaperGptq(const Layer& layer, const Grid& grid,
                               const std::vector<uint16_t>& levels,
                               double added,
                               const std::vector<int32_t>& order) {
  const int64_t n = layer.columns;
  const Matrix original = layer.H(), weight = layer.W();
  Matrix h(n, n);
  Matrix w(layer.rows, n);
  for (int64_t i = 0; i < n; ++i) {
    w.col(i) = weight.col(order[i]);
    for (int64_t j = 0; j < n; ++j) {
      h(i, j) = original(order[i], order[j]) + (i == j ? added : 0);
    }
  }
  const Matrix u = Eigen::LLT<Matrix>(h.inverse()).matrixU();
  std::vector<uint8_t> codes(layer.rows * n);
  for (int64_t k = 0; k < n; ++k) {
    const int32_t column = order[k];
    for (int64_t r = 0; r < layer.rows; ++r) {
      const int64_t g = grid.GroupOf(column);
      const GridPoint p =
          MakeGridPoint(grid.Min(r, g), grid.Max(r, g), levels[column]);
      const uint8_t code = Encode(static_cast<float>(w(r, k)), p);
      codes[r * n + column] = code;
      const double error = (w(r, k) - Decode(code, p)) / u(k, k);
      for (int64_t j = k + 1; j < n; ++j) w(r, j) -= error * u(k, j);
    }
  }
  return codes;
}

struct Case {
  int64_t rows, columns, group_size;
  bool act_order;
  int levels;  // 0: mixed
};

class FeedbackPassTest : public testing::TestWithParam<Case> {};

TEST_P(FeedbackPassTest, EqualsThePaperAndTheIdentity) {
  const Case c = GetParam();
  const Layer layer = MakeLayer(c.rows, c.columns, 21);
  const auto view = HessianView::Create(layer.hessian, c.columns);
  const auto factor = FactorHessian(*view, {.act_order = c.act_order});
  const auto grid = MakeGrid(layer.weight.data(), c.rows, c.columns,
                             {.group_size = c.group_size});
  ASSERT_TRUE(factor.ok() && grid.ok());
  std::vector<uint16_t> levels(c.columns);
  for (int64_t j = 0; j < c.columns; ++j) {
    const int mixed[] = {1, 2, 3, 4, 7, 16, 37, 256};
    levels[j] = c.levels > 0 ? c.levels : mixed[j * 5 % 8];
  }
  const TestPass pass = RunPass(layer.weight, *factor, *grid, levels);

  const std::vector<uint8_t> want =
      PaperGptq(layer, *grid, levels, factor->added, factor->order);
  int64_t different = 0;
  for (size_t i = 0; i < want.size(); ++i)
    different += want[i] != pass.codes[i];
  // A value within float32 of the middle of two codes may go either way, and
  // changes the rest of its row.
  EXPECT_LE(different, static_cast<int64_t>(want.size()) / 1000);

  const std::vector<float> q = Dequantize(pass.codes, *grid, levels);
  Matrix damped = layer.H();
  damped.diagonal().array() += factor->added;
  double sum = 0;
  for (double loss : pass.sums.column_loss) sum += 2 * loss;
  EXPECT_NEAR(sum / LossOf(layer, q, damped), 1, 1e-6);
  const double undamped = LossOf(layer, q, layer.H());
  EXPECT_NEAR((sum - factor->added * pass.sums.squared_error) / undamped, 1,
              1e-5);
  EXPECT_NEAR(
      QuadraticLoss(layer.weight.data(), q.data(), c.rows, *view) / undamped, 1,
      1e-12);

  // The targets are what was rounded.
  for (int64_t j = 0; j < c.columns; ++j) {
    const double r = factor->diagonal[std::find(factor->order.begin(),
                                                factor->order.end(), j) -
                                      factor->order.begin()];
    double squares = 0;
    for (int64_t i = 0; i < c.rows; ++i) {
      const double e = static_cast<double>(pass.targets[i * c.columns + j]) -
                       q[i * c.columns + j];
      squares += e * e;
    }
    EXPECT_NEAR(pass.sums.column_loss[j], 0.5 * r * r * squares,
                1e-5 * pass.sums.column_loss[j] + 1e-12);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, FeedbackPassTest,
    testing::Values(Case{1, 1, 0, false, 4}, Case{3, 5, 0, false, 4},
                    Case{17, 33, 0, false, 3}, Case{40, 64, 16, false, 4},
                    Case{50, 130, 0, true, 4}, Case{50, 130, 48, true, 0},
                    Case{70, 300, 0, false, 8}, Case{33, 290, 100, false, 0},
                    Case{20, 517, 0, false, 4}));

// Levels per row are the same loop: each row comes out as alone at its level.
TEST(FeedbackPassTest, LevelsPerRow) {
  const Layer layer = MakeLayer(45, 140, 23);
  const auto view = HessianView::Create(layer.hessian, 140);
  const auto factor = FactorHessian(*view, {});
  const auto grid = MakeGrid(layer.weight.data(), 45, 140, {.group_size = 60});
  std::vector<uint16_t> row_levels;
  for (int r = 0; r < 45; ++r) row_levels.push_back(r % 3 == 0 ? 8 : 4);
  const TestPass mixed = RunPass(layer.weight, *factor, *grid, {}, row_levels);
  double squared_error = 0;
  for (uint16_t levels : {4, 8}) {
    const TestPass uniform = RunPass(layer.weight, *factor, *grid,
                                     std::vector<uint16_t>(140, levels));
    for (int64_t r = 0; r < 45; ++r) {
      if (row_levels[r] != levels) continue;
      for (int64_t j = 0; j < 140; ++j) {
        EXPECT_EQ(mixed.codes[r * 140 + j], uniform.codes[r * 140 + j]);
        const int64_t g = grid->GroupOf(j);
        const double e =
            layer.weight[r * 140 + j] -
            Decode(mixed.codes[r * 140 + j],
                   MakeGridPoint(grid->Min(r, g), grid->Max(r, g), levels));
        squared_error += e * e;
      }
    }
  }
  EXPECT_NEAR(mixed.sums.squared_error / squared_error, 1, 1e-5);
}

// A layer whose Hessian has a condition number above `condition`: inputs of
// very different sizes, which float32 can store.
Layer IllConditioned(int64_t rows, int64_t columns, double condition) {
  Layer layer = MakeLayer(rows, columns, 24);
  std::vector<double> size(columns);
  for (int64_t i = 0; i < columns; ++i) {
    size[i] = std::pow(condition, -0.5 * static_cast<double>(i * 37 % columns) /
                                      static_cast<double>(columns - 1));
  }
  for (int64_t i = 0; i < columns; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      layer.hessian[i * columns + j] *= static_cast<float>(size[i] * size[j]);
    }
  }
  return layer;
}

// tr((W−Ŵ)H(W−Ŵ)ᵀ) = Σ 2·loss_k, at a condition number of 1e8.
TEST(FeedbackPassTest, IdentityOnAnIllConditionedHessian) {
  const Layer layer = IllConditioned(40, 200, 1e8);
  const auto view = HessianView::Create(layer.hessian, 200);
  const auto grid = MakeGrid(layer.weight.data(), 40, 200, {});
  for (const Precision precision : {Precision::kFloat32, Precision::kFloat64}) {
    const auto factor =
        FactorHessian(*view, {.damping = 1e-12, .precision = precision});
    ASSERT_TRUE(factor.ok());
    ASSERT_EQ(factor->report.attempts, 1);
    Matrix damped = layer.H();
    damped.diagonal().array() += factor->added;
    const Eigen::SelfAdjointEigenSolver<Matrix> eigen(damped);
    EXPECT_GT(eigen.eigenvalues()[199] / eigen.eigenvalues()[0], 1e8);
    const std::vector<uint16_t> levels(200, 8);
    const TestPass pass = RunPass(layer.weight, *factor, *grid, levels);
    double sum = 0;
    for (double loss : pass.sums.column_loss) sum += 2 * loss;
    const double truth =
        LossOf(layer, Dequantize(pass.codes, *grid, levels), damped);
    EXPECT_NEAR(sum / truth, 1, precision == Precision::kFloat64 ? 1e-10 : 1e-3)
        << truth;
  }
}

TEST(FeedbackPassTest, BeatsRoundingToNearest) {
  const Layer layer = MakeLayer(64, 96, 22);
  const auto view = HessianView::Create(layer.hessian, 96);
  const auto factor = FactorHessian(*view, {});
  const auto grid = MakeGrid(layer.weight.data(), 64, 96, {});
  const std::vector<uint16_t> levels(96, 8);
  const TestPass pass = RunPass(layer.weight, *factor, *grid, levels);
  const NearestResult nearest =
      RoundToNearest(layer.weight.data(), 64, *grid, levels, {});
  EXPECT_LT(
      LossOf(layer, Dequantize(pass.codes, *grid, levels), layer.H()),
      0.8 * LossOf(layer, Dequantize(nearest.codes, *grid, levels), layer.H()));
  EXPECT_GT(pass.sums.squared_error, nearest.squared_error);
}

TEST(RoundToNearestTest, ColumnLoss) {
  const std::vector<float> w{0.4f, 1, 2, 0, 0.25f, 3};
  const auto grid = MakeGrid(w.data(), 2, 3, {});
  const std::vector<uint16_t> levels{3, 3, 4};
  const std::vector<double> diagonal{10, 100, 1000};
  const NearestResult plain = RoundToNearest(w.data(), 2, *grid, levels, {});
  const NearestResult weighted =
      RoundToNearest(w.data(), 2, *grid, levels, diagonal);
  // Row 0: range 2, step 1: 0.4 → 0. Row 1: range 3, step 1.5: 0.25 → 0.
  EXPECT_NEAR(plain.column_loss[0], 0.08, 1e-7);
  EXPECT_NEAR(plain.column_loss[1], 0.03125, 1e-7);
  EXPECT_NEAR(weighted.column_loss[1], 3.125, 1e-5);
  EXPECT_EQ(plain.codes, weighted.codes);
  EXPECT_NEAR(
      plain.squared_error,
      2 * (plain.column_loss[0] + plain.column_loss[1] + plain.column_loss[2]),
      1e-12);
}

}  // namespace
}  // namespace bitwright::quant
