#include "client/cli/prediction.h"

#include <cmath>

#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bitwright {
namespace {

using testing::HasSubstr;

v1::Prediction At(double bits, double rise) {
  v1::Prediction prediction;
  prediction.set_bits(bits);
  prediction.set_code_bits_per_weight(bits - 0.2);
  prediction.set_file_bits_per_weight(bits);
  prediction.set_quantized_weights(1000);
  prediction.set_weighted_loss(4 * rise);
  prediction.set_nll_rise(rise);
  prediction.set_calibration_perplexity(16);
  return prediction;
}

TEST(PredictionTest, BytesAndPerplexity) {
  EXPECT_EQ(PredictedBytes(At(2.5, 0.1)), 313);  // 312.5
  EXPECT_DOUBLE_EQ(PredictedPerplexity(At(2.5, 0.1)), 16 * std::exp(0.1));
  EXPECT_THAT(PredictionText(At(2.5, std::log(2))), HasSubstr("32 from 16"));
  const nlohmann::ordered_json json = PredictionJson(At(2.5, 0.1));
  EXPECT_EQ(json["bytes"], 313);
  EXPECT_EQ(json["bits"], 2.5);
  EXPECT_EQ(json["nll_rise"], 0.1);
}

TEST(PredictionTest, PlotFallsFromLeftToRight) {
  const std::string plot =
      PlotPredictions({At(2, 1), At(3, 0.1), At(4, 0.01)}, 21, 3);
  const std::vector<std::string> lines = absl::StrSplit(plot, '\n');
  ASSERT_EQ(lines.size(), 7u);
  EXPECT_THAT(lines[1], HasSubstr("1 |*"));
  EXPECT_THAT(lines[2], HasSubstr("0.1 |          *"));
  EXPECT_THAT(lines[3], HasSubstr("0.01 |                    *"));
  EXPECT_THAT(lines[5], HasSubstr("2.00"));
  EXPECT_THAT(lines[5], HasSubstr("4.00 file bits"));
}

TEST(PredictionTest, PlotNeedsTwoPointsAndBearsEqualOnes) {
  EXPECT_EQ(PlotPredictions({}, 20, 5), "");
  EXPECT_EQ(PlotPredictions({At(2, 1)}, 20, 5), "");
  EXPECT_THAT(PlotPredictions({At(2, 0), At(2, 0)}, 20, 5), HasSubstr("*"));
}

}  // namespace
}  // namespace bitwright
