#include "worker/quant/kernels.h"

#include <array>
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
// bytes. The second layer's panels are as high as two of the widest loops'
// steps and some rows.
TEST_P(KernelsTest, SameBytesAsPortable) {
  struct Shape {
    int64_t rows, columns;
  };
  for (const Shape shape : {Shape{83, 150}, Shape{1100, 70}}) {
    const Layer layer = MakeLayer(shape.rows, shape.columns, 71);
    for (const Precision precision :
         {Precision::kFloat32, Precision::kFloat64}) {
      for (int64_t group_size : {0, 48}) {
        const QuantizeOptions options{.bits = 2.3,
                                      .budget = Budget::kCodes,
                                      .group_size = group_size,
                                      .precision = precision};
        const LinearProblem problem{.weight = layer.weight.data(),
                                    .rows = shape.rows,
                                    .columns = shape.columns,
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
}

// The definition of decoding is MakeGridPoint, Encode and Decode of grid.h.
TEST_P(KernelsTest, RoundsAsTheGridIsDefined) {
  LimitSimd(GetParam());
  const int64_t n = 203;
  const std::vector<float> w = RandomFloats(n, 0.3f, 72);
  const std::vector<float> feedback = RandomFloats(n, 0.05f, 71);
  std::vector<float> min(n), max(n), top(n), scale(n), zero(n);
  for (int64_t i = 0; i < n; ++i) {
    min[i] = -0.1f * static_cast<float>(i % 7);
    max[i] = 0.2f + 0.01f * static_cast<float>(i % 5);
    top[i] = static_cast<float>(i % 19);  // 1 to 19 levels.
  }
  MakeGridRun(min.data(), max.data(), top.data(), n, scale.data(), zero.data());
  std::vector<float> t(feedback), kept(n);
  std::vector<uint8_t> codes(n);
  const RunSums sums = RoundRun({scale.data(), zero.data(), top.data()}, n,
                                w.data(), t.data(), kept.data(), codes.data());
  double rounding = 0, error = 0;
  for (int64_t i = 0; i < n; ++i) {
    const GridPoint p =
        MakeGridPoint(min[i], max[i], static_cast<int>(top[i]) + 1);
    const float target = w[i] + feedback[i];
    EXPECT_EQ(codes[i], Encode(target, p)) << i;
    const float value = Decode(codes[i], p);
    EXPECT_EQ(kept[i], target - value) << i;
    EXPECT_EQ(t[i], w[i] - value) << i;
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
    std::vector<float> scale(100), zero(100), t(100), kept(100);
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

// Whole steps of the loop, some rows more, and both; one column's squares leave
// the range of float32.
TEST_P(KernelsTest, DistortionOfFourColumns) {
  for (const int64_t n : {1, 15, 16, 17, 48, 61, 256}) {
    SCOPED_TRACE(n);
    const std::vector<float> min(n, -0.1f), max(n, 0.2f), top(n, 6.0f);
    std::vector<float> scale(n), zero(n), inverse(n), low(n), high(n);
    MakeGridRun(min.data(), max.data(), top.data(), n, scale.data(),
                zero.data());
    InverseRun(scale.data(), n, inverse.data());
    std::vector<float> columns[kDistortionColumns];
    std::array<const float*, kDistortionColumns> t;
    for (int c = 0; c < kDistortionColumns; ++c) {
      columns[c] = RandomFloats(n, c == 2 ? 1e-26f : 0.3f, 80 + c);
      t[c] = columns[c].data();
    }
    for (int64_t i = 0; i < n; ++i) {
      low[i] = -zero[i];
      high[i] = top[i] - zero[i];
    }
    const StepRun grid{scale.data(), inverse.data(), low.data(), high.data()};
    LimitSimd(Simd::kPortable);
    const DistortionSums portable = DistortionRun(t, grid, n);
    LimitSimd(GetParam());
    const DistortionSums sums = DistortionRun(t, grid, n);
    EXPECT_EQ(sums, portable);
    for (int c = 0; c < kDistortionColumns; ++c) {
      double want = 0;
      for (int64_t i = 0; i < n; ++i) {
        const GridPoint p = MakeGridPoint(min[i], max[i], 7);
        const float value = Decode(Encode(columns[c][i], p), p);
        want += std::pow(static_cast<double>(columns[c][i]) - value, 2);
      }
      EXPECT_GT(want, 0);
      EXPECT_NEAR(sums[c], want, 1e-4 * want) << "column " << c;
    }
  }
}

TEST_P(KernelsTest, RevisitsAsTheGridIsDefined) {
  LimitSimd(GetParam());
  const int64_t n = 83;
  const std::vector<float> slope = RandomFloats(n, 0.4f, 92);
  std::vector<float> min(n), max(n), top(n), scale(n), zero(n);
  std::vector<uint8_t> before(n);
  for (int64_t i = 0; i < n; ++i) {
    min[i] = -0.1f * static_cast<float>(i % 7);
    max[i] = 0.2f + 0.01f * static_cast<float>(i % 5);
    top[i] = static_cast<float>(i % 19);  // 1 to 19 levels.
    before[i] = static_cast<uint8_t>(i % (i % 19 + 1));
  }
  MakeGridRun(min.data(), max.data(), top.data(), n, scale.data(), zero.data());
  std::vector<float> moved(slope);
  std::vector<uint8_t> codes(before);
  RevisitRun({scale.data(), zero.data(), top.data()}, n, 0.25f, moved.data(),
             codes.data());
  int changed = 0;
  for (int64_t i = 0; i < n; ++i) {
    const GridPoint p =
        MakeGridPoint(min[i], max[i], static_cast<int>(top[i]) + 1);
    const float was = Decode(before[i], p);
    EXPECT_EQ(codes[i], Encode(was + slope[i] * 0.25f, p)) << i;
    EXPECT_EQ(moved[i], was - Decode(codes[i], p)) << i;
    changed += codes[i] != before[i];
  }
  EXPECT_GT(changed, 20);
  EXPECT_LT(changed, 80);
}

// The 64-wide loop, some rows more, and both.
TEST_P(KernelsTest, AccumulatesColumns) {
  LimitSimd(GetParam());
  const int64_t stride = 150, count = 5;
  const std::vector<float> e = RandomFloats(count * stride, 0.3f, 93),
                           r = RandomFloats(count, 1.0f, 94);
  for (const int64_t n : {1, 64, 70, 150}) {
    std::vector<float> t(n, 1.0f);
    AccumulateRun(e.data(), stride, r.data(), count, n, t.data());
    for (int64_t i = 0; i < n; ++i) {
      double want = 1;
      for (int64_t j = 0; j < count; ++j) {
        want += static_cast<double>(r[j]) * e[j * stride + i];
      }
      EXPECT_NEAR(t[i], want, 1e-6) << n << " " << i;
    }
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
