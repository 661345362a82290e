#include "worker/quant/refine.h"

#include <cstdint>
#include <vector>

#include "gtest/gtest.h"
#include "tests/unit/worker/quant/quant_test_util.h"
#include "worker/quant/parallel.h"

namespace bitwright::quant {
namespace {

// Cyclic coordinate descent in float64, one column at a time over the full E H.
std::vector<uint8_t> PlainSweep(const Layer& layer, const Grid& grid,
                                const std::vector<uint16_t>& levels,
                                const Factor& factor,
                                std::vector<uint8_t> codes) {
  Matrix h = layer.H();
  h.diagonal().array() += factor.added;
  const std::vector<float> q = Dequantize(codes, grid, levels);
  Matrix e = layer.W();
  for (int64_t i = 0; i < e.size(); ++i) e.data()[i] -= q[i];
  for (int32_t column : factor.order) {
    for (int64_t r = 0; r < layer.rows; ++r) {
      const int64_t g = grid.GroupOf(column);
      const GridPoint p =
          MakeGridPoint(grid.Min(r, g), grid.Max(r, g), levels[column]);
      const double w = layer.weight[r * layer.columns + column];
      const double slope = e.row(r).dot(h.col(column));
      const double target = w - e(r, column) + slope / h(column, column);
      const uint8_t code = Encode(static_cast<float>(target), p);
      codes[r * layer.columns + column] = code;
      e(r, column) = w - Decode(code, p);
    }
  }
  return codes;
}

struct Case {
  int64_t rows, columns, group_size;
  bool act_order;
  bool by_row;
  Precision precision;
};

class RefineCodesTest : public testing::TestWithParam<Case> {};

TEST_P(RefineCodesTest, EqualsPlainDescentAndKeepsTheIdentity) {
  const Case c = GetParam();
  const Layer layer = MakeLayer(c.rows, c.columns, 61);
  const auto view = HessianView::Create(layer.hessian, c.columns);
  const auto factor = FactorHessian(
      *view, {.act_order = c.act_order, .precision = c.precision});
  const auto grid = MakeGrid(layer.weight.data(), c.rows, c.columns,
                             {.group_size = c.group_size});
  ASSERT_TRUE(factor.ok() && grid.ok());
  const uint16_t mixed[] = {1, 2, 3, 4, 7, 16, 37, 5};
  std::vector<uint16_t> levels, row_levels;
  for (int64_t j = 0; j < c.columns && !c.by_row; ++j) {
    levels.push_back(mixed[j * 5 % 8]);
  }
  for (int64_t r = 0; r < c.rows && c.by_row; ++r) {
    row_levels.push_back(mixed[r * 3 % 8]);
  }
  const TestPass pass =
      RunPass(layer.weight, *factor, *grid, levels, row_levels);

  const RowPanels panels(c.rows, c.columns);
  std::vector<float> w(layer.weight.size());
  PackPanels(layer.weight.data(), panels, w.data());
  std::vector<uint8_t> codes(w.size()), refined(w.size());
  std::vector<float> targets(w.size());
  PackPanels(pass.codes.data(), panels, codes.data());
  PackPanels(pass.targets.data(), panels, targets.data());
  const FeedbackSums sums = RefineCodes({.weight = w.data(),
                                         .rows = c.rows,
                                         .factor = &*factor,
                                         .grid = &*grid,
                                         .levels = levels,
                                         .row_levels = row_levels,
                                         .codes = codes.data(),
                                         .targets = targets.data()},
                                        *view, /*sweeps=*/1);
  UnpackPanels(codes.data(), panels, refined.data());

  // What is decoded at levels per column or per row, and its true losses.
  Matrix e = layer.W();
  for (int64_t r = 0; r < c.rows; ++r) {
    for (int64_t j = 0; j < c.columns; ++j) {
      const int64_t g = grid->GroupOf(j);
      e(r, j) -= Decode(refined[r * c.columns + j],
                        MakeGridPoint(grid->Min(r, g), grid->Max(r, g),
                                      c.by_row ? row_levels[r] : levels[j]));
    }
  }
  Matrix damped = layer.H();
  damped.diagonal().array() += factor->added;
  double sum = 0, before = 0;
  for (double loss : sums.column_loss) sum += 2 * loss;
  for (double loss : pass.sums.column_loss) before += 2 * loss;
  const double tolerance = c.precision == Precision::kFloat64 ? 1e-10 : 1e-5;
  EXPECT_NEAR(sum / (e * damped).cwiseProduct(e).sum(), 1, tolerance);
  EXPECT_NEAR(sums.squared_error / e.squaredNorm(), 1, tolerance);
  EXPECT_LE(sum, before * (1 + 1e-6));
  if (c.columns > 100) {
    EXPECT_LT(sum, 0.99 * before);
  }
  if (c.by_row) return;
  const std::vector<uint8_t> want =
      PlainSweep(layer, *grid, levels, *factor, pass.codes);
  int64_t different = 0;
  for (size_t i = 0; i < want.size(); ++i) different += want[i] != refined[i];
  // A value within float32 of the middle of two codes may go either way.
  EXPECT_LE(different, static_cast<int64_t>(want.size()) / 500);
}

constexpr Precision kF32 = Precision::kFloat32, kF64 = Precision::kFloat64;
INSTANTIATE_TEST_SUITE_P(Shapes, RefineCodesTest,
                         testing::Values(Case{1, 1, 0, false, false, kF32},
                                         Case{17, 33, 0, false, false, kF32},
                                         Case{40, 300, 0, false, false, kF32},
                                         Case{40, 300, 0, false, false, kF64},
                                         Case{20, 517, 0, false, false, kF32},
                                         Case{50, 130, 48, true, false, kF32},
                                         Case{33, 290, 100, true, false, kF64},
                                         Case{70, 300, 0, false, true, kF32}));

TEST(RefineCodesTest, SameBytesForAnyNumberOfThreads) {
  const Layer layer = MakeLayer(150, 280, 62);
  const auto view = HessianView::Create(layer.hessian, 280);
  const auto grid = MakeGrid(layer.weight.data(), 150, 280, {});
  const std::vector<uint16_t> levels(280, 5);
  const RowPanels panels(150, 280);
  std::vector<float> w(layer.weight.size());
  PackPanels(layer.weight.data(), panels, w.data());
  std::vector<uint8_t> first;
  for (int threads : {1, 2, 5}) {
    SetThreads(threads);
    const auto factor = FactorHessian(*view, {});
    std::vector<uint8_t> codes(w.size());
    std::vector<float> targets(w.size());
    const FeedbackInput input{.weight = w.data(),
                              .rows = 150,
                              .factor = &*factor,
                              .grid = &*grid,
                              .levels = levels,
                              .codes = codes.data(),
                              .targets = targets.data()};
    FeedbackPass(input);
    RefineCodes(input, *view, 2);
    if (first.empty()) first = codes;
    EXPECT_EQ(codes, first) << threads;
  }
  SetThreads(0);
}

}  // namespace
}  // namespace bitwright::quant
