#include "worker/quant/quantizer.h"

#include <limits>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/worker/quant/quant_test_util.h"
#include "worker/quant/parallel.h"

namespace bitwright::quant {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;

LinearProblem ProblemOf(const Layer& layer) {
  return {.weight = layer.weight.data(),
          .rows = layer.rows,
          .columns = layer.columns,
          .hessian = layer.hessian};
}

QuantizedResult Quantize(const Layer& layer, const QuantizeOptions& options) {
  auto result = QuantizeLinear(ProblemOf(layer), options);
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? *std::move(result) : QuantizedResult{};
}

// Everything that must hold of any result.
void ExpectConsistent(const Layer& layer, const QuantizedResult& q) {
  ASSERT_EQ(static_cast<int64_t>(q.codes.size()), layer.rows * layer.columns);
  ASSERT_EQ(static_cast<int64_t>(q.levels.size()), layer.columns);
  for (int64_t i = 0; i < layer.rows * layer.columns; ++i) {
    ASSERT_LT(q.codes[i], q.levels[i % layer.columns]);
  }
  const std::vector<float> w = DequantizeResult(q);
  for (float v : w) ASSERT_TRUE(std::isfinite(v));
  const double want = LossOf(layer, w, layer.H());
  EXPECT_NEAR(q.loss, want, 1e-4 * std::abs(want) + 1e-300);
}

TEST(QuantizeLinearTest, EveryMethodIsConsistent) {
  const Layer layer = MakeLayer(48, 160, 41);
  for (Method method : {Method::kRtn, Method::kGptq, Method::kBaq}) {
    for (int64_t group_size : {0, 64}) {
      for (int flags = 0; flags < 8; ++flags) {
        QuantizeOptions options{.method = method, .bits = 3};
        options.budget = flags & 1 ? Budget::kCodes : Budget::kFile;
        options.group_size = group_size;
        options.symmetric = flags & 1;
        options.mse_clip = flags & 2;
        options.act_order = flags & 4;
        options.f16_ranges = flags & 2;
        const QuantizedResult q = Quantize(layer, options);
        ExpectConsistent(layer, q);
        EXPECT_EQ(q.groups, group_size == 0 ? 1 : 3);
      }
    }
  }
}

TEST(QuantizeLinearTest, EachMethodBeatsTheSimplerOne) {
  const Layer layer = MakeLayer(64, 256, 42);
  QuantizeOptions options{.bits = 3, .budget = Budget::kCodes};
  const QuantizedResult exact = Quantize(layer, options);
  options.variant = BaqVariant::kReference;
  const QuantizedResult reference = Quantize(layer, options);
  options.method = Method::kGptq;
  const QuantizedResult gptq = Quantize(layer, options);
  options.method = Method::kRtn;
  const QuantizedResult rtn = Quantize(layer, options);
  EXPECT_LT(gptq.loss, rtn.loss);
  EXPECT_LT(reference.loss, gptq.loss);
  // At no more bits than the reference took.
  options = {.bits = reference.code_bits, .budget = Budget::kCodes};
  EXPECT_LT(Quantize(layer, options).loss, reference.loss);
  EXPECT_NEAR(reference.uniform_loss / gptq.loss, 1, 1e-5);
  EXPECT_NEAR(exact.uniform_loss / gptq.loss, 1, 0.1);
  EXPECT_LT(exact.gm_over_am, 1);
  EXPECT_THAT(gptq.levels, Each(8));
}

TEST(QuantizeLinearTest, BudgetsAreMetFromBelow) {
  const Layer layer = MakeLayer(128, 256, 43);
  for (double bits : {1.0, 1.25, 2.0, 2.6, 3.0, 4.75, 6.0, 7.5}) {
    for (Budget budget : {Budget::kCodes, Budget::kFile}) {
      const QuantizedResult q =
          Quantize(layer, {.bits = bits, .budget = budget});
      const double achieved =
          budget == Budget::kCodes ? q.code_bits : q.file_bits;
      EXPECT_LE(achieved, bits);
      EXPECT_GE(achieved, bits - 0.005);
      EXPECT_LT(q.code_bits, q.file_bits);
    }
  }
}

TEST(QuantizeLinearTest, SameBytesForAnyNumberOfThreads) {
  const Layer layer = MakeLayer(150, 300, 44);
  for (Method method : {Method::kRtn, Method::kGptq, Method::kBaq}) {
    const QuantizeOptions options{.method = method, .bits = 3};
    SetThreads(1);
    const QuantizedResult one = Quantize(layer, options);
    for (int threads : {2, 3, 7}) {
      SetThreads(threads);
      const QuantizedResult q = Quantize(layer, options);
      EXPECT_EQ(q.levels, one.levels);
      EXPECT_EQ(q.codes, one.codes);
      EXPECT_EQ(q.column_loss, one.column_loss);
      EXPECT_EQ(q.uniform_column_loss, one.uniform_column_loss);
      EXPECT_EQ(q.range_min, one.range_min);
      EXPECT_EQ(q.loss, one.loss);
      EXPECT_EQ(q.uniform_loss, one.uniform_loss);
    }
  }
  SetThreads(0);
}

TEST(QuantizeLinearTest, PackedAndUnnormalisedHessians) {
  const Layer layer = MakeLayer(32, 60, 45);
  const QuantizeOptions options{.bits = 2.5};
  const QuantizedResult full = Quantize(layer, options);
  std::vector<float> packed = PackLower(layer.hessian, 60);
  LinearProblem problem = ProblemOf(layer);
  problem.hessian = packed;
  EXPECT_EQ(QuantizeLinear(problem, options)->codes, full.codes);
  for (float& v : packed) v *= 4;  // Σ x xᵀ of 8 sequences: 2/8 undoes it.
  problem.sequences = 8;
  const auto scaled = QuantizeLinear(problem, options);
  EXPECT_EQ(scaled->codes, full.codes);
  EXPECT_EQ(scaled->loss, full.loss);
}

TEST(QuantizeLinearTest, RtnWithoutAHessian) {
  const Layer layer = MakeLayer(8, 16, 46);
  LinearProblem problem = ProblemOf(layer);
  problem.hessian = {};
  QuantizeOptions options{.method = Method::kRtn, .bits = 4};
  const auto q = QuantizeLinear(problem, options);
  ASSERT_TRUE(q.ok());
  EXPECT_NEAR(q->loss,
              LossOf(layer, DequantizeResult(*q), Matrix::Identity(16, 16)),
              1e-12);
  options.method = Method::kGptq;
  EXPECT_THAT(QuantizeLinear(problem, options).status().message(),
              HasSubstr("need a Hessian"));
}

TEST(QuantizeLinearTest, DegenerateHessians) {
  const QuantizeOptions exact{.bits = 2, .budget = Budget::kCodes};
  QuantizeOptions reference = exact;
  reference.variant = BaqVariant::kReference;
  Layer layer = MakeLayer(24, 80, 47, /*tokens=*/1);  // Rank one.
  ExpectConsistent(layer, Quantize(layer, exact));
  ExpectConsistent(layer, Quantize(layer, reference));
  layer = MakeLayer(24, 80, 47, /*tokens=*/20);  // Singular.
  ExpectConsistent(layer, Quantize(layer, exact));
  for (float& v : layer.hessian) v *= 1e30f;
  ExpectConsistent(layer, Quantize(layer, exact));
  for (float& v : layer.hessian) v *= 1e-38f;
  ExpectConsistent(layer, Quantize(layer, exact));
  layer.hessian.assign(80 * 80, 0.0f);
  const QuantizedResult zero = Quantize(layer, exact);
  ExpectConsistent(layer, zero);
  EXPECT_EQ(zero.factor.dead_columns, 80);
  EXPECT_THAT(DequantizeResult(zero), Each(0.0f));
  // Indefinite beyond any damping: recorded, and the loss is the true one.
  layer = MakeLayer(24, 80, 48);
  layer.hessian[1] = layer.hessian[80] = 1e12f;
  const QuantizedResult diagonal = Quantize(layer, exact);
  EXPECT_TRUE(diagonal.factor.diagonal_fallback);
  EXPECT_EQ(diagonal.factor.attempts, 6);
  ExpectConsistent(layer, diagonal);
}

TEST(QuantizeLinearTest, DeadColumnsAreZeroedAndFree) {
  Layer layer = MakeLayer(32, 64, 49);
  for (int64_t j = 0; j < 64; ++j) {
    layer.hessian[5 * 64 + j] = layer.hessian[j * 64 + 5] = 0;
  }
  for (int64_t r = 0; r < 32; ++r) layer.weight[r * 64 + 5] = 1e6f;
  const QuantizedResult q = Quantize(layer, {.bits = 3});
  EXPECT_EQ(q.factor.dead_columns, 1);
  EXPECT_EQ(q.levels[5], 1);
  for (int64_t r = 0; r < 32; ++r) EXPECT_LT(q.range_max[r], 1);
  ExpectConsistent(layer, q);
}

TEST(QuantizeLinearTest, Errors) {
  Layer layer = MakeLayer(4, 6, 50);
  auto message = [&](QuantizeOptions options) {
    const auto q = QuantizeLinear(ProblemOf(layer), options);
    EXPECT_EQ(q.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(q.status().message());
  };
  for (double bits : {0.5, 8.5, double{NAN}}) {
    EXPECT_THAT(message({.method = Method::kGptq, .bits = bits}),
                HasSubstr("bits must be from 1 to 8"));
    EXPECT_THAT(message({.variant = BaqVariant::kReference, .bits = bits}),
                HasSubstr("bits must be from 1 to 8"));
  }
  for (double bits : {0.0, 16.5, double{NAN}}) {
    EXPECT_THAT(message({.bits = bits}),
                HasSubstr("bits must be from above 0 to 16"));
  }
  EXPECT_THAT(message({.method = Method::kGptq, .bits = 2.5}),
              HasSubstr("whole"));
  EXPECT_THAT(message({.bits = 4, .group_size = -2}), HasSubstr("group size"));
  EXPECT_THAT(message({.bits = 4, .damping = -0.1}), HasSubstr("damping"));
  EXPECT_THAT(message({.bits = 4, .theta = 0}), HasSubstr("theta"));
  EXPECT_THAT(message({.bits = 4, .refine_sweeps = 101}), HasSubstr("sweeps"));
  EXPECT_THAT(message({.method = Method::kRtn, .refine_sweeps = 1}),
              HasSubstr("0 for rtn"));
  EXPECT_THAT(message({.bits = 4}), HasSubstr("bits per weight are asked"));
  layer.weight[7] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(message({.budget = Budget::kCodes}),
              HasSubstr("weight value at [1, 1]"));
  layer.weight[7] = 0;
  layer.hessian[6] = std::numeric_limits<float>::infinity();
  EXPECT_THAT(message({.budget = Budget::kCodes}), HasSubstr("Hessian value"));
  layer.hessian.pop_back();
  EXPECT_THAT(message({}), HasSubstr("Hessian of 35 values"));
}

TEST(ParseTest, Words) {
  EXPECT_EQ(*ParseMethod("baq"), Method::kBaq);
  EXPECT_EQ(*ParseBaqVariant("reference"), BaqVariant::kReference);
  EXPECT_EQ(*ParseBudget("codes"), Budget::kCodes);
  EXPECT_THAT(ParseMethod("awq").status().message(), HasSubstr("awq"));
  EXPECT_FALSE(ParseBaqVariant("").ok());
  EXPECT_FALSE(ParseBudget("disk").ok());
}

}  // namespace
}  // namespace bitwright::quant
