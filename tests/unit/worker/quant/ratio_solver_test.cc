#include "worker/quant/ratio_solver.h"

#include <Eigen/Dense>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <iostream>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/quant/ratio_search.h"

namespace bitwright::quant {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Matrix =
    Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Rng = std::mt19937_64;

int Draw(Rng& rng, int least, int most) {
  return std::uniform_int_distribution<int>(least, most)(rng);
}

std::vector<double> Values(const Matrix& m) {
  return {m.data(), m.data() + m.size()};
}

Matrix Normal(Rng& rng, int64_t rows, int64_t columns) {
  std::normal_distribution<double> normal;
  return Matrix::NullaryExpr(rows, columns, [&] { return normal(rng); });
}

int64_t Bits(const RatioProblem& problem, const std::vector<int>& choice) {
  int64_t bits = 0;
  for (size_t l = 0; l < choice.size(); ++l) {
    bits += problem.costs.empty()
                ? RatioCost(problem.linears[l], problem.ratios[choice[l]],
                            problem.bits_normal, problem.bits_high)
                : problem.costs[l * problem.ratios.size() + choice[l]];
  }
  return bits;
}

// All with the first option, and all with the last.
std::pair<int64_t, int64_t> Limits(const RatioProblem& problem) {
  const size_t linears = problem.linears.size();
  const int last = static_cast<int>(problem.ratios.size()) - 1;
  return {Bits(problem, std::vector<int>(linears, 0)),
          Bits(problem, std::vector<int>(linears, last))};
}

// 2..6 linears in 1..3 blocks, 2..4 options.
RatioProblem RandomProblem(Rng& rng, bool psd) {
  RatioProblem problem;
  const int options = Draw(rng, 2, 4), linears = Draw(rng, 2, 6);
  const int blocks = Draw(rng, 1, 3);
  double ratio = 0;
  for (int o = 0; o < options; ++o) {
    ratio += Draw(rng, 1, 20) / 100.0;
    problem.ratios.push_back(ratio);
  }
  problem.bits_normal = Draw(rng, 2, 3);
  problem.bits_high = problem.bits_normal + Draw(rng, 1, 3);
  for (int l = 0; l < linears; ++l) {
    problem.linears.push_back({.block = int64_t{l} * blocks / linears,
                               .rows = Draw(rng, 3, 40),
                               .cols = Draw(rng, 3, 40)});
  }
  const int n = linears * options;
  const Matrix half = Normal(rng, n, Draw(rng, 1, n + 2));
  const Matrix m =
      psd ? Matrix(half * half.transpose()) : Matrix(Normal(rng, n, n));
  problem.m = Values(Matrix((m + m.transpose()) / 2));
  const auto [least, most] = Limits(problem);
  problem.budget_bits =
      std::uniform_int_distribution<int64_t>(least, most)(rng);
  return problem;
}

// The least objective of all choices within the budget.
double BruteForce(const RatioProblem& problem, Interactions interactions) {
  const int options = static_cast<int>(problem.ratios.size());
  std::vector<int> choice(problem.linears.size(), 0);
  double best = std::numeric_limits<double>::infinity();
  for (size_t at = 0; at < choice.size();) {
    if (Bits(problem, choice) <= problem.budget_bits) {
      best = std::min(best, RatioObjective(problem, choice, interactions));
    }
    for (at = 0; at < choice.size() && ++choice[at] == options; ++at) {
      choice[at] = 0;
    }
  }
  return best;
}

// What objectives of the problem are sums of.
double Size(const RatioProblem& problem) {
  double largest = 0;
  for (double value : problem.m) largest = std::max(largest, std::abs(value));
  return largest * static_cast<double>(problem.linears.size());
}

void ExpectBest(const RatioProblem& problem, Interactions interactions) {
  const auto solution = SolveRatios(problem, interactions);
  ASSERT_TRUE(solution.ok()) << solution.status();
  EXPECT_TRUE(solution->optimal);
  EXPECT_EQ(solution->bits, Bits(problem, solution->choice));
  EXPECT_LE(solution->bits, problem.budget_bits);
  EXPECT_EQ(solution->objective,
            RatioObjective(problem, solution->choice, interactions));
  EXPECT_NEAR(solution->objective, BruteForce(problem, interactions),
              1e-12 * Size(problem));
}

class RatioInteractions : public testing::TestWithParam<Interactions> {};

TEST_P(RatioInteractions, AsGoodAsTryingAllChoices) {
  Rng rng(1);
  for (int i = 0; i < 10000 && !HasFailure(); ++i) {
    SCOPED_TRACE(absl::StrCat("instance ", i));
    ExpectBest(RandomProblem(rng, /*psd=*/true), GetParam());
  }
}

TEST_P(RatioInteractions, AsGoodForAnIndefiniteMatrix) {
  Rng rng(2);
  for (int i = 0; i < 1000 && !HasFailure(); ++i) {
    SCOPED_TRACE(absl::StrCat("instance ", i));
    ExpectBest(RandomProblem(rng, /*psd=*/false), GetParam());
  }
}

TEST_P(RatioInteractions, CostsNeedNotGrowWithTheRatio) {
  Rng rng(3);
  for (int i = 0; i < 1000 && !HasFailure(); ++i) {
    SCOPED_TRACE(absl::StrCat("instance ", i));
    RatioProblem problem = RandomProblem(rng, /*psd=*/true);
    const size_t options = problem.ratios.size();
    int64_t least = 0, most = 0;
    for (size_t l = 0; l < problem.linears.size(); ++l) {
      for (size_t o = 0; o < options; ++o) {
        problem.costs.push_back(Draw(rng, 1, 12));
      }
      const auto [low, high] = std::minmax_element(
          problem.costs.end() - static_cast<int64_t>(options),
          problem.costs.end());
      least += *low;
      most += *high;
    }
    problem.budget_bits =
        std::uniform_int_distribution<int64_t>(least, most)(rng);
    ExpectBest(problem, GetParam());
  }
}

TEST_P(RatioInteractions, TheSmallestAndTheLargestBudgetArePossible) {
  Rng rng(4);
  RatioProblem problem = RandomProblem(rng, /*psd=*/true);
  const auto [least, most] = Limits(problem);
  problem.budget_bits = least;
  ExpectBest(problem, GetParam());
  problem.budget_bits = most;
  ExpectBest(problem, GetParam());
}

INSTANTIATE_TEST_SUITE_P(All, RatioInteractions,
                         testing::Values(Interactions::kNone,
                                         Interactions::kBlock,
                                         Interactions::kAll));

// 80 blocks of 7 linears with 5 options: what a change of a linear does to the
// output shrinks with the ratio, has a part in common with all others, and one
// with those of its block.
RatioProblem LargeProblem() {
  RatioProblem problem{
      .ratios = {0.02, 0.05, 0.1, 0.15, 0.2}, .bits_normal = 2, .bits_high = 3};
  Rng rng(5);
  constexpr int kBlocks = 80, kLinears = 7, kRank = 24;
  constexpr int64_t kSizes[kLinears][2] = {
      {8192, 8192},  {1024, 8192},  {1024, 8192}, {8192, 8192},
      {28672, 8192}, {28672, 8192}, {8192, 28672}};
  const int n = kBlocks * kLinears * static_cast<int>(problem.ratios.size());
  Matrix common(n, kRank), within(n, kRank);
  Eigen::VectorXd alone(n);
  std::uniform_real_distribution<double> uniform(0, 1);
  for (int l = 0, i = 0; l < kBlocks * kLinears; ++l) {
    const int block = l / kLinears;
    const int64_t* size = kSizes[l % kLinears];
    problem.linears.push_back(
        {.block = block, .rows = size[0], .cols = size[1]});
    const double strength = std::exp(2 * uniform(rng)) *
                            static_cast<double>(size[0] * size[1]) / 1e8;
    const double decay = 1 + 3 * uniform(rng);
    const Matrix all = Normal(rng, 1, kRank), own = Normal(rng, 1, kRank);
    for (double ratio : problem.ratios) {
      const double scale = strength * std::exp(-decay * ratio);
      common.row(i) = 0.3 * scale * (all + 0.1 * Normal(rng, 1, kRank));
      within.row(i) = 0.5 * scale * (own + 0.1 * Normal(rng, 1, kRank));
      alone[i++] = kRank * scale * scale;
    }
  }
  Matrix m = common * common.transpose();
  m.diagonal() += alone;
  for (int first = 0, size = n / kBlocks; first < n; first += size) {
    const auto moves = within.middleRows(first, size);
    m.block(first, first, size, size) += moves * moves.transpose();
  }
  problem.m = Values(Matrix((m + m.transpose()) / 2));
  const auto [least, most] = Limits(problem);
  problem.budget_bits = least + (most - least) * 2 / 5;
  return problem;
}

TEST(RatioSolver, LargeModel) {
  const RatioProblem problem = LargeProblem();
  const auto uniform = UniformRatio(problem);
  ASSERT_TRUE(uniform.ok()) << uniform.status();
  double all = uniform->objective;
  for (const auto& [name, interactions] :
       std::vector<std::pair<std::string, Interactions>>{
           {"none", Interactions::kNone},
           {"block", Interactions::kBlock},
           {"all", Interactions::kAll}}) {
    const auto start = std::chrono::steady_clock::now();
    const auto solution = SolveRatios(problem, interactions);
    const std::chrono::duration<double> seconds =
        std::chrono::steady_clock::now() - start;
    ASSERT_TRUE(solution.ok()) << solution.status();
    EXPECT_EQ(solution->optimal, interactions != Interactions::kAll) << name;
    EXPECT_LE(solution->bits, problem.budget_bits) << name;
    EXPECT_EQ(solution->bits, Bits(problem, solution->choice)) << name;
    const double judged =
        RatioObjective(problem, solution->choice, Interactions::kAll);
    std::cout << name << ": " << seconds.count() << " s, objective "
              << solution->objective << ", by all entries " << judged << ", "
              << problem.budget_bits - solution->bits << " bits left\n";
    if (interactions == Interactions::kAll) {
      EXPECT_LE(judged, all) << name;
    }
    all = std::min(all, judged);
  }
  std::cout << "uniform: by all entries " << uniform->objective << "\n";
}

TEST(RatioSolver, AllEntriesAreExactWhereBlocksHaveNothingInCommon) {
  RatioProblem problem = LargeProblem();
  const size_t n = problem.linears.size() * problem.ratios.size();
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      if (i / 35 != j / 35) problem.m[i * n + j] = 0;
    }
  }
  const auto block = SolveRatios(problem, Interactions::kBlock);
  const auto all = SolveRatios(problem, Interactions::kAll);
  ASSERT_TRUE(block.ok() && all.ok());
  EXPECT_TRUE(all->optimal);
  EXPECT_EQ(all->choice, block->choice);
}

