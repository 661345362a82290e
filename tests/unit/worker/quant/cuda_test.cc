// The CUDA engine against the CPU one. Skips where there is no GPU.
#include <algorithm>
#include <cmath>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/worker/quant/quant_test_util.h"
#include "worker/quant/baq.h"
#include "worker/quant/hessian_cuda.h"
#include "worker/quant/layer_engine_cuda.h"

namespace bitwright::quant {
namespace {

constexpr double kSameCodes = 0.999;
constexpr double kLossTolerance = 1e-3;

#define SKIP_WITHOUT_GPU()                                      \
  if (absl::Status status = CudaDeviceStatus(); !status.ok()) { \
    GTEST_SKIP() << status.message();                           \
  }

struct Case {
  std::string name;
  int64_t rows, columns;
  GridOptions grid;
  FactorOptions factor;
  enum Levels { kUniform, kByColumn, kByRow } levels = kUniform;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.name;
}

std::vector<uint16_t> MixedLevels(int64_t n) {
  constexpr int kMixed[] = {1, 2, 3, 4, 7, 16, 37, 256};
  std::vector<uint16_t> levels(n);
  for (int64_t i = 0; i < n; ++i) levels[i] = kMixed[i * 5 % 8];
  return levels;
}

// An engine with a factor and a grid for `layer`.
std::unique_ptr<LayerEngine> Prepare(
    absl::StatusOr<std::unique_ptr<LayerEngine>> made, const Layer& layer,
    const HessianView& h, const FactorOptions& factor,
    const GridOptions& options) {
  EXPECT_TRUE(made.ok()) << made.status();
  std::unique_ptr<LayerEngine> engine = *std::move(made);
  EXPECT_EQ(engine->Factorize(h, factor), absl::OkStatus());
  const auto grid = MakeGrid(layer.weight.data(), layer.rows, layer.columns,
                             options, engine->factor().dead);
  EXPECT_TRUE(grid.ok()) << grid.status();
  EXPECT_EQ(engine->SetGrid(*grid), absl::OkStatus());
  return engine;
}

struct Engines {
  std::unique_ptr<LayerEngine> cpu, cuda;
};

// The CPU engine computes in float64.
Engines PrepareBoth(const Layer& layer, const HessianView& h,
                    FactorOptions factor, const GridOptions& grid) {
  const LayerWeight weight{layer.weight.data(), layer.rows, layer.columns};
  Engines engines;
  engines.cuda = Prepare(MakeCudaEngine(weight), layer, h, factor, grid);
  factor.precision = Precision::kFloat64;
  engines.cpu = Prepare(MakeCpuEngine(weight), layer, h, factor, grid);
  return engines;
}

double ShareOfEqual(const std::vector<uint8_t>& a,
                    const std::vector<uint8_t>& b) {
  EXPECT_EQ(a.size(), b.size());
  int64_t equal = 0;
  for (size_t i = 0; i < a.size(); ++i) equal += a[i] == b[i];
  return static_cast<double>(equal) / static_cast<double>(a.size());
}

double Sum(const std::vector<double>& values) {
  double sum = 0;
  for (double v : values) sum += v;
  return sum;
}

// Σ|a − b| / Σ|b|: a column whose loss is nearly zero may differ by more.
double Distance(const std::vector<double>& a, const std::vector<double>& b) {
  EXPECT_EQ(a.size(), b.size());
  double different = 0, all = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    different += std::abs(a[i] - b[i]);
    all += std::abs(b[i]);
  }
  return all == 0 ? different : different / all;
}

class CudaEngineTest : public testing::TestWithParam<Case> {};

TEST_P(CudaEngineTest, EqualsTheCpuInFloat64) {
  SKIP_WITHOUT_GPU();
  const Case c = GetParam();
  const Layer layer = MakeLayer(c.rows, c.columns, 71);
  const auto h = HessianView::Create(layer.hessian, c.columns);
  ASSERT_TRUE(h.ok());
  const Engines e = PrepareBoth(layer, *h, c.factor, c.grid);
  EXPECT_EQ(e.cuda->factor().report, e.cpu->factor().report);
  EXPECT_EQ(e.cuda->factor().order, e.cpu->factor().order);
  EXPECT_EQ(e.cuda->factor().dead, e.cpu->factor().dead);
  EXPECT_EQ(e.cuda->factor().added, e.cpu->factor().added);
  EXPECT_LT(Distance(e.cuda->factor().diagonal, e.cpu->factor().diagonal),
            1e-9);

  const std::vector<uint16_t> columns =
      c.levels == Case::kUniform ? std::vector<uint16_t>(c.columns, 8)
                                 : MixedLevels(c.columns);
  const std::vector<uint16_t> rows = MixedLevels(c.rows);
  PassLevels levels;
  (c.levels == Case::kByRow ? levels.row_levels : levels.levels) =
      c.levels == Case::kByRow ? rows : columns;
  levels.keep_targets = true;
  const auto cuda = e.cuda->Pass(levels, 1);
  const auto cpu = e.cpu->Pass(levels, 1);
  ASSERT_TRUE(cuda.ok() && cpu.ok()) << cuda.status() << cpu.status();
  EXPECT_LT(Distance(cuda->column_loss, cpu->column_loss), kLossTolerance);
  const double loss = Sum(cpu->column_loss), error = cpu->squared_error;
  EXPECT_NEAR(Sum(cuda->column_loss), loss, kLossTolerance * loss);
  EXPECT_NEAR(cuda->squared_error, error, kLossTolerance * error);
  const auto cuda_codes = e.cuda->Codes(1), cpu_codes = e.cpu->Codes(1);
  ASSERT_TRUE(cuda_codes.ok() && cpu_codes.ok());
  EXPECT_GE(ShareOfEqual(*cuda_codes, *cpu_codes), kSameCodes);

  for (int slot : {LayerEngine::kWeights, 1}) {
    const std::vector<int>& counts = MeasuredLevelCounts();
    const auto got = e.cuda->Distortion(slot, counts);
    const auto want = e.cpu->Distortion(slot, counts);
    ASSERT_TRUE(got.ok() && want.ok()) << got.status() << want.status();
    EXPECT_LT(Distance(*got, *want), kLossTolerance) << "slot " << slot;
  }
  const auto cuda_refined = e.cuda->Refine(*h, levels, 1, 2);
  const auto cpu_refined = e.cpu->Refine(*h, levels, 1, 2);
  ASSERT_TRUE(cuda_refined.ok() && cpu_refined.ok());
  EXPECT_LT(Distance(cuda_refined->column_loss, cpu_refined->column_loss),
            kLossTolerance);
  const double refined = Sum(cuda_refined->column_loss);
  EXPECT_LE(refined, Sum(cuda->column_loss));
  EXPECT_NEAR(refined, Sum(cpu_refined->column_loss), kLossTolerance * refined);
  EXPECT_NEAR(cuda_refined->squared_error, cpu_refined->squared_error,
              kLossTolerance * cpu_refined->squared_error);
  EXPECT_GE(ShareOfEqual(*e.cuda->Codes(1), *e.cpu->Codes(1)), kSameCodes);
}

std::vector<Case> Cases() {
  std::vector<Case> cases{
      {"OneByOne", 1, 1, {}, {}},
      {"Ragged", 17, 33, {}, {}},
      {"PerRow", 200, 384, {}, {}},
      {"LastBlockOfOne", 70, 257, {}, {}},
      {"Grouped", 100, 300, {.group_size = 64}, {}},
      {"Symmetric", 100, 200, {.symmetric = true, .levels = 8}, {}},
      {"MseClip", 64, 160, {.mse_clip = true, .levels = 8}, {}},
      {"F16Ranges", 64, 160, {.f16 = true}, {}},
      {"ActOrder", 100, 300, {}, {.act_order = true}},
      {"GroupedActOrder", 100, 300, {.group_size = 48}, {.act_order = true}},
      {"ByColumn", 130, 290, {}, {}, Case::kByColumn},
      {"GroupedByColumnActOrder",
       130,
       290,
       {.group_size = 100},
       {.act_order = true},
       Case::kByColumn},
      {"ByRow", 130, 290, {}, {}, Case::kByRow},
      {"ManyRows", 1500, 130, {}, {}, Case::kByColumn},
  };
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Grids, CudaEngineTest, testing::ValuesIn(Cases()),
                         [](const auto& info) { return info.param.name; });

struct Ladder {
  std::string name;
  std::vector<float> hessian;
  double damping = 0.01;
};

std::vector<Ladder> Ladders() {
  std::vector<Ladder> all;
  all.push_back({"indefinite", {1, 2, 2, 1}, 0.02});
  all.push_back({"fallback", {4, 1e9f, 1e9f, 9}});
  all.push_back({"zero", std::vector<float>(9, 0.0f), 0});
  all.push_back({"dead column", {2, 0, 1, 0, 0, 0, 1, 0, 3}});
  Ladder rank_one{"rank one", {}};
  std::vector<float> x(50);
  for (int i = 0; i < 50; ++i) x[i] = std::pow(10.0f, i % 13 - 6);
  for (float a : x) {
    for (float b : x) rank_one.hessian.push_back(a * b);
  }
  all.push_back(rank_one);
  return all;
}

TEST(CudaFactorTest, TakesTheSameLadder) {
  SKIP_WITHOUT_GPU();
  for (const Ladder& ladder : Ladders()) {
    const int64_t columns = std::lround(std::sqrt(ladder.hessian.size()));
    Layer layer = MakeLayer(40, columns, 72);
    for (bool packed : {false, true}) {
      const std::vector<float> lower = PackLower(ladder.hessian, columns);
      const auto h =
          HessianView::Create(packed ? lower : ladder.hessian, columns, 0.5);
      ASSERT_TRUE(h.ok());
      const Engines e = PrepareBoth(layer, *h, {.damping = ladder.damping}, {});
      EXPECT_EQ(e.cuda->factor().report, e.cpu->factor().report)
          << ladder.name << ": attempts " << e.cuda->factor().report.attempts
          << " and " << e.cpu->factor().report.attempts;
      EXPECT_EQ(e.cuda->factor().added, e.cpu->factor().added) << ladder.name;
      EXPECT_LT(Distance(e.cuda->factor().diagonal, e.cpu->factor().diagonal),
                1e-6)
          << ladder.name;
      const std::vector<uint16_t> levels(columns, 4);
      const auto cuda = e.cuda->Pass({.levels = levels}, 0);
      const auto cpu = e.cpu->Pass({.levels = levels}, 0);
      ASSERT_TRUE(cuda.ok() && cpu.ok());
      EXPECT_LT(Distance(cuda->column_loss, cpu->column_loss), kLossTolerance)
          << ladder.name;
      EXPECT_GE(ShareOfEqual(*e.cuda->Codes(0), *e.cpu->Codes(0)), kSameCodes)
          << ladder.name;
    }
  }
}

TEST(CudaEngineTest, SameBytesEveryTime) {
  SKIP_WITHOUT_GPU();
  const Layer layer = MakeLayer(300, 700, 73);
  const auto h = HessianView::Create(layer.hessian, 700);
  const std::vector<uint16_t> levels = MixedLevels(700);
  std::vector<double> losses, distortion;
  std::vector<uint8_t> codes;
  for (int run = 0; run < 3; ++run) {
    auto engine = Prepare(
        MakeCudaEngine({layer.weight.data(), layer.rows, layer.columns}), layer,
        *h, {.act_order = true}, {.group_size = 128});
    const auto pass = engine->Pass({.levels = levels}, run);
    ASSERT_TRUE(pass.ok()) << pass.status();
    const auto got_codes = engine->Codes(run);
    const auto got_distortion = engine->Distortion(run, MeasuredLevelCounts());
    ASSERT_TRUE(got_codes.ok() && got_distortion.ok());
    if (run > 0) {
      EXPECT_EQ(pass->column_loss, losses);
      EXPECT_EQ(*got_codes, codes);
      EXPECT_EQ(*got_distortion, distortion);
    }
    losses = pass->column_loss;
    codes = *got_codes;
    distortion = *got_distortion;
  }
}

TEST(CudaEngineTest, SlotsAreKeptApart) {
  SKIP_WITHOUT_GPU();
  const Layer layer = MakeLayer(50, 140, 74);
  const auto h = HessianView::Create(layer.hessian, 140);
  auto engine =
      Prepare(MakeCudaEngine({layer.weight.data(), layer.rows, layer.columns}),
              layer, *h, {}, {});
  const std::vector<uint16_t> few(140, 3), many(140, 64);
  ASSERT_TRUE(engine->Pass({.levels = few}, 0).ok());
  const std::vector<uint8_t> before = *engine->Codes(0);
  ASSERT_TRUE(engine->Pass({.levels = many}, 2).ok());
  EXPECT_EQ(*engine->Codes(0), before);
  EXPECT_EQ(*std::max_element(before.begin(), before.end()), 2);
  const std::vector<uint8_t> after = *engine->Codes(2);
  EXPECT_GT(*std::max_element(after.begin(), after.end()), 2);
  EXPECT_EQ(engine->Codes(1).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(CudaEngineTest, RefusesWhatDoesNotFit) {
  SKIP_WITHOUT_GPU();
  const Layer layer = MakeLayer(4, 6, 75);
  const auto h = HessianView::Create(layer.hessian, 6);
  auto engine = MakeCudaEngine({layer.weight.data(), 4, 6});
  ASSERT_TRUE(engine.ok());
  const auto code = [](const auto& status) { return status.code(); };
  const std::vector<uint16_t> levels(6, 4), short_levels(3, 4), zero(6, 0);
  EXPECT_EQ(code((*engine)->Pass({.levels = levels}, 0).status()),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(code((*engine)->Factorize(*h, {.damping = -1})),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code((*engine)->Factorize(*h, {.precision = Precision::kFloat64})),
            absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE((*engine)->Factorize(*h, {}).ok());
  const auto grid = MakeGrid(layer.weight.data(), 4, 6, {});
  ASSERT_TRUE((*engine)->SetGrid(*grid).ok());
  EXPECT_EQ(code((*engine)->Pass({.levels = short_levels}, 0).status()),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code((*engine)->Pass({.levels = zero}, 0).status()),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code((*engine)->Pass({.levels = levels}, 3).status()),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE((*engine)->Pass({.levels = levels}, 0).ok());
}

// The only test of this file that runs where there is no GPU.
TEST(CudaEngineTest, SaysWhatIsMissing) {
  const std::vector<float> weight(6, 1.0f);
  const auto engine = MakeCudaEngine({weight.data(), 2, 3});
  const auto sum = CudaHessianAccumulator::Create(3, CudaHessianMode::kFloat32);
  if (CudaDeviceStatus().ok()) {
    EXPECT_TRUE(engine.ok()) << engine.status();
    EXPECT_TRUE(sum.ok()) << sum.status();
  } else {
    EXPECT_EQ(engine.status().code(), absl::StatusCode::kFailedPrecondition)
        << engine.status();
    EXPECT_EQ(sum.status(), engine.status());
    EXPECT_THAT(engine.status().message(), testing::HasSubstr("--device cpu"));
    EXPECT_EQ(CudaDeviceStatus(), engine.status());
  }
  EXPECT_EQ(MakeCudaEngine({weight.data(), 0, 3}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace bitwright::quant
