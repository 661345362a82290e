// The reference that speed is measured against computes the same thing.
#include "tests/bench/plain_reference.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "tests/unit/worker/quant/quant_test_util.h"
#include "worker/quant/quantizer.h"

namespace bitwright::bench {
namespace {

using quant::BaqVariant;
using quant::Method;

class PlainReferenceTest : public testing::Test {
 protected:
  PlainLayer Plain() const {
    return {.weight = layer_.weight.data(),
            .rows = layer_.rows,
            .columns = layer_.columns,
            .hessian = layer_.hessian.data()};
  }
  quant::QuantizedResult Ours(Method method, int bits) const {
    auto q = quant::QuantizeLinear({.weight = layer_.weight.data(),
                                    .rows = layer_.rows,
                                    .columns = layer_.columns,
                                    .hessian = layer_.hessian},
                                   {.method = method,
                                    .variant = BaqVariant::kReference,
                                    .bits = static_cast<double>(bits),
                                    .f16_ranges = false});
    EXPECT_TRUE(q.ok()) << q.status();
    return *std::move(q);
  }
  static double Same(const std::vector<uint8_t>& a,
                     const std::vector<uint8_t>& b) {
    EXPECT_EQ(a.size(), b.size());
    double same = 0;
    for (size_t i = 0; i < a.size(); ++i) same += a[i] == b[i];
    return same / static_cast<double>(a.size());
  }

  const quant::Layer layer_ = quant::MakeLayer(96, 320, 7);
};

TEST_F(PlainReferenceTest, GptqGivesTheSameCodes) {
  for (int bits : {2, 3, 4}) {
    const PlainResult plain = PlainGptq(Plain(), bits);
    ASSERT_TRUE(plain.positive_definite);
    const quant::QuantizedResult ours = Ours(Method::kGptq, bits);
    EXPECT_GE(Same(plain.codes, ours.codes), 0.999) << bits << " bits";
    for (int64_t j = 0; j < layer_.columns; ++j) {
      EXPECT_NEAR(plain.column_loss[j] / ours.column_loss[j], 1, 0.05) << j;
    }
  }
}

TEST_F(PlainReferenceTest, BaqGivesTheSameLevelsAndCodes) {
  const PlainResult plain = PlainBaq(Plain(), 3);
  ASSERT_TRUE(plain.positive_definite);
  const quant::QuantizedResult ours = Ours(Method::kBaq, 3);
  int different = 0;
  for (int64_t j = 0; j < layer_.columns; ++j) {
    different += plain.levels[j] != ours.levels[j];
  }
  EXPECT_LE(different, layer_.columns / 100);
  EXPECT_GE(Same(plain.codes, ours.codes), 0.99);
}

TEST_F(PlainReferenceTest, SaysWhenThereIsNoFactor) {
  std::vector<float> indefinite = layer_.hessian;
  indefinite[0] = -1e9f;
  PlainLayer layer = Plain();
  layer.hessian = indefinite.data();
  EXPECT_FALSE(PlainGptq(layer, 2).positive_definite);
}

}  // namespace
}  // namespace bitwright::bench
