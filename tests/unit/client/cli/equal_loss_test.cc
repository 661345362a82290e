#include "client/cli/equal_loss.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bitwright {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// Uniform pass: 4 levels (2 bits), loss 100, GM/AM 0.5. The result: 1.5 code
// bits, loss 120; a uniform pass there would have lost 100·2^(2·0.5) = 200.
constexpr char kReport[] = R"({
  "gm_over_am": 0.5, "uniform_levels": 4,
  "column_loss": {"columns": 8, "zero": 0, "mean": 7.5, "geometric_mean": 7,
    "min": 3, "quartiles": [6, 7, 9], "max": 15, "within_2x_of_median": 0.75,
    "octaves": {"first": -1, "counts": [2, 6, 0]}},
  "uniform_column_loss": {"columns": 8, "zero": 0, "mean": 6.25,
    "geometric_mean": 3.1, "min": 1, "quartiles": [2, 4, 6], "max": 20,
    "within_2x_of_median": 0.5, "octaves": {"first": -1, "counts": [4, 2, 2]}}
})";

LayerDescription Layer(std::string name, std::string report = kReport) {
  return {.name = std::move(name),
          .rows = 4,
          .cols = 8,
          .code_bits = 1.5,
          .file_bits = 2,
          .loss = 120,
          .uniform_loss = 100,
          .report_json = std::move(report)};
}

TEST(EqualLossTest, GainIsAtEqualCodeBits) {
  const auto layer = EqualLossOf(Layer("q"));
  ASSERT_TRUE(layer.has_value());
  ASSERT_TRUE(layer->gain.has_value());
  EXPECT_DOUBLE_EQ(layer->gain->uniform_loss, 200);
  EXPECT_DOUBLE_EQ(layer->gain->achieved(), 0.6);
  EXPECT_DOUBLE_EQ(layer->gain->predicted(), 0.5);
  EXPECT_DOUBLE_EQ(layer->final.near_share(), 0.75);
  EXPECT_EQ(layer->final.quartiles[1], 7);
}

TEST(EqualLossTest, LayersAddUpAsLosses) {
  auto big = *EqualLossOf(Layer("big"));
  auto small = *EqualLossOf(Layer("small"));
  small.gain->uniform_loss = 20;
  small.gain->loss = 20;
  small.gain->predicted_loss = 2;
  const LayerEqualLoss all = Together({big, small});
  EXPECT_EQ(all.final.columns, 16);
  EXPECT_DOUBLE_EQ(all.final.near_share(), 0.75);
  EXPECT_EQ(all.final.octaves[1], 12);
  EXPECT_DOUBLE_EQ(all.gain->achieved(), 140.0 / 220);
  EXPECT_DOUBLE_EQ(all.gain->predicted(), 102.0 / 220);
  EXPECT_DOUBLE_EQ(all.gain->uniform_bits, 2);
}

TEST(EqualLossTest, GptqHasLossesButNoGain) {
  const auto layer = EqualLossOf(Layer(
      "q", R"({"column_loss": {"columns": 2, "zero": 2}, "gm_over_am": 1})"));
  ASSERT_TRUE(layer.has_value());
  EXPECT_FALSE(layer->gain.has_value());
  EXPECT_EQ(layer->final.near_share(), 0);
  EXPECT_FALSE(EqualLossJson(*layer).contains("gain"));
}

TEST(EqualLossTest, OldOrForeignReportsAreNoTrouble) {
  for (const char* report :
       {"", "[]", "{}", R"({"column_loss": 3})", "{\"column_loss\""}) {
    EXPECT_FALSE(EqualLossOf(Layer("q", report)).has_value()) << report;
  }
  const auto odd = EqualLossOf(Layer(
      "q", R"({"column_loss": {"columns": "x", "octaves": {"counts": [1, "y"]},
               "quartiles": [null]}})"));
  ASSERT_TRUE(odd.has_value());
  EXPECT_EQ(odd->final.columns, 0);
  CheckpointDescription description;
  description.layers = {Layer("q", "{}")};
  EXPECT_THAT(EqualLossText(description), HasSubstr("not recorded"));
  EXPECT_THAT(LinearText(Layer("q", "{}")), HasSubstr("not recorded"));
}

TEST(EqualLossTest, FindsALinearByItsEnd) {
  CheckpointDescription description;
  description.layers = {Layer("layers.0.q_proj"), Layer("layers.1.q_proj"),
                        Layer("layers.1.o_proj")};
  EXPECT_EQ(FindLinear(description, "o_proj")->name, "layers.1.o_proj");
  EXPECT_EQ(FindLinear(description, "layers.0.q_proj")->name,
            "layers.0.q_proj");
  const auto several = FindLinear(description, "q_proj").status();
  EXPECT_TRUE(absl::IsInvalidArgument(several));
  EXPECT_THAT(std::string(several.message()), HasSubstr("layers.1.q_proj"));
  EXPECT_THAT(std::string(several.message()), Not(HasSubstr("o_proj")));
  EXPECT_TRUE(absl::IsNotFound(FindLinear(description, "fc1").status()));
}

TEST(EqualLossTest, TextShowsTableHistogramAndGain) {
  CheckpointDescription description;
  description.layers = {Layer("layers.0.q_proj"), Layer("layers.1.q_proj")};
  const std::string text = EqualLossText(description);
  EXPECT_THAT(
      text,
      HasSubstr("layers.1.q_proj  0.400  0.800   0.933  1.200  2.000  75.0"));
  EXPECT_THAT(text, HasSubstr("75.0 % within a factor 2 (50.0 % after"));
  EXPECT_THAT(text, HasSubstr("loss 0.6000 of the uniform pass's"));
  EXPECT_THAT(text, HasSubstr("predicted 0.5000"));
  // A quarter of the columns at half the mean: a quarter of the bar's width.
  EXPECT_THAT(text, HasSubstr("        1/2  ######                    25.0 %"));
  EXPECT_THAT(LinearText(description.layers[0]),
              HasSubstr("quartiles 6 7 9, max 15 (2.00 of the mean)"));
}

// The report of a checkpoint may be anything.
TEST(EqualLossTest, MalformedReportsAreNotRecorded) {
  for (const char* losses :
       {"3", "[]", R"({"columns": 4, "quartiles": 3, "octaves": {}})",
        R"({"columns": 4, "quartiles": [1, 2, 3], "octaves": 3})",
        R"({"columns": 4, "quartiles": [1], "octaves": {"counts": 7}})",
        R"({"columns": 4, "quartiles": [1],
            "octaves": {"first": 1e300, "counts": [1]}})"}) {
    EXPECT_FALSE(EqualLossOf(Layer("q", absl::StrCat(R"({"column_loss": )",
                                                     losses, "}")))
                     .has_value())
        << losses;
  }
  const LayerDescription layer =
      Layer("q", R"({"column_loss": {"columns": 2, "zero": 9,
                     "quartiles": ["a"],
                     "octaves": {"first": -50, "counts": [-5, 99, "x"]}}})");
  CheckpointDescription description;
  description.layers = {layer};
  EXPECT_THAT(EqualLossText(description), HasSubstr("q"));
  EXPECT_THAT(LinearText(layer), HasSubstr("q"));
}

}  // namespace
}  // namespace bitwright