TEST(RatioSolver, ABlockWithTooManyChoicesIsSearched) {
  RatioProblem problem = LargeProblem();
  const size_t linears = 28, n = linears * problem.ratios.size();
  const size_t stride = problem.linears.size() * problem.ratios.size();
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      problem.m[i * n + j] = problem.m[i * stride + j];
    }
  }
  problem.m.resize(n * n);
  problem.linears.resize(linears);
  for (RatioLinear& linear : problem.linears) linear.block = 0;
  const auto [least, most] = Limits(problem);
  problem.budget_bits = (least + most) / 2;
  const auto solution = SolveRatios(problem, Interactions::kBlock);
  ASSERT_TRUE(solution.ok()) << solution.status();
  EXPECT_FALSE(solution->optimal);
  EXPECT_LE(solution->bits, problem.budget_bits);
  for (int option = 0; option < 3; ++option) {
    const std::vector<int> uniform(linears, option);
    if (Bits(problem, uniform) > problem.budget_bits) continue;
    EXPECT_LE(solution->objective,
              RatioObjective(problem, uniform, Interactions::kBlock));
  }
}

TEST(RatioSearch, EndsWhereNoChangeOfTwoLinearsIsBetter) {
  Rng rng(6);
  for (int i = 0; i < 300 && !HasFailure(); ++i) {
    const RatioProblem problem = RandomProblem(rng, /*psd=*/true);
    const int options = static_cast<int>(problem.ratios.size());
    const int linears = static_cast<int>(problem.linears.size());
    std::vector<int64_t> costs;
    for (const RatioLinear& linear : problem.linears) {
      for (double ratio : problem.ratios) {
        costs.push_back(
            RatioCost(linear, ratio, problem.bits_normal, problem.bits_high));
      }
    }
    std::vector<int> choice(linears, 0);
    ImproveChoice({.options = options,
                   .m = problem.m,
                   .costs = costs,
                   .budget = problem.budget_bits},
                  &choice);
    ASSERT_LE(Bits(problem, choice), problem.budget_bits);
    const double found = RatioObjective(problem, choice, Interactions::kAll);
    for (int l = 0; l < linears; ++l) {
      for (int k = 0; k < linears; ++k) {
        for (int pair = 0; pair < options * options; ++pair) {
          std::vector<int> other = choice;
          other[l] = pair / options;
          other[k] = pair % options;
          if (Bits(problem, other) > problem.budget_bits) continue;
          EXPECT_GE(RatioObjective(problem, other, Interactions::kAll),
                    found - 1e-11 * Size(problem));
        }
      }
    }
  }
}

