// Agreement with the paper's public code, on layers and results computed in
// float64 (../shared/oracles; skipped when absent).
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/checkpoint/safetensors.h"
#include "gtest/gtest.h"
#include "worker/quant/quantizer.h"

namespace bitwright::quant {
namespace {

struct Oracle {
  int64_t rows = 0, columns = 0;
  std::vector<float> weight, hessian, uniform, column_loss;
  std::vector<int64_t> levels;
  double bits = 0, loss_uniform = 0, loss_baq = 0, mean_bits = 0,
         gm_over_am = 0;
};

class OracleTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const char* shared = std::getenv("BITWRIGHT_SHARED_DIR");
    if (shared == nullptr) GTEST_SKIP() << "BITWRIGHT_SHARED_DIR is not set";
    const std::string path =
        absl::StrCat(shared, "/oracles/", GetParam(), ".safetensors");
    if (std::FILE* f = std::fopen(path.c_str(), "rb")) {
      std::fclose(f);
    } else {
      GTEST_SKIP() << path << " is absent";
    }
    auto file = SafetensorsFile::Open(path);
    ASSERT_TRUE(file.ok()) << file.status();
    const SafetensorsFile& f = **file;
    const TensorInfo* w = f.Find("weight");
    ASSERT_NE(w, nullptr);
    oracle_.rows = w->shape[0];
    oracle_.columns = w->shape[1];
    oracle_.weight = *f.ReadFloats("weight", w->shape);
    oracle_.hessian =
        *f.ReadFloats("hessian", {oracle_.columns, oracle_.columns});
    oracle_.uniform = *f.ReadFloats("dequantized_uniform", w->shape);
    oracle_.column_loss = *f.ReadFloats("column_loss", {oracle_.columns});
    oracle_.levels = *f.ReadIntegers("levels");
    auto number = [&](const char* key) {
      double value = 0;
      EXPECT_TRUE(absl::SimpleAtod(f.metadata().at(key), &value)) << key;
      return value;
    };
    oracle_.bits = number("bits");
    oracle_.loss_uniform = number("loss_uniform");
    oracle_.loss_baq = number("loss_baq");
    oracle_.mean_bits = number("mean_bits");
    oracle_.gm_over_am = number("gm_over_am");
  }

  QuantizedResult Quantize(QuantizeOptions options) {
    options.f16_ranges = false;
    options.budget = Budget::kCodes;
    auto result = QuantizeLinear({.weight = oracle_.weight.data(),
                                  .rows = oracle_.rows,
                                  .columns = oracle_.columns,
                                  .hessian = oracle_.hessian},
                                 options);
    EXPECT_TRUE(result.ok()) << result.status();
    return *std::move(result);
  }

  Oracle oracle_;
};

TEST_P(OracleTest, Gptq) {
  const QuantizedResult q =
      Quantize({.method = Method::kGptq, .bits = oracle_.bits});
  const std::vector<float> w = DequantizeResult(q);
  int64_t same = 0;
  for (size_t i = 0; i < w.size(); ++i) {
    same += std::abs(w[i] - oracle_.uniform[i]) <=
            1e-5f * std::abs(oracle_.uniform[i]);
  }
  EXPECT_GE(static_cast<double>(same), 0.999 * static_cast<double>(w.size()));
  EXPECT_NEAR(q.loss / oracle_.loss_uniform, 1, 1e-3);
  double sum = 0, want = 0;
  for (int64_t j = 0; j < oracle_.columns; ++j) {
    sum += q.column_loss[j];
    want += oracle_.column_loss[j];
  }
  EXPECT_NEAR(sum / want, 1, 1e-3);
}

TEST_P(OracleTest, BaqReference) {
  const QuantizedResult q =
      Quantize({.variant = BaqVariant::kReference, .bits = oracle_.bits});
  int64_t same = 0;
  for (int64_t j = 0; j < oracle_.columns; ++j) {
    EXPECT_NEAR(q.levels[j], oracle_.levels[j], 1);
    same += q.levels[j] == oracle_.levels[j];
  }
  EXPECT_GE(static_cast<double>(same),
            0.995 * static_cast<double>(oracle_.columns));
  EXPECT_NEAR(q.loss / oracle_.loss_baq, 1, 5e-3);
  EXPECT_NEAR(q.gm_over_am, oracle_.gm_over_am, 1e-3 * oracle_.gm_over_am);
  EXPECT_NEAR(q.code_bits, oracle_.mean_bits, 1e-2);
}

TEST_P(OracleTest, ExactIsNoWorseAtTheSameBits) {
  const QuantizedResult q = Quantize({.bits = oracle_.mean_bits});
  EXPECT_LE(q.code_bits, oracle_.mean_bits);
  EXPECT_GE(q.code_bits, oracle_.mean_bits - 0.005);
  EXPECT_LE(q.loss, oracle_.loss_baq);
}

INSTANTIATE_TEST_SUITE_P(Files, OracleTest,
                         testing::Values("q_proj_b3", "v_proj_b2",
                                         "down_proj_b2", "gate_proj_b4_dead"),
                         [](const auto& info) {
                           return std::string(info.param);
                         });

}  // namespace
}  // namespace bitwright::quant
