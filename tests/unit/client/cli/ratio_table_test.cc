#include "client/cli/ratio_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace bitwright {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

LayerDescription Layer(const std::string& name, const std::string& report) {
  LayerDescription layer;
  layer.name = name;
  layer.report_json = report;
  return layer;
}

std::string Report(double share) {
  return "{\"ratio\": {\"share\": " + std::to_string(share) +
         ", \"bits_normal\": 2, \"bits_high\": 3}}";
}

TEST(RatioTableTest, IsOfBlocksAndLinears) {
  CheckpointDescription description;
  description.layers = {Layer("model.layers.0.self_attn.q_proj", Report(0.02)),
                        Layer("model.layers.0.mlp.down_proj", Report(0.2)),
                        Layer("model.layers.10.self_attn.q_proj", Report(0.1))};
  const std::string text = RatioTableText(description);
  EXPECT_THAT(text, HasSubstr("share of rows at 3 bits, the others at 2"));
  EXPECT_THAT(text, HasSubstr("self_attn.q_proj"));
  EXPECT_THAT(text, MatchesRegex("(.|\n)*0 +0\\.02 +0\\.2(.|\n)*10 +0\\.1 *\n"
                                 "(.|\n)*"));
}

TEST(RatioTableTest, IsEmptyForOtherMethods) {
  CheckpointDescription description;
  description.layers = {Layer("model.layers.0.self_attn.q_proj", "{}"),
                        Layer("model.layers.0.self_attn.k_proj", "no JSON"),
                        Layer("a", "{\"ratio\": 3}"),
                        Layer("b", "{\"ratio\": {\"share\": \"x\"}}")};
  EXPECT_EQ(RatioTableText(description), "");
}

}  // namespace
}  // namespace bitwright