TEST(RatioCost, CountsCodesAndOneBitARow) {
  // 10 rows of 8 columns, 3 of them (2.5, rounded) with 3 bits, the rest 2.
  EXPECT_EQ(HighRows(0.25, 10), 3);
  EXPECT_EQ(RatioCost({.block = 0, .rows = 10, .cols = 8}, 0.25, 2, 3),
            7 * 8 * 2 + 3 * 8 * 3 + 10);
  EXPECT_EQ(HighRows(0.01, 10), 0);
  EXPECT_EQ(HighRows(0.999, 10), 10);
}

// Two linears of [10, 4] that do not act on each other.
RatioProblem SmallProblem() {
  RatioProblem problem{.ratios = {0.1, 0.5}, .bits_normal = 2, .bits_high = 3};
  problem.linears = {{.block = 0, .rows = 10, .cols = 4},
                     {.block = 1, .rows = 10, .cols = 4}};
  problem.m = {5, 0, 0, 0,  //
               0, 4, 0, 0,  //
               0, 0, 9, 0,  //
               0, 0, 0, 3};
  problem.budget_bits = 94 + 110;
  return problem;
}

TEST(RatioSolver, TheLinearThatGainsMoreGetsTheBits) {
  const auto solution = SolveRatios(SmallProblem(), Interactions::kNone);
  ASSERT_TRUE(solution.ok()) << solution.status();
  EXPECT_THAT(solution->choice, ElementsAre(0, 1));
  EXPECT_EQ(solution->objective, 8);
  EXPECT_EQ(solution->bits, 94 + 110);
}

