#include "worker/quant/baq.h"

#include <cmath>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/worker/quant/quant_test_util.h"
#include "worker/quant/parallel.h"

namespace bitwright::quant {
namespace {

TEST(ReferenceLevelsTest, FollowsTheFormula) {
  const std::vector<double> loss{1, 2, 4, 8, 1000, 1e-12};
  double log_sum = 0;
  for (double l : loss) log_sum += std::log(l + 1e-8);
  const double gm = std::exp(log_sum / 6);
  EXPECT_NEAR(GmOverAm(loss) * (1015 + 1e-12) / 6, gm, 1e-9);
  const std::vector<uint16_t> levels = ReferenceLevels(loss, 2.0);
  for (int j = 0; j < 6; ++j) {
    const double want = std::round(
        std::max(1.0, std::pow(loss[j] / gm * std::exp2(1.95 * 2), 1 / 1.95)));
    EXPECT_EQ(levels[j], std::min(256.0, want)) << j;
  }
  EXPECT_EQ(levels[5], 1);
}

TEST(ReferenceLevelsTest, EqualLossesGetTheBudget) {
  EXPECT_THAT(ReferenceLevels(std::vector<double>(5, 3.0), 4.0),
              testing::Each(16));
  EXPECT_THAT(ReferenceLevels(std::vector<double>(5, 0.0), 4.0),
              testing::Each(1));
  EXPECT_EQ(GmOverAm(std::vector<double>(5, 0.0)), 1);
}

TEST(PredictedGainTest, AtMostOneAtAnyScale) {
  const std::vector<double> loss{1, 2, 4, 8, 1000};
  const double gain = PredictedGain(loss);
  EXPECT_NEAR(gain, std::pow(64000.0, 0.2) / 203, 1e-12);
  for (double scale : {1e-30, 1e-12, 1e12, 1e30}) {
    std::vector<double> scaled(loss);
    for (double& l : scaled) l *= scale;
    scaled.push_back(0);  // Of a dead column.
    EXPECT_NEAR(PredictedGain(scaled), gain, 1e-12) << scale;
  }
  EXPECT_EQ(PredictedGain(std::vector<double>(3, 0.0)), 1);
  EXPECT_EQ(PredictedGain(std::vector<double>(3, 1e-40)), 1);
}

// The examples of formats.md.
TEST(ColumnBitsTest, PackedSizes) {
  EXPECT_EQ(ColumnBits(400, 1, Budget::kFile), 0);
  EXPECT_EQ(ColumnBits(400, 3, Budget::kFile), 400 / 40 * 64);
  EXPECT_EQ(ColumnBits(270, 5, Budget::kFile), 270 / 27 * 64);
  EXPECT_EQ(ColumnBits(24, 6, Budget::kFile), 64);
  EXPECT_EQ(ColumnBits(25, 6, Budget::kFile), 128);
  EXPECT_EQ(ColumnBits(22, 7, Budget::kFile), 64);
  EXPECT_EQ(ColumnBits(20, 9, Budget::kFile), 64);
  EXPECT_EQ(ColumnBits(9, 2, Budget::kFile), 16);
  EXPECT_EQ(ColumnBits(3, 8, Budget::kFile), 16);
  EXPECT_EQ(ColumnBits(3, 256, Budget::kFile), 24);
  EXPECT_EQ(ColumnBits(3, 255, Budget::kFile), 64);
  EXPECT_EQ(ColumnBits(3, 8, Budget::kCodes), 9);
  EXPECT_DOUBLE_EQ(ColumnBits(2, 3, Budget::kCodes), 2 * std::log2(3));
  EXPECT_EQ(SideBits(10, 20, 3, Budget::kFile), 20 * 16 + 10 * 3 * 32);
  EXPECT_EQ(SideBits(10, 20, 3, Budget::kCodes), 0);
  EXPECT_EQ(BitsPerWeight(8, 1, {4, 16}, Budget::kFile),
            (16.0 + 32 + 2 * 16 + 8 * 32) / 16);
}

// A word of k codes with L levels must hold L^k <= 2^64, and no k + 1 fit.
TEST(ColumnBitsTest, EveryLevelCountFitsItsWord) {
  for (int levels = 3; levels <= 256; ++levels) {
    if ((levels & (levels - 1)) == 0) continue;
    int64_t k = 0;
    unsigned __int128 product = 1, limit = (unsigned __int128)1 << 64;
    while (product * levels <= limit) {
      product *= levels;
      ++k;
    }
    EXPECT_EQ(ColumnBits(k, levels, Budget::kFile), 64) << levels;
    EXPECT_EQ(ColumnBits(k + 1, levels, Budget::kFile), 128) << levels;
  }
}

// Groups that are no multiple of the columns that are measured side by side,
// and one cut by the pieces of work; the last has one column. Squares that
// leave the range of float32 beside others.
TEST(MeasureDistortionTest, MatchesFloat64) {
  const int64_t rows = 300, columns = 331;
  const std::vector<float> w = RandomFloats(rows * columns, 0.1f, 31);
  const auto grid = MakeGrid(w.data(), rows, columns, {.group_size = 30});
  ASSERT_TRUE(grid.ok());
  std::vector<float> values(w);
  for (float& v : values) v *= 1.3f;  // Some clip.
  for (int64_t r = 0; r < rows; ++r) {
    values[r * columns + 1] *= 1e-25f;
    values[r * columns + 2] = 0;
  }
  std::vector<float> panels(w.size());
  PackPanels(values.data(), RowPanels(rows, columns), panels.data());
  const std::vector<int>& counts = MeasuredLevelCounts();
  SetThreads(1);
  const std::vector<double> got =
      MeasureDistortion(panels.data(), *grid, counts);
  SetThreads(3);
  EXPECT_EQ(MeasureDistortion(panels.data(), *grid, counts), got);
  SetThreads(0);
  for (int64_t j = 0; j < columns; ++j) {
    for (size_t c = 0; c < counts.size(); ++c) {
      double sum = 0;
      for (int64_t r = 0; r < rows; ++r) {
        const GridPoint p =
            MakeGridPoint(grid->Min(r, grid->GroupOf(j)),
                          grid->Max(r, grid->GroupOf(j)), counts[c]);
        const float v = values[r * columns + j];
        const double e = static_cast<double>(v) - Decode(Encode(v, p), p);
        sum += e * e;
      }
      EXPECT_NEAR(got[j * counts.size() + c], sum, 1e-4 * sum)
          << j << " at " << counts[c];
    }
  }
}

TEST(ExpandCurvesTest, KeepsMeasuredAndFollowsPowerLaws) {
  const std::vector<int>& from = MeasuredLevelCounts();
  const std::vector<int>& to = AllowedLevelCounts();
  EXPECT_EQ(from.front(), 1);
  EXPECT_EQ(from.back(), 256);
  EXPECT_EQ(to.front(), 1);
  EXPECT_EQ(to.back(), 256);
  std::vector<double> measured;
  for (int l : from) measured.push_back(l == 1 ? 7 : std::pow(l - 1, -2.0));
  for (size_t i = 0; i < from.size(); ++i) measured.push_back(0);
  const std::vector<double> out =
      ExpandCurves(measured, std::vector<double>{6, 1});
  ASSERT_EQ(out.size(), 2 * to.size());
  for (size_t i = 0; i < to.size(); ++i) {
    const double want = 3 * (to[i] == 1 ? 7 : std::pow(to[i] - 1, -2.0));
    EXPECT_NEAR(out[i], want, 1e-12 * want) << to[i];
    EXPECT_EQ(out[to.size() + i], 0);
  }
}

}  // namespace
}  // namespace bitwright::quant
