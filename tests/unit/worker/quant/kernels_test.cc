#include "worker/quant/kernels.h"

#include <cmath>
#include <cstdint>
#include <vector>

#include "gtest/gtest.h"
#include "tests/unit/worker/quant/quant_test_util.h"
#include "worker/quant/grid.h"
#include "worker/quant/quantizer.h"

namespace bitwright::quant {
namespace {

// Restores the machine's own choice.
class KernelsTest : public testing::TestWithParam<Simd> {
 protected:
  void SetUp() override {
    if (ActiveSimd() < GetParam()) {
      GTEST_SKIP() << "this machine has no such instructions";
    }
  }
  void TearDown() override { LimitSimd(Simd::kAvx512); }
};

// All that a layer's result depends on, at every instruction set: the same
// bytes.
TEST_P(KernelsTest, SameBytesAsPortable) {
  const Layer layer = MakeLayer(83, 150, 71);
  for (const Precision precision : {Precision::kFloat32, Precision::kFloat64}) {
    for (int64_t group_size : {0, 48}) {
      const QuantizeOptions options{.bits = 2.3,
                                    .budget = Budget::kCodes,
                                    .group_size = group_size,
                                    .precision = precision};
      const LinearProblem problem{.weight = layer.weight.data(),
                                  .rows = 83,
                                  .columns = 150,
                                  .hessian = layer.hessian};
      LimitSimd(Simd::kPortable);
      const auto portable = QuantizeLinear(problem, options);
      LimitSimd(GetParam());
      const auto here = QuantizeLinear(problem, options);
      ASSERT_TRUE(portable.ok() && here.ok());
      EXPECT_EQ(here->codes, portable->codes);
      EXPECT_EQ(here->levels, portable->levels);
      EXPECT_EQ(here->column_loss, portable->column_loss);
      EXPECT_EQ(here->uniform_column_loss, portable->uniform_column_loss);
      EXPECT_EQ(here->loss, portable->loss);
    }
  }
}

// The definition of decoding is MakeGridPoint, Encode and Decode of grid.h.
TEST_P(KernelsTest, RoundsAsTheGridIsDefined) {
  LimitSimd(GetParam());
  const int64_t n = 203;
  const std::vector<float> values = RandomFloats(n, 0.3f, 72);
  std::vector<float> min(n), max(n), top(n), scale(n), zero(n);
  for (int64_t i = 0; i < n; ++i) {
    min[i] = -0.1f * static_cast<float>(i % 7);
    max[i] = 0.2f + 0.01f * static_cast<float>(i % 5);
    top[i] = static_cast<float>(i % 19);  // 1 to 19 levels.
  }
  MakeGridRun(min.data(), max.data(), top.data(), n, scale.data(), zero.data());
  std::vector<float> t(values), w(n, 1.0f), kept(n);
  std::vector<uint8_t> codes(n);
  const RunSums sums = RoundRun({scale.data(), zero.data(), top.data()}, n,
                                w.data(), t.data(), kept.data(), codes.data());
  double rounding = 0, error = 0;
  for (int64_t i = 0; i < n; ++i) {
    const GridPoint p =
        MakeGridPoint(min[i], max[i], static_cast<int>(top[i]) + 1);
    EXPECT_EQ(codes[i], Encode(values[i], p)) << i;
    const float value = Decode(codes[i], p);
    EXPECT_EQ(kept[i], values[i] - value) << i;
    EXPECT_EQ(t[i], 1.0f - value) << i;
    rounding += std::pow(static_cast<double>(kept[i]), 2);
    error += std::pow(static_cast<double>(t[i]), 2);
  }
  EXPECT_NEAR(sums.rounding, rounding, 1e-5 * rounding);
  EXPECT_NEAR(sums.error, error, 1e-5 * error);
}

// Squares leave the range of float32 at both ends.
TEST_P(KernelsTest, SumsOfTinyAndHugeValues) {
  LimitSimd(GetParam());
  for (float size : {1e-30f, 1e25f}) {
    const std::vector<float> values = RandomFloats(100, size, 73);
    const std::vector<float> min(100, -size), max(100, size), top(100, 3.0f);
    std::vector<float> scale(100), zero(100), t(values), kept(100);
    std::vector<uint8_t> codes(100);
    MakeGridRun(min.data(), max.data(), top.data(), 100, scale.data(),
                zero.data());
    const RunSums sums =
        RoundRun({scale.data(), zero.data(), top.data()}, 100, values.data(),
                 t.data(), kept.data(), codes.data());
    double want = 0;
    for (float v : t) want += static_cast<double>(v) * v;
    EXPECT_GT(want, 0);
    EXPECT_NEAR(sums.rounding / want, 1, 1e-12);
    EXPECT_NEAR(sums.error / want, 1, 1e-12);
  }
}

TEST_P(KernelsTest, ExtentFindsWhatIsNotFinite) {
  LimitSimd(GetParam());
  std::vector<float> x = RandomFloats(37, 1.0f, 74);
  x[5] = -9;
  x[36] = 11;
  Extent extent = ExtentRun(x.data(), 37);
  EXPECT_EQ(extent.min, -9);
  EXPECT_EQ(extent.max, 11);
  EXPECT_TRUE(extent.finite);
  for (int at : {0, 17, 36}) {
    std::vector<float> bad(x);
    bad[at] = at == 17 ? NAN : INFINITY;
    EXPECT_FALSE(ExtentRun(bad.data(), 37).finite) << at;
  }
}

TEST_P(KernelsTest, FakeQuantizeIsTheSameAtEveryInstructionSet) {
  std::vector<float> w(67);
  for (size_t i = 0; i < w.size(); ++i) {
    w[i] = 0.021f * static_cast<float>(i) - 0.7f;
  }
  const LearnedGrid grid{.scale = 0.25f, .zero = 1, .top = 3, .edge = 0.5f};
  const int64_t n = static_cast<int64_t>(w.size());
  std::vector<float> weight[2], slope[2];
  for (int best : {0, 1}) {
    LimitSimd(best == 1 ? GetParam() : Simd::kPortable);
    weight[best].resize(n);
    slope[best].resize(n);
    FakeQuantizeRun(w.data(), grid, n, weight[best].data(), slope[best].data());
  }
  EXPECT_EQ(weight[0], weight[1]);
  EXPECT_EQ(slope[0], slope[1]);
}

INSTANTIATE_TEST_SUITE_P(Simd, KernelsTest,
                         testing::Values(Simd::kPortable, Simd::kAvx2,
                                         Simd::kAvx512));

}  // namespace
}  // namespace bitwright::quant