TEST(UniformRatio, IsTheBestOneWithinTheBudget) {
  RatioProblem problem = SmallProblem();
  auto solution = UniformRatio(problem);
  ASSERT_TRUE(solution.ok()) << solution.status();
  EXPECT_THAT(solution->choice, ElementsAre(0, 0));
  EXPECT_EQ(solution->objective, 14);
  EXPECT_EQ(solution->bits, 188);
  EXPECT_FALSE(solution->optimal);
  problem.budget_bits = 220;
  solution = UniformRatio(problem);
  ASSERT_TRUE(solution.ok()) << solution.status();
  EXPECT_THAT(solution->choice, ElementsAre(1, 1));
  // Entries of pairs count, too.
  problem.m[1 * 4 + 3] = problem.m[3 * 4 + 1] = 10;
  solution = UniformRatio(problem);
  ASSERT_TRUE(solution.ok()) << solution.status();
  EXPECT_THAT(solution->choice, ElementsAre(0, 0));
}

TEST(UniformRatio, SaysWhatOneRatioForAllTakes) {
  RatioProblem problem = SmallProblem();
  problem.costs = {10, 20, 20, 10};
  problem.budget_bits = 25;
  EXPECT_TRUE(SolveRatios(problem, Interactions::kAll).ok());
  const absl::Status status = UniformRatio(problem).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("25"), HasSubstr("30")));
}

