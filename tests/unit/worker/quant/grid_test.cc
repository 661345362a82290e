#include "worker/quant/grid.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "common/checkpoint/dtype.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/worker/quant/quant_test_util.h"

namespace bitwright::quant {
namespace {

using ::testing::HasSubstr;

TEST(GridPointTest, WorkedExample) {
  // Range [-1, 2] in 4 levels: scale 1, zero 1: values -1, 0, 1, 2.
  const GridPoint p = MakeGridPoint(-1, 2, 4);
  EXPECT_EQ(p.scale, 1);
  EXPECT_EQ(p.zero, 1);
  EXPECT_EQ(Encode(-5, p), 0);
  EXPECT_EQ(Encode(0.4f, p), 1);
  EXPECT_EQ(Encode(0.5f, p), 1);  // Ties go to even.
  EXPECT_EQ(Encode(1.5f, p), 3);
  EXPECT_EQ(Encode(99, p), 3);
  EXPECT_EQ(Decode(3, p), 2);
}

TEST(GridPointTest, OneLevelIsZero) {
  const GridPoint p = MakeGridPoint(-1, 2, 1);
  EXPECT_EQ(Encode(7, p), 0);
  EXPECT_EQ(Decode(0, p), 0);
}

TEST(RoundToF16Test, AgreesWithTheStoredForm) {
  const std::vector<float> values = RandomFloats(20000, 1.0f, 1);
  for (size_t i = 0; i < values.size(); ++i) {
    const float v = std::ldexp(values[i], static_cast<int>(i % 48) - 30);
    if (std::abs(v) >= 65504) continue;
    EXPECT_EQ(RoundToF16(v), HalfToFloat(FloatToHalf(v))) << v;
  }
  EXPECT_EQ(RoundToF16(70000), 65504);
  EXPECT_EQ(RoundToF16(-1e30f), -65504);
  EXPECT_EQ(RoundToF16(65519), 65504);
  EXPECT_EQ(RoundToF16(1 + 0x1p-11f), 1.0f);             // Tie to even.
  EXPECT_EQ(RoundToF16(1 + 3 * 0x1p-11f), 1 + 0x1p-9f);  // Tie to even.
  EXPECT_EQ(RoundToF16(0x1p-26f), 0);
  EXPECT_EQ(RoundToF16(0), 0);
}

TEST(MakeGridTest, RangesPerRowAndGroup) {
  const std::vector<float> w{1, -2, 3, 4, 5,   //
                             0, 0,  0, 0, -7,  //
                             1, 1,  1, 1, 1};
  auto grid = MakeGrid(w.data(), 3, 5, {.group_size = 2});
  ASSERT_TRUE(grid.ok());
  EXPECT_EQ(grid->groups, 3);
  EXPECT_EQ(grid->GroupOf(4), 2);
  EXPECT_THAT(grid->min, testing::ElementsAre(-2, 0, 0, -1, -1, -7, 0, 0, 0));
  EXPECT_THAT(grid->max, testing::ElementsAre(1, 4, 5, 1, 1, 0, 1, 1, 1));
  grid = MakeGrid(w.data(), 3, 5, {}, {false, false, false, false, true});
  EXPECT_THAT(grid->min, testing::ElementsAre(-2, -1, 0));
  EXPECT_THAT(grid->max, testing::ElementsAre(4, 1, 1));
  grid = MakeGrid(w.data(), 3, 5, {.group_size = 64});
  EXPECT_EQ(grid->groups, 1);
}

TEST(MakeGridTest, SymmetricZeroPointIsHalfTheLevels) {
  const std::vector<float> w = RandomFloats(500 * 8, 0.1f, 2);
  for (bool f16 : {false, true}) {
    for (int levels : {4, 8, 16, 32, 64, 128, 256}) {
      const auto grid = MakeGrid(
          w.data(), 500, 8, {.symmetric = true, .levels = levels, .f16 = f16});
      ASSERT_TRUE(grid.ok());
      for (int64_t r = 0; r < 500; ++r) {
        const float m = grid->Max(r, 0);
        EXPECT_EQ(grid->Min(r, 0), -m);
        EXPECT_EQ(MakeGridPoint(-m, m, levels).zero, levels / 2);
        float largest = 0;
        for (int j = 0; j < 8; ++j) {
          largest = std::max(largest, std::abs(w[r * 8 + j]));
        }
        EXPECT_NEAR(m, largest, largest * (f16 ? 2e-2 : 1e-5));
      }
    }
  }
}

TEST(MakeGridTest, F16RangesAreStorable) {
  const std::vector<float> w = RandomFloats(100 * 16, 0.3f, 3);
  const auto grid = MakeGrid(w.data(), 100, 16, {.f16 = true});
  ASSERT_TRUE(grid.ok());
  for (float v : grid->min) EXPECT_EQ(HalfToFloat(FloatToHalf(v)), v);
  for (float v : grid->max) EXPECT_EQ(HalfToFloat(FloatToHalf(v)), v);
}

// All sizes of weight give a finite, positive scale.
TEST(MakeGridTest, ExtremeWeights) {
  const float limit = std::numeric_limits<float>::max();
  for (float v :
       {0.0f, 1e-45f, -1e-38f, 1e-20f, 1e-7f, 65504.0f, 1e6f, limit, -limit}) {
    for (bool f16 : {false, true}) {
      for (bool symmetric : {false, true}) {
        const std::vector<float> w{v, -v / 3};
        const auto grid =
            MakeGrid(w.data(), 1, 2, {.symmetric = symmetric, .f16 = f16});
        ASSERT_TRUE(grid.ok());
        for (int levels : {2, 3, 256}) {
          const GridPoint p = MakeGridPoint(grid->min[0], grid->max[0], levels);
          EXPECT_TRUE(std::isnormal(p.scale)) << v;
          EXPECT_GT(p.scale, 0) << v;
          EXPECT_TRUE(p.zero >= 0 && p.zero <= levels - 1) << v;
          EXPECT_EQ(Decode(Encode(0, p), p), 0) << v;
        }
      }
    }
  }
}

TEST(MakeGridTest, MseClipLowersTheError) {
  std::vector<float> w = RandomFloats(4 * 256, 0.1f, 4);
  for (int r = 0; r < 4; ++r) w[r * 256] = 1.0f;  // An outlier.
  auto error = [&](bool clip) {
    const auto grid =
        MakeGrid(w.data(), 4, 256, {.mse_clip = clip, .levels = 4});
    double sum = 0;
    for (int i = 0; i < 4 * 256; ++i) {
      const GridPoint p =
          MakeGridPoint(grid->min[i / 256], grid->max[i / 256], 4);
      sum += std::pow(std::abs(w[i] - Decode(Encode(w[i], p), p)), 2.4);
    }
    return sum;
  };
  EXPECT_LT(error(true), 0.8 * error(false));
}

TEST(MakeGridTest, Errors) {
  std::vector<float> w{1, 2, 3, 4};
  EXPECT_FALSE(MakeGrid(w.data(), 0, 4, {}).ok());
  EXPECT_FALSE(MakeGrid(w.data(), 1, 4, {.group_size = -1}).ok());
  w[3] = std::numeric_limits<float>::infinity();
  EXPECT_THAT(MakeGrid(w.data(), 2, 2, {}).status().message(),
              HasSubstr("weight value at [1, 1] is inf"));
}

}  // namespace
}  // namespace bitwright::quant
