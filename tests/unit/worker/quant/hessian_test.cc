#include "worker/quant/hessian.h"

#include <cmath>
#include <limits>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/worker/quant/quant_test_util.h"
#include "worker/quant/parallel.h"

namespace bitwright::quant {
namespace {

using ::testing::HasSubstr;

// Σ x xᵀ in float64, packed.
std::vector<double> Reference(const std::vector<float>& x, int64_t columns) {
  const int64_t tokens = static_cast<int64_t>(x.size()) / columns;
  std::vector<double> out;
  for (int64_t i = 0; i < columns; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      double sum = 0;
      for (int64_t t = 0; t < tokens; ++t) {
        sum += static_cast<double>(x[t * columns + i]) * x[t * columns + j];
      }
      out.push_back(sum);
    }
  }
  return out;
}

TEST(HessianAccumulatorTest, MatchesFloat64) {
  for (int64_t columns : {1, 7, 96, 97, 300}) {
    const std::vector<float> x = RandomFloats(64 * columns, 1.0f, 3);
    HessianAccumulator sum(columns);
    ASSERT_TRUE(sum.Add(x.data(), 40).ok());
    ASSERT_TRUE(sum.Add(x.data(), 0).ok());
    ASSERT_TRUE(sum.Add(x.data() + 40 * columns, 24).ok());
    EXPECT_EQ(sum.tokens(), 64);
    const std::vector<float> packed = sum.Packed();
    const std::vector<double> want = Reference(x, columns);
    ASSERT_EQ(packed.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) {
      ASSERT_NEAR(packed[i], want[i], 1e-4) << columns << " at " << i;
    }
  }
}

TEST(HessianAccumulatorTest, SameBytesForAnyNumberOfThreads) {
  const int64_t columns = 530;
  const std::vector<float> x = RandomFloats(100 * columns, 1.0f, 5);
  std::vector<float> first;
  for (int threads : {1, 2, 3, 7}) {
    SetThreads(threads);
    HessianAccumulator sum(columns);
    ASSERT_TRUE(sum.Add(x.data(), 100).ok());
    if (first.empty()) first = sum.Packed();
    EXPECT_EQ(sum.Packed(), first) << threads << " threads";
  }
  SetThreads(0);
}

TEST(HessianAccumulatorTest, RefusesNegativeTokens) {
  HessianAccumulator sum(2);
  EXPECT_EQ(sum.Add(nullptr, -1).code(), absl::StatusCode::kInvalidArgument);
}

TEST(ReduceHessiansTest, SumsAndNormalises) {
  const std::vector<float> a{1, 2, 3}, b{10, 20, 30};
  auto h = ReduceHessians({a, b}, 2, 4);
  ASSERT_TRUE(h.ok());
  EXPECT_THAT(*h, testing::ElementsAre(5.5f, 11.0f, 16.5f));
}

TEST(ReduceHessiansTest, Errors) {
  const std::vector<float> a{1, 2, 3};
  EXPECT_FALSE(ReduceHessians({}, 2, 1).ok());
  EXPECT_FALSE(ReduceHessians({a}, 2, 0).ok());
  const auto wrong =
      ReduceHessians({a, absl::Span<const float>(a).first(2)}, 2, 1);
  EXPECT_THAT(wrong.status().message(), HasSubstr("shard 1"));
}

TEST(HessianViewTest, FullAndPackedAgree) {
  const Layer layer = MakeLayer(1, 9, 1);
  const std::vector<float> packed = PackLower(layer.hessian, 9);
  const auto full = HessianView::Create(layer.hessian, 9, 0.5);
  const auto view = HessianView::Create(packed, 9, 0.5);
  ASSERT_TRUE(full.ok() && view.ok());
  for (int i = 0; i < 9; ++i) {
    for (int j = 0; j < 9; ++j) {
      EXPECT_EQ(full->At(i, j), view->At(i, j));
      EXPECT_EQ(view->At(i, j), 0.5 * layer.hessian[i * 9 + j]);
    }
  }
}

TEST(HessianViewTest, Errors) {
  std::vector<float> h{1, 0, 0, 1};
  EXPECT_FALSE(HessianView::Create(h, 3).ok());
  EXPECT_FALSE(HessianView::Create({}, 0).ok());
  h[2] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(HessianView::Create(h, 2).status().message(),
              HasSubstr("Hessian value at [1, 0] is nan"));
  h[2] = std::numeric_limits<float>::infinity();
  EXPECT_FALSE(HessianView::Create(h, 2).ok());
  h = {1, 0, 0, -1};
  EXPECT_THAT(HessianView::Create(h, 2).status().message(),
              HasSubstr("diagonal at 1 is negative"));
}

}  // namespace
}  // namespace bitwright::quant