void ExpectRefused(const RatioProblem& problem, const std::string& part,
                   const std::string& other = "") {
  for (Interactions interactions :
       {Interactions::kNone, Interactions::kBlock, Interactions::kAll}) {
    const absl::Status status = SolveRatios(problem, interactions).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr(part), HasSubstr(other)));
  }
  EXPECT_EQ(UniformRatio(problem).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(RatioSolver, AnImpossibleBudgetNamesBothLimits) {
  RatioProblem problem = SmallProblem();
  problem.budget_bits = 187;
  ExpectRefused(problem, "187 bits is below", "from 188");
  ExpectRefused(problem, "187 bits is below", "to 220");
  problem.budget_bits = 221;
  ExpectRefused(problem, "221 bits is above", "from 188");
  ExpectRefused(problem, "221 bits is above", "to 220");
}

TEST(RatioSolver, RefusesBadOptions) {
  for (std::vector<double> ratios : {std::vector<double>{0, 0.1},
                                     {0.5, 1},
                                     {0.5, 0.1},
                                     {0.1, 0.1},
                                     {0.1, std::nan("")}}) {
    RatioProblem problem = SmallProblem();
    problem.ratios = std::move(ratios);
    ExpectRefused(problem, "ratio ", "ascending");
  }
  RatioProblem problem = SmallProblem();
  problem.ratios.clear();
  ExpectRefused(problem, "0 ratios");
  problem = SmallProblem();
  problem.linears.clear();
  ExpectRefused(problem, "0 linears");
  problem = SmallProblem();
  problem.bits_high = 2;
  ExpectRefused(problem, "2 and of 2 bits");
  problem.bits_high = 17;
  ExpectRefused(problem, "at most 16");
  problem = SmallProblem();
  problem.bits_normal = 0;
  ExpectRefused(problem, "rows of 0");
}

TEST(RatioSolver, RefusesBadLinears) {
  RatioProblem problem = SmallProblem();
  problem.linears[1].rows = 0;
  ExpectRefused(problem, "linear 1 has 0 rows");
  problem = SmallProblem();
  problem.linears[0].cols = int64_t{1} << 60;
  ExpectRefused(problem, "linear 0");
  problem = SmallProblem();
  problem.costs = {1, 2, 3};
  ExpectRefused(problem, "3 costs for 4 options");
  problem.costs = {1, 2, 3, 0};
  ExpectRefused(problem, "linear 1 takes 0 bits");
  problem.costs = {1, 2, 3, std::numeric_limits<int64_t>::max()};
  ExpectRefused(problem, "too many");
  // A block that comes twice.
  problem = SmallProblem();
  problem.linears.push_back(problem.linears[0]);
  problem.m.assign(36, 0);
  ExpectRefused(problem, "linear 2 is of block 0");
}

TEST(RatioSolver, RefusesABadMatrix) {
  RatioProblem problem = SmallProblem();
  problem.m.pop_back();
  ExpectRefused(problem, "M has 15 values", "4 rows of 4");
  problem = SmallProblem();
  problem.m[6] = std::numeric_limits<double>::infinity();
  ExpectRefused(problem, "M[1, 2] is inf");
  problem.m[6] = std::nan("");
  ExpectRefused(problem, "M[1, 2] is nan");
  problem.m[6] = 0.5;
  ExpectRefused(problem, "symmetric", "M[1, 2]");
  // What rounding leaves is no asymmetry.
  problem.m[6] = 1e-12;
  EXPECT_TRUE(SolveRatios(problem, Interactions::kAll).ok());
}

}  // namespace
}  // namespace bitwright::quant
