// Logits against Hugging Face Transformers, float32 on both sides. The fixtures
// come from tests/interop/logits/make_fixtures.py.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/unit/worker/model/test_models.h"

namespace bitwright::model {
namespace {

class LogitsTest : public testing::TestWithParam<const char*> {};

TEST_P(LogitsTest, AgreeWithTransformers) {
  const Fixture fixture(GetParam());
  HiddenStates states = fixture.Embed();
  for (int64_t b = 0; b < fixture.model->num_blocks(); ++b) {
    ASSERT_TRUE(fixture.model->RunBlock(b, nullptr, &states, nullptr).ok());
  }
  auto logits = fixture.model->Logits(states);
  ASSERT_TRUE(logits.ok()) << logits.status();
  ASSERT_EQ(logits->size(), fixture.logits.size());
  double worst = 0;
  for (size_t i = 0; i < logits->size(); ++i) {
    worst = std::max(worst, std::abs(double{(*logits)[i]} - fixture.logits[i]));
  }
  RecordProperty("max_abs_difference", std::to_string(worst));
  EXPECT_LE(worst, 1e-4);

  // The same logits give the likelihoods.
  auto nll = fixture.model->WindowNll(states, fixture.tokens);
  ASSERT_TRUE(nll.ok()) << nll.status();
  const int64_t vocab = fixture.model->config().vocab_size;
  for (int64_t s = 0; s < fixture.sequences; ++s) {
    double expected = 0;
    for (int64_t p = 0; p + 1 < fixture.seqlen; ++p) {
      const float* row =
          fixture.logits.data() + (s * fixture.seqlen + p) * vocab;
      double sum = 0;
      for (int64_t v = 0; v < vocab; ++v) sum += std::exp(double{row[v]});
      expected +=
          std::log(sum) - row[fixture.tokens[s * fixture.seqlen + p + 1]];
    }
    EXPECT_NEAR((*nll)[s], expected, 1e-5 * expected);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Fixtures, LogitsTest,
    testing::Values("llama_plain", "llama_tied_f32", "llama_gqa_bias_bf16",
                    "llama_rope_linear", "llama_rope_dynamic",
                    "llama_rope_llama3", "llama_rope_yarn", "mistral_window",
                    "qwen2", "opt_before", "opt_after_projected",
                    "opt_no_bias_bf16", "opt_untied_gelu_no_final_norm"),
    [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace bitwright::model
