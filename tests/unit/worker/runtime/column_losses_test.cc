#include "worker/runtime/column_losses.h"

#include <numeric>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bitwright {
namespace {

using ::testing::DoubleEq;
using ::testing::ElementsAre;

TEST(ColumnLossesTest, QuartilesMeansAndShare) {
  const auto d = DescribeColumnLosses({8, 1, 2, 4, 0, 1e-300});
  EXPECT_EQ(d["columns"], 6);
  EXPECT_EQ(d["zero"], 1);
  EXPECT_DOUBLE_EQ(d["mean"], 3);
  EXPECT_DOUBLE_EQ(d["min"], 1e-300);
  EXPECT_DOUBLE_EQ(d["max"], 8);
  EXPECT_THAT(d["quartiles"].get<std::vector<double>>(),
              ElementsAre(DoubleEq(1), DoubleEq(2), DoubleEq(4)));
  EXPECT_DOUBLE_EQ(d["within_2x_of_median"], 0.6);  // 1, 2 and 4.
}

TEST(ColumnLossesTest, EqualLossesAreAllInTheMiddle) {
  const auto d = DescribeColumnLosses(std::vector<double>(7, 0.125));
  EXPECT_DOUBLE_EQ(d["mean"], 0.125);
  EXPECT_NEAR(d["geometric_mean"].get<double>(), 0.125, 1e-15);
  EXPECT_EQ(d["within_2x_of_median"], 1);
  const auto counts = d["octaves"]["counts"].get<std::vector<int>>();
  EXPECT_EQ(counts.at(-d["octaves"]["first"].get<int>()), 7);
}

TEST(ColumnLossesTest, OctavesAreRoundedAndTheOutermostAreOpen) {
  // The mean is 1 but for rounding.
  std::vector<double> losses(1000, 1.0);
  losses[0] = 1e-30;
  losses[1] = 1.5;  // log2 = 0.58: the octave of 2.
  losses[2] = 0.5;
  const auto d = DescribeColumnLosses(losses);
  const auto counts = d["octaves"]["counts"].get<std::vector<int>>();
  const int zero = -d["octaves"]["first"].get<int>();
  EXPECT_EQ(counts.front(), 1);
  EXPECT_EQ(counts.at(zero), 997);
  EXPECT_EQ(counts.at(zero + 1), 1);
  EXPECT_EQ(counts.at(zero - 1), 1);
  EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), 0), 1000);
  // One column with all the loss: 10000 times the mean is beyond the last.
  std::vector<double> spike(10000, 1e-9);
  spike[5] = 1;
  EXPECT_EQ(DescribeColumnLosses(spike)["octaves"]["counts"].back(), 1);
}

TEST(ColumnLossesTest, NoLossAtAll) {
  const auto d = DescribeColumnLosses({0, 0});
  EXPECT_EQ(d["zero"], 2);
  EXPECT_FALSE(d.contains("mean"));
}

}  // namespace
}  // namespace bitwright
