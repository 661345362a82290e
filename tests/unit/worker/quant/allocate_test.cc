#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/worker/quant/quant_test_util.h"
#include "worker/quant/baq.h"

namespace bitwright::quant {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;

// Curves like measured ones: falling as 1/(L−1)² with wiggles, 2 levels often
// as bad as 1, sizes over five orders of magnitude.
std::vector<double> RandomCurves(int64_t columns, uint32_t seed) {
  const std::vector<int>& counts = AllowedLevelCounts();
  const std::vector<float> noise =
      RandomFloats(columns * (counts.size() + 1), 1.0f, seed);
  std::vector<double> curves;
  for (int64_t j = 0; j < columns; ++j) {
    const float* z = noise.data() + j * (counts.size() + 1);
    const double size = std::exp(3.0 * z[counts.size()]);
    for (size_t i = 0; i < counts.size(); ++i) {
      const double l = counts[i];
      const double value =
          l == 1 ? 1.0 : std::min(0.9, 2.5 / ((l - 1) * (l - 1)));
      curves.push_back(size * value * (1 + 0.1 * std::tanh(z[i])));
    }
  }
  return curves;
}

double Cost(const AllocationProblem& p, const std::vector<uint16_t>& levels) {
  return BitsPerWeight(p.rows, p.groups, levels, p.budget);
}

// The least distortion of all allocations of two or three columns.
double BruteForce(const std::vector<double>& curves, int64_t columns,
                  const AllocationProblem& p) {
  const std::vector<int>& counts = AllowedLevelCounts();
  const int64_t k = static_cast<int64_t>(counts.size());
  double best = std::numeric_limits<double>::infinity();
  const double available = p.bits * static_cast<double>(p.rows * columns) -
                           SideBits(p.rows, columns, p.groups, p.budget) + 1e-6;
  std::vector<double> cost;
  for (int l : counts) cost.push_back(ColumnBits(p.rows, l, p.budget));
  for (int64_t a = 0; a < k; ++a) {
    for (int64_t b = 0; b < k; ++b) {
      for (int64_t c = 0; c < (columns == 3 ? k : 1); ++c) {
        const double spent = cost[a] + cost[b] + (columns == 3 ? cost[c] : 0);
        if (spent > available) continue;
        const double d =
            curves[a] + curves[k + b] + (columns == 3 ? curves[2 * k + c] : 0);
        best = std::min(best, d);
      }
    }
  }
  return best;
}

TEST(AllocateExactTest, TinyProblemsAreSolvedToOptimality) {
  for (uint32_t seed = 0; seed < 6; ++seed) {
    for (int64_t columns : {2, 3}) {
      for (Budget budget : {Budget::kCodes, Budget::kFile}) {
        const std::vector<double> curves = RandomCurves(columns, seed);
        const AllocationProblem p{
            .rows = 400, .bits = 1.3 + 0.9 * seed, .budget = budget};
        if (p.bits * 400 * columns < SideBits(400, columns, 1, budget)) {
          EXPECT_FALSE(AllocateExact(curves, columns, p).ok());
          continue;
        }
        const auto a = AllocateExact(curves, columns, p);
        ASSERT_TRUE(a.ok()) << a.status();
        EXPECT_LE(a->bits, p.bits);
        EXPECT_NEAR(a->distortion / BruteForce(curves, columns, p), 1, 1e-4);
      }
    }
  }
}

// Σ_j min_L (D_j(L) + λ cost(L)) − λ·budget bounds the optimum from below for
// every λ.
double LowerBound(const std::vector<double>& curves, int64_t columns,
                  const AllocationProblem& p) {
  const std::vector<int>& counts = AllowedLevelCounts();
  const double available = p.bits * static_cast<double>(p.rows * columns) -
                           SideBits(p.rows, columns, p.groups, p.budget);
  std::vector<double> cost;
  for (int l : counts) cost.push_back(ColumnBits(p.rows, l, p.budget));
  double best = 0;
  for (double lambda = 1e-9; lambda < 10; lambda *= 1.05) {
    double sum = -lambda * available;
    for (int64_t j = 0; j < columns; ++j) {
      double least = std::numeric_limits<double>::infinity();
      for (size_t i = 0; i < counts.size(); ++i) {
        least =
            std::min(least, curves[j * counts.size() + i] + lambda * cost[i]);
      }
      sum += least;
    }
    best = std::max(best, sum);
  }
  return best;
}

TEST(AllocateExactTest, CloseToTheLowerBoundAndTheBudget) {
  for (Budget budget : {Budget::kCodes, Budget::kFile}) {
    for (double bits : {1.0, 1.7, 2.0, 2.5, 3.1, 4.0, 5.5, 7.9}) {
      const std::vector<double> curves = RandomCurves(256, 7);
      const AllocationProblem p{
          .rows = 192, .groups = 2, .bits = bits, .budget = budget};
      const auto a = AllocateExact(curves, 256, p);
      ASSERT_TRUE(a.ok()) << a.status();
      EXPECT_LE(a->bits, bits);
      EXPECT_GE(a->bits, bits - 0.005);
      EXPECT_DOUBLE_EQ(a->bits, Cost(p, a->levels));
      EXPECT_LE(a->distortion, 1.01 * LowerBound(curves, 256, p)) << bits;
    }
  }
}

TEST(AllocateExactTest, SmallLayersMeetTheBudgetToo) {
  for (int64_t columns : {32, 64, 100}) {
    for (double bits : {1.5, 2.25, 3.0, 4.6}) {
      const AllocationProblem p{.rows = 64, .bits = bits};
      const auto a = AllocateExact(RandomCurves(columns, 9), columns, p);
      ASSERT_TRUE(a.ok());
      EXPECT_LE(a->bits, bits);
      EXPECT_GE(a->bits, bits - 0.005) << columns;
    }
  }
}

TEST(AllocateExactTest, SaturatesAt256Levels) {
  std::vector<double> curves = RandomCurves(20, 3);
  const auto a = AllocateExact(curves, 20, {.rows = 16, .bits = 9});
  ASSERT_TRUE(a.ok());
  EXPECT_EQ(a->bits, Cost({.rows = 16}, a->levels));
  // Strictly falling curves take everything there is.
  const std::vector<int>& counts = AllowedLevelCounts();
  for (size_t i = 0; i < curves.size(); ++i) {
    curves[i] = 1.0 / counts[i % counts.size()];
  }
  EXPECT_THAT(AllocateExact(curves, 20, {.rows = 16, .bits = 8})->levels,
              Each(256));
}

TEST(AllocateExactTest, ColumnsWithoutLossCostNothing) {
  std::vector<double> curves = RandomCurves(64, 5);
  const size_t k = AllowedLevelCounts().size();
  std::fill_n(curves.begin() + 10 * k, k, 0.0);
  const auto a = AllocateExact(curves, 64, {.rows = 64, .bits = 3});
  ASSERT_TRUE(a.ok());
  EXPECT_EQ(a->levels[10], 1);
  const auto none = AllocateExact(std::vector<double>(64 * k, 0.0), 64,
                                  {.rows = 64, .bits = 3});
  ASSERT_TRUE(none.ok());
  EXPECT_LE(none->bits, 3);
}

TEST(AllocateExactTest, Deterministic) {
  const std::vector<double> same(48 * AllowedLevelCounts().size(), 1.0);
  for (const std::vector<double>& curves : {RandomCurves(48, 8), same}) {
    const AllocationProblem p{.rows = 50, .bits = 2.7};
    EXPECT_EQ(AllocateExact(curves, 48, p)->levels,
              AllocateExact(curves, 48, p)->levels);
  }
}

TEST(AllocateExactTest, InfeasibleBudgetNamesTheSmallest) {
  // Side: 16·8 + 32·4·4 = 640 bits on 32 weights = 20 bits a weight.
  const auto a = AllocateExact(
      RandomCurves(8, 1), 8,
      {.rows = 4, .groups = 4, .bits = 8, .budget = Budget::kFile});
  EXPECT_EQ(a.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(a.status().message(), HasSubstr("20.0000"));
}

// A share of a model's budget is rounded down, and can so come out a hair below
// the side information of a linear that gets nothing else.
TEST(AllocateExactTest, AShareRoundedBelowTheSideInformationIsNoError) {
  const int64_t rows = 37, columns = 29, groups = 3;
  const std::vector<double> curves(columns * AllowedLevelCounts().size(), 1.0);
  const double side = SideBits(rows, columns, groups, Budget::kFile) /
                      static_cast<double>(rows * columns);
  const double grain = 0x1p-30;
  AllocationProblem problem{.rows = rows,
                            .groups = groups,
                            .bits = std::floor(side / grain) * grain,
                            .budget = Budget::kFile};
  ASSERT_LT(problem.bits, side);
  const auto allocation = AllocateExact(curves, columns, problem);
  ASSERT_TRUE(allocation.ok()) << allocation.status();
  EXPECT_EQ(allocation->levels, std::vector<uint16_t>(columns, 1));
  problem.bits = side - 1e-6;
  EXPECT_FALSE(AllocateExact(curves, columns, problem).ok());
}

}  // namespace
}  // namespace bitwright::quant
