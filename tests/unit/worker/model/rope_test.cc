#include "worker/model/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <utility>
#include <vector>

namespace bitwright::model {
namespace {

// Channels and their frequencies, as ROPE_INIT_FUNCTIONS of Transformers 4.44.2
// gives them in float32.
using Expected = std::vector<std::pair<int, double>>;

ModelConfig Config(int64_t head_dim, double theta, int64_t max_position) {
  ModelConfig config;
  config.head_dim = head_dim;
  config.rope_theta = theta;
  config.max_position = max_position;
  return config;
}

void ExpectFrequencies(const ModelConfig& config, int64_t seqlen,
                       const Expected& expected) {
  const std::vector<double> frequencies = RopeFrequencies(config, seqlen);
  ASSERT_EQ(static_cast<int64_t>(frequencies.size()), config.head_dim / 2);
  for (const auto& [channel, frequency] : expected) {
    EXPECT_NEAR(frequencies[channel], frequency, 2e-6 * frequency)
        << "channel " << channel;
  }
}

TEST(RopeTest, Llama3AsInLlama31) {
  ModelConfig config = Config(128, 500000, 131072);
  config.rope_scaling.kind = RopeScaling::Kind::kLlama3;
  config.rope_scaling.factor = 8;
  config.rope_scaling.original_max_position = 8192;
  ExpectFrequencies(config, 100,
                    {{0, 1},
                     {10, 0.128687382},
                     {25, 0.00594073068},
                     {28, 0.00321144611},
                     {30, 0.00137189368},
                     {32, 0.000524846022},
                     {34, 0.000178507791},
                     {40, 3.42810235e-05},
                     {63, 3.06892588e-07}});
}

TEST(RopeTest, YarnAsInQwen25) {
  ModelConfig config = Config(128, 1e6, 32768);
  config.rope_scaling.kind = RopeScaling::Kind::kYarn;
  config.rope_scaling.factor = 4;
  config.rope_scaling.original_max_position = 32768;
  const Expected expected = {{0, 1},
                             {10, 0.115478203},
                             {23, 0.00697830599},
                             {25, 0.0041317381},
                             {30, 0.00106436096},
                             {35, 0.000246258394},
                             {39, 6.4903943e-05},
                             {40, 4.44569851e-05},
                             {63, 3.10234441e-07}};
  ExpectFrequencies(config, 100, expected);
  EXPECT_NEAR(RopeAttentionFactor(config.rope_scaling), 1.138629436111989,
              1e-12);
  // The original context counts, not the stretched one.
  config.max_position = 131072;
  ExpectFrequencies(config, 100, expected);
}

TEST(RopeTest, DynamicScalesOnlyBeyondTheContext) {
  ModelConfig config = Config(128, 10000, 2048);
  const std::vector<double> plain = RopeFrequencies(config, 5000);
  config.rope_scaling.kind = RopeScaling::Kind::kDynamic;
  config.rope_scaling.factor = 2;
  EXPECT_EQ(RopeFrequencies(config, 2048), plain);
  ExpectFrequencies(
      config, 5000,
      {{0, 1}, {1, 0.847517073}, {32, 0.00502054673}, {63, 2.9740866e-05}});
}

TEST(RopeTest, LinearDividesAllFrequencies) {
  ModelConfig config = Config(8, 10000, 64);
  config.rope_scaling.kind = RopeScaling::Kind::kLinear;
  config.rope_scaling.factor = 4;
  ExpectFrequencies(config, 10, {{0, 0.25}, {1, 0.025}, {3, 0.00025}});
}

TEST(RopeTest, TablesHoldCosineAndSine) {
  const ModelConfig config = Config(4, 100, 64);  // Frequencies 1 and 0.1.
  const RopeTables tables = MakeRopeTables(config, 8);
  ASSERT_EQ(tables.half, 2);
  for (int p = 0; p < 8; ++p) {
    EXPECT_NEAR(tables.cos[p * 2], std::cos(p), 1e-7);
    EXPECT_NEAR(tables.sin[p * 2], std::sin(p), 1e-7);
    EXPECT_NEAR(tables.cos[p * 2 + 1], std::cos(0.1 * p), 1e-7);
    EXPECT_NEAR(tables.sin[p * 2 + 1], std::sin(0.1 * p), 1e-7);
  }
}

}  // namespace
}  // namespace bitwright::model
