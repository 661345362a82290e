#include "worker/quant/model_scope.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bitwright::quant {
namespace {

using testing::HasSubstr;

// Distortion that falls about as 4^-bits from `scale` on, with a bump that
// keeps it off the convex hull here and there.
std::vector<double> Curves(int64_t columns, double scale, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<double> spread(0.3, 3), bump(0.9, 1.3);
  std::vector<double> curves;
  for (int64_t j = 0; j < columns; ++j) {
    const double height = scale * spread(random);
    for (int levels : AllowedLevelCounts()) {
      curves.push_back(height / (levels * levels) * bump(random));
    }
  }
  return curves;
}

TradeOff Make(const std::string& name, int64_t rows, int64_t columns,
              double scale, unsigned seed, Budget budget, int64_t groups = 1) {
  auto made = TradeOff::Create(
      {.name = name, .rows = rows, .columns = columns, .groups = groups},
      Curves(columns, scale, seed), budget);
  EXPECT_TRUE(made.ok()) << made.status();
  return *std::move(made);
}

// Least Σ s_l·2·D over all level counts of all columns within `budget` bits of
// the whole model, by trying the costs one column at a time.
double BruteForce(const std::vector<TradeOff>& linears,
                  const std::vector<std::vector<double>>& curves,
                  const std::vector<double>& sensitivities, double budget) {
  // Pareto-optimal (cost, loss) sums; nothing is left out but dominated ones.
  std::vector<std::pair<double, double>> states{{0, 0}};
  const std::vector<int>& counts = AllowedLevelCounts();
  for (size_t l = 0; l < linears.size(); ++l) {
    const TradeOff::Shape& shape = linears[l].shape();
    for (auto& state : states) state.first += linears[l].start();
    for (int64_t j = 0; j < shape.columns; ++j) {
      std::vector<std::pair<double, double>> next;
      for (const auto& [cost, loss] : states) {
        for (size_t p = 0; p < counts.size(); ++p) {
          const double c =
              cost + ColumnBits(shape.rows, counts[p], linears[l].budget());
          if (c > budget + 1e-9) continue;
          next.push_back({c, loss + sensitivities[l] * 2 *
                                        curves[l][j * counts.size() + p]});
        }
      }
      std::sort(next.begin(), next.end());
      states.clear();
      for (const auto& state : next) {
        if (states.empty() || state.second < states.back().second) {
          states.push_back(state);
        }
      }
    }
  }
  return states.back().second;
}

TEST(TradeOff, IsExactWhereAColumnsStepEnds) {
  const TradeOff t = Make("l", 24, 5, 1, 1, Budget::kFile);
  double bits = t.start(), loss = t.Describe(0, 0).loss;
  for (size_t i = 0; i < t.steps().size(); ++i) {
    bits += t.Cost(t.steps()[i]);
    loss -= t.steps()[i].slope * t.Cost(t.steps()[i]);
    const LinearAllocation at = t.At(bits / t.weights());
    EXPECT_NEAR(at.loss, loss, 1e-12 * t.Describe(0, 0).loss);
    EXPECT_NEAR(at.bits * t.weights(), bits, 1e-9 * bits);
    EXPECT_NEAR(at.file_bits, at.bits, 1e-12);
    if (i > 0) {
      EXPECT_LE(t.steps()[i].slope, t.steps()[i - 1].slope);
    }
  }
}

TEST(TradeOff, IsALowerBoundOfAllocateExactAndCloseToIt) {
  for (Budget budget : {Budget::kCodes, Budget::kFile}) {
    const int64_t rows = 64, columns = 96;
    const std::vector<double> curves = Curves(columns, 1, 7);
    auto t = TradeOff::Create({.name = "l", .rows = rows, .columns = columns},
                              curves, budget);
    ASSERT_TRUE(t.ok());
    for (double bits : {1.5, 2.0, 2.7, 4.0}) {
      auto exact = AllocateExact(
          curves, columns,
          {.rows = rows, .groups = 1, .bits = bits, .budget = budget});
      ASSERT_TRUE(exact.ok());
      const double bound = t->At(bits).loss;
      EXPECT_LE(bound, 2 * exact->distortion * (1 + 1e-12)) << bits;
      EXPECT_GT(bound, 2 * exact->distortion * 0.98) << bits;
    }
  }
}

TEST(TradeOff, UniformCountsBothWays) {
  const TradeOff t = Make("l", 10, 3, 1, 2, Budget::kFile);
  const LinearAllocation two = t.Uniform(4);
  EXPECT_DOUBLE_EQ(two.code_bits, 2);
  // 10 codes of 2 bits are 24 in whole bytes; 16 a column, 32 a row.
  EXPECT_DOUBLE_EQ(two.file_bits, (3 * (24 + 16) + 320) / 30.0);
  EXPECT_DOUBLE_EQ(two.bits, two.file_bits);
}

TEST(TradeOff, RefusesWhatIsNoCurve) {
  std::vector<double> curves = Curves(2, 1, 1);
  EXPECT_THAT(
      std::string(TradeOff::Create({.name = "q", .rows = 4, .columns = 3},
                                   curves, Budget::kCodes)
                      .status()
                      .message()),
      HasSubstr("q: "));
  curves[AllowedLevelCounts().size() + 2] =
      std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(
      std::string(TradeOff::Create({.name = "q", .rows = 4, .columns = 2},
                                   curves, Budget::kCodes)
                      .status()
                      .message()),
      HasSubstr("column 1 at 3 levels"));
}

TEST(WaterFill, IsNeverWorseThanTheBestOfWholeColumns) {
  std::vector<TradeOff> linears;
  std::vector<std::vector<double>> curves;
  const std::vector<double> sensitivities = {1, 20, 0.3};
  const int64_t rows[] = {8, 16, 64};
  double weights = 0;
  for (int l = 0; l < 3; ++l) {
    curves.push_back(Curves(2, 1 + l, 10 + l));
    auto t = TradeOff::Create({.name = "l", .rows = rows[l], .columns = 2},
                              curves[l], Budget::kCodes);
    ASSERT_TRUE(t.ok());
    weights += t->weights();
    linears.push_back(*std::move(t));
  }
  int compared = 0;
  for (double bits = 2.5; bits < 6.5; bits += 0.37) {
    auto filled = WaterFill(linears, sensitivities, bits);
    ASSERT_TRUE(filled.ok());
    EXPECT_LE(filled->bits, bits);
    bool clamped = false;
    for (int l = 0; l < 3; ++l) {
      const double got = filled->linears[l].bits * linears[l].weights();
      clamped |= got <= linears[l].least(bits - kMostBelowMean) + 1e-6 ||
                 got >= linears[l].most() - 1e-6;
    }
    if (clamped) continue;  // The brute force knows no limits.
    const double brute =
        BruteForce(linears, curves, sensitivities, bits * weights);
    EXPECT_LE(filled->weighted_loss, brute * (1 + 1e-9)) << bits;
    EXPECT_GT(filled->weighted_loss, 0.7 * brute) << bits;
    ++compared;
  }
  EXPECT_GT(compared, 3);
}

TEST(WaterFill, IsOptimalAtEveryStepOfOneModel) {
  std::vector<TradeOff> linears;
  std::vector<std::vector<double>> curves;
  const std::vector<double> sensitivities = {1, 3};
  double weights = 0;
  for (int l = 0; l < 2; ++l) {
    curves.push_back(Curves(2, 1, 20 + l));
    auto t = TradeOff::Create({.name = "l", .rows = 8 << l, .columns = 2},
                              curves[l], Budget::kCodes);
    ASSERT_TRUE(t.ok());
    weights += t->weights();
    linears.push_back(*std::move(t));
  }
  // The same merged steps, taken by hand; at the end of each a brute force
  // over whole columns must come to the very same loss.
  std::vector<std::pair<double, std::pair<int, TradeOff::Step>>> steps;
  double loss = 0;
  for (int l = 0; l < 2; ++l) {
    loss += sensitivities[l] * linears[l].Describe(0, 0).loss;
    for (const TradeOff::Step& s : linears[l].steps()) {
      steps.push_back({sensitivities[l] * s.slope, {l, s}});
    }
  }
  std::stable_sort(
      steps.begin(), steps.end(),
      [](const auto& a, const auto& b) { return a.first > b.first; });
  double spent = 0;
  double per_linear[2] = {0, 0};
  int compared = 0;
  for (const auto& [slope, step] : steps) {
    const auto& [l, s] = step;
    spent += linears[l].Cost(s);
    per_linear[l] += linears[l].Cost(s);
    loss -= slope * linears[l].Cost(s);
    bool free = true;
    for (int k = 0; k < 2; ++k) {
      free &= per_linear[k] >=
                  linears[k].least(std::max(
                      kMinLinearBits, spent / weights - kMostBelowMean)) &&
              per_linear[k] <= linears[k].most();
    }
    if (!free) continue;
    auto filled = WaterFill(linears, sensitivities, spent / weights);
    ASSERT_TRUE(filled.ok()) << filled.status();
    const double brute = BruteForce(linears, curves, sensitivities, spent);
    EXPECT_NEAR(filled->weighted_loss, loss, 1e-9 * loss);
    EXPECT_NEAR(filled->weighted_loss, brute, 1e-6 * brute);
    ++compared;
  }
  EXPECT_GT(compared, 10);
}

TEST(WaterFill, MeetsTheBudgetFromBelowAndKeepsTheLimits) {
  for (Budget budget : {Budget::kCodes, Budget::kFile}) {
    std::vector<TradeOff> linears;
    for (int l = 0; l < 5; ++l) {
      linears.push_back(
          Make("l", 64 << (l % 2), 48, std::pow(10, l), l, budget));
    }
    // So different that one wants nothing and another everything.
    const std::vector<double> sensitivities = {1e-12, 1, 1, 1, 1e12};
    for (double bits : {2.0, 2.5, 3.3, 5.0}) {
      auto filled = WaterFill(linears, sensitivities, bits);
      ASSERT_TRUE(filled.ok()) << filled.status();
      EXPECT_LE(filled->bits, bits);
      EXPECT_GT(filled->bits, bits - 1e-6);
      EXPECT_NEAR(
          budget == Budget::kCodes ? filled->code_bits : filled->file_bits,
          bits, 1e-6);
      for (const LinearAllocation& share : filled->linears) {
        EXPECT_GE(share.bits, kMinLinearBits);
        EXPECT_LE(share.bits, kMaxLinearBits);
      }
      EXPECT_NEAR(
          filled->linears[0].bits,
          linears[0].least(bits - kMostBelowMean) / linears[0].weights(), 1e-6);
      EXPECT_GT(filled->linears[4].bits, std::min(7.9, bits + 2));
    }
  }
}

TEST(WaterFill, BeatsSpreadingEvenly) {
  std::vector<TradeOff> linears;
  for (int l = 0; l < 4; ++l) {
    linears.push_back(Make("l", 32, 64, 1, l, Budget::kCodes));
  }
  const std::vector<double> sensitivities = {1, 2, 4, 8};
  auto filled = WaterFill(linears, sensitivities, 3);
  auto even = SpreadEvenly(linears, sensitivities, 3);
  ASSERT_TRUE(filled.ok() && even.ok());
  EXPECT_LT(filled->weighted_loss, 0.9 * even->weighted_loss);
  for (int l = 1; l < 4; ++l) {
    // Loss falls by 4 for each bit, so twice the weight buys half a bit.
    EXPECT_NEAR(filled->linears[l].bits - filled->linears[l - 1].bits, 0.5,
                0.15);
    EXPECT_EQ(even->linears[l].bits, 3);
  }
}

TEST(WaterFill, EqualLinearsGetEqualBits) {
  std::vector<TradeOff> linears;
  for (int l = 0; l < 3; ++l) {
    linears.push_back(Make("l", 32, 64, 1, 5, Budget::kCodes));
  }
  auto filled = WaterFill(linears, {2, 2, 2}, 2.5);
  ASSERT_TRUE(filled.ok());
  EXPECT_NEAR(filled->linears[0].bits, 2.5, 0.02);
  EXPECT_NEAR(filled->linears[2].bits, 2.5, 0.02);
}

TEST(WaterFill, ZeroSensitivityGetsTheLeast) {
  std::vector<TradeOff> linears;
  linears.push_back(Make("a", 32, 64, 1, 5, Budget::kCodes));
  linears.push_back(Make("b", 32, 64, 1, 6, Budget::kCodes));
  auto filled = WaterFill(linears, {0, 1}, 3);
  ASSERT_TRUE(filled.ok());
  EXPECT_NEAR(filled->linears[0].bits, 3 - kMostBelowMean, 1e-6);
  EXPECT_NEAR(filled->linears[1].bits, 3 + kMostBelowMean, 1e-6);
  filled = WaterFill(linears, {0, 1}, 1.5);
  ASSERT_TRUE(filled.ok());
  EXPECT_NEAR(filled->linears[0].bits, kMinLinearBits, 1e-6);
}

TEST(WaterFill, GoesFurtherBelowTheMeanWhereSideInformationMustBePaid) {
  std::vector<TradeOff> linears;
  linears.push_back(Make("side", 16, 64, 1, 5, Budget::kFile, 32));
  linears.push_back(Make("lean", 112, 110, 1, 6, Budget::kFile));
  // The first takes 17 bits whatever it gets, and the mean is above 2.5.
  const double bits = (linears[0].least() + 1.5 * linears[1].weights()) /
                      (linears[0].weights() + linears[1].weights());
  ASSERT_GT(bits, 1.5 + kMostBelowMean);
  auto filled = WaterFill(linears, {1, 1}, bits);
  ASSERT_TRUE(filled.ok()) << filled.status();
  EXPECT_NEAR(filled->linears[1].bits, 1.5, 1e-3);
}

TEST(WaterFill, ClearErrors) {
  std::vector<TradeOff> linears;
  linears.push_back(Make("alpha", 16, 64, 1, 5, Budget::kFile, 32));
  const double least = linears[0].least() / linears[0].weights();
  EXPECT_NEAR(least, 17.0, 1e-9);  // 16 / 16 rows + 32 · 32 / 64 columns.
  EXPECT_THAT(std::string(WaterFill(linears, {1}, 3).status().message()),
              HasSubstr("smallest possible is 17.0000"));
  EXPECT_THAT(std::string(AllocateModules(linears, {1}, {0},
                                          ModuleColumns::kAllocated, 8)
                              .status()
                              .message()),
              HasSubstr("larger groups"));
  for (double bad : {-1.0, std::numeric_limits<double>::infinity(),
                     std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_THAT(std::string(WaterFill(linears, {bad}, 20).status().message()),
                HasSubstr("alpha: the sensitivity"));
  }
  EXPECT_FALSE(WaterFill(linears, {1, 2}, 20).ok());
  EXPECT_FALSE(WaterFill({}, {}, 20).ok());
}

// Every combination.
std::pair<double, int64_t> TryAll(
    const std::vector<std::vector<Choice>>& groups, int64_t budget) {
  std::pair<double, int64_t> best{std::numeric_limits<double>::infinity(), 0};
  std::function<void(size_t, int64_t, double)> visit =
      [&](size_t g, int64_t cost, double loss) {
        if (cost > budget) return;
        if (g == groups.size()) {
          best = std::min(best, {loss, cost});
          return;
        }
        for (const Choice& choice : groups[g]) {
          visit(g + 1, cost + choice.cost, loss + choice.loss);
        }
      };
  visit(0, 0, 0);
  return best;
}

TEST(SolveChoices, MatchesBruteForce) {
  std::mt19937 random(3);
  int feasible = 0, infeasible = 0;
  for (int round = 0; round < 600; ++round) {
    const int kinds = 1 + static_cast<int>(random() % 6);
    // Big common divisors, small ones, and none; losses with many ties.
    const int64_t grain = std::vector<int64_t>{1, 7, 1 << 20}[round % 3];
    std::vector<std::vector<Choice>> groups(kinds);
    int64_t most = 0;
    for (auto& group : groups) {
      const int choices = 1 + static_cast<int>(random() % 6);
      int64_t dearest = 0;
      for (int c = 0; c < choices; ++c) {
        group.push_back({grain * static_cast<int64_t>(random() % 40),
                         round % 2 == 0 ? static_cast<double>(random() % 5)
                                        : random() % 100000 / 997.0});
        dearest = std::max(dearest, group.back().cost);
      }
      most += dearest;
    }
    const int64_t budget =
        static_cast<int64_t>(random() % 1000) * most / 900 - 3;
    const auto [loss, cost] = TryAll(groups, budget);
    auto picked = SolveChoices(groups, budget);
    if (std::isinf(loss)) {
      EXPECT_FALSE(picked.ok());
      ++infeasible;
      continue;
    }
    ASSERT_TRUE(picked.ok()) << picked.status();
    double got_loss = 0;
    int64_t got_cost = 0;
    for (size_t g = 0; g < groups.size(); ++g) {
      got_loss += groups[g][(*picked)[g]].loss;
      got_cost += groups[g][(*picked)[g]].cost;
    }
    EXPECT_LE(got_cost, budget);
    EXPECT_NEAR(got_loss, loss, 1e-9 * (1 + loss)) << "round " << round;
    if (round % 2 == 0) {
      EXPECT_EQ(got_cost, cost) << "round " << round;
    }
    ++feasible;
  }
  EXPECT_GT(feasible, 300);
  EXPECT_GT(infeasible, 10);
}

TEST(SolveChoices, ManyModulesOfALargeModelTakeNoTime) {
  // 80 blocks of four groups, 2 to 8 bits, shapes of a 70B model.
  std::mt19937 random(4);
  std::uniform_real_distribution<double> spread(-2, 2);
  const int64_t weights[] = {8192LL * 10240, 8192LL * 8192, 8192LL * 57344,
                             28672LL * 8192 + 1};
  std::vector<std::vector<Choice>> groups;
  int64_t total = 0;
  for (int g = 0; g < 320; ++g) {
    const double scale = std::exp(spread(random));
    std::vector<Choice> choices;
    for (int b = 2; b <= 8; ++b) {
      choices.push_back({weights[g % 4] * b, scale * std::pow(4.0, -b) *
                                                 (1 + 0.1 * spread(random))});
    }
    total += weights[g % 4];
    groups.push_back(std::move(choices));
  }
  const int64_t budget = total * 13 / 4;
  auto picked = SolveChoices(groups, budget);
  ASSERT_TRUE(picked.ok());
  int64_t cost = 0;
  for (size_t g = 0; g < groups.size(); ++g) {
    cost += groups[g][(*picked)[g]].cost;
  }
  EXPECT_LE(cost, budget);
  EXPECT_GT(cost, budget * 0.999);
}

TEST(AllocateModules, SharesBitsWithinAModuleAndIsOptimal) {
  for (ModuleColumns columns :
       {ModuleColumns::kUniform, ModuleColumns::kAllocated}) {
    for (Budget budget : {Budget::kCodes, Budget::kFile}) {
      std::vector<TradeOff> linears;
      for (int l = 0; l < 5; ++l) {
        linears.push_back(Make("l", 96, 40, 1, l, budget));
      }
      const std::vector<double> sensitivities = {1, 30, 0.1, 5, 200};
      const std::vector<int> modules = {3, 3, 0, 0, 9};
      for (double bits : {3.0, 3.4, 5.0}) {
        auto got =
            AllocateModules(linears, sensitivities, modules, columns, bits);
        ASSERT_TRUE(got.ok()) << got.status();
        EXPECT_LE(got->bits, bits);
        EXPECT_EQ(got->linears[0].bits, got->linears[1].bits);
        EXPECT_EQ(got->linears[2].bits, got->linears[3].bits);
        double best = std::numeric_limits<double>::infinity();
        const auto share = [&](int l, int b) {
          return columns == ModuleColumns::kUniform ? linears[l].Uniform(1 << b)
                                                    : linears[l].At(b);
        };
        const auto cost = [&](int l, int b) {
          return columns == ModuleColumns::kUniform ? share(l, b).bits : b;
        };
        for (int a = 2; a <= 8; ++a) {
          for (int b = 2; b <= 8; ++b) {
            for (int c = 2; c <= 8; ++c) {
              const int of[] = {a, a, b, b, c};
              double spent = 0, loss = 0;
              for (int l = 0; l < 5; ++l) {
                spent += cost(l, of[l]) / 5;
                loss += sensitivities[l] * share(l, of[l]).loss;
              }
              if (spent <= bits + 1e-12) best = std::min(best, loss);
            }
          }
        }
        EXPECT_NEAR(got->weighted_loss, best, 1e-12 * best) << bits;
        for (const LinearAllocation& l : got->linears) {
          EXPECT_EQ(l.bits, std::floor(l.bits));
        }
      }
    }
  }
}

TEST(AllocateModules, NamesTheSmallestBudget) {
  std::vector<TradeOff> linears;
  linears.push_back(Make("a", 32, 64, 1, 5, Budget::kCodes));
  EXPECT_THAT(std::string(AllocateModules(linears, {1}, {0},
                                          ModuleColumns::kUniform, 1.9)
                              .status()
                              .message()),
              HasSubstr("smallest possible is 2.0000"));
  auto exactly = AllocateModules(linears, {1}, {0}, ModuleColumns::kUniform, 2);
  ASSERT_TRUE(exactly.ok()) << exactly.status();
  EXPECT_EQ(exactly->linears[0].bits, 2);
}

}  // namespace
}  // namespace bitwright::quant
