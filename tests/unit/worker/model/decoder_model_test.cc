#include "worker/model/decoder_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <set>
#include <utility>

#include "common/base/file.h"
#include "tests/unit/worker/model/test_models.h"

namespace bitwright::model {
namespace {

using testing::HasSubstr;

HiddenStates Slice(const HiddenStates& states, int64_t begin, int64_t end) {
  const int64_t size = states.seqlen * states.width;
  return {end - begin, states.seqlen, states.width,
          std::vector<float>(states.data.begin() + begin * size,
                             states.data.begin() + end * size)};
}

// A batch of sequences that are unlike each other.
HiddenStates ManySequences(const Fixture& fixture, int64_t sequences,
                           int64_t seqlen = 40) {
  std::vector<int32_t> tokens(sequences * seqlen);
  const int64_t vocab = fixture.model->config().vocab_size;
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<int32_t>((i * i + 7 * i + i / 13) % vocab);
  }
  return *fixture.model->Embed(tokens, sequences, seqlen);
}

bool SameBytes(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void ExpectSameSums(const std::vector<HessianSum>& a,
                    const std::vector<HessianSum>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t g = 0; g < a.size(); ++g) {
    EXPECT_EQ(a[g].group, b[g].group);
    EXPECT_EQ(a[g].cols, b[g].cols);
    EXPECT_TRUE(SameBytes(a[g].packed_lower, b[g].packed_lower)) << a[g].group;
  }
}

double Magnitude(const std::vector<double>& values) {
  double sum = 0;
  for (double v : values) sum += v * v;
  return std::sqrt(sum / static_cast<double>(values.size()));
}

class BlockTest : public testing::TestWithParam<const char*> {};

// Output and Hessian sums against float64.
void ExpectBlockMatchesReference(const Fixture& fixture, int64_t block,
                                 const Weights& replaced, int64_t seqlen = 40) {
  const WeightOverride weights = [&](const std::string& name)
      -> absl::StatusOr<std::optional<std::vector<float>>> {
    auto it = replaced.find(name);
    if (it == replaced.end()) return std::nullopt;
    return it->second;
  };
  const HiddenStates before = ManySequences(fixture, 3, seqlen);
  HiddenStates after = before;
  std::vector<HessianSum> sums;
  ASSERT_TRUE(fixture.model->RunBlock(block, weights, &after, &sums).ok());

  std::map<std::string, std::vector<double>> expected;
  const int64_t size = before.seqlen * before.width;
  for (int64_t s = 0; s < before.sequences; ++s) {
    const ReferenceBlock reference(*fixture.directory, block, replaced,
                                   before.data.data() + s * size,
                                   before.seqlen);
    for (const auto& [group, x] : reference.inputs) {
      AddOuterProducts(x, &expected[group]);
    }
    for (int64_t i = 0; i < size; ++i) {
      const double want = reference.output[i / before.width][i % before.width];
      ASSERT_NEAR(after.data[s * size + i], want, 3e-5 * (1 + std::abs(want)))
          << "sequence " << s << ", element " << i;
    }
  }
  ASSERT_EQ(sums.size(), 4u);
  for (const HessianSum& sum : sums) {
    const std::vector<double>& want = expected[sum.group];
    ASSERT_EQ(sum.packed_lower.size(), want.size()) << sum.group;
    const double tolerance = 1e-5 * Magnitude(want);
    for (size_t i = 0; i < want.size(); ++i) {
      ASSERT_NEAR(sum.packed_lower[i], want[i],
                  tolerance + 1e-5 * std::abs(want[i]))
          << sum.group << " " << i;
    }
  }
}

TEST_P(BlockTest, OutputAndHessianSumsMatchFloat64) {
  const Fixture fixture(GetParam());
  for (int64_t block = 0; block < fixture.model->num_blocks(); ++block) {
    ExpectBlockMatchesReference(fixture, block, {});
  }
}

TEST_P(BlockTest, OverriddenWeightsAreUsed) {
  const Fixture fixture(GetParam());
  // All but the second linear, each scaled by its own factor.
  Weights replaced;
  const auto linears = BlockLinears(fixture.model->config(), 1);
  for (size_t i = 0; i < linears.size(); ++i) {
    if (i == 1) continue;
    std::vector<float> w =
        *fixture.directory->ReadFloats(linears[i].name + ".weight");
    for (float& v : w) v *= 0.5f + 0.1f * static_cast<float>(i);
    replaced[linears[i].name] = std::move(w);
  }
  ExpectBlockMatchesReference(fixture, 1, replaced);
}

TEST_P(BlockTest, HessiansAloneEqualThoseOfARun) {
  const Fixture fixture(GetParam());
  const HiddenStates states = ManySequences(fixture, 5);
  HiddenStates after = states;
  std::vector<HessianSum> sums;
  ASSERT_TRUE(fixture.model->RunBlock(0, nullptr, &after, &sums).ok());
  auto alone = fixture.model->BlockHessians(0, nullptr, states);
  ASSERT_TRUE(alone.ok()) << alone.status();
  ExpectSameSums(sums, *alone);
  std::vector<std::string> groups;
  for (const HessianSum& sum : *alone) groups.push_back(sum.group);
  EXPECT_THAT(groups,
              testing::ElementsAre("attn_in", "attn_out", "mlp_in", "mlp_out"));
}

TEST_P(BlockTest, BytesDoNotDependOnThreads) {
  const Fixture fixture(GetParam());
  const HiddenStates states = ManySequences(fixture, 7);
  HiddenStates first;
  std::vector<HessianSum> first_sums;
  std::vector<double> first_nll;
  const std::vector<int32_t> tokens(7 * states.seqlen, 3);
  for (int threads : {1, 2, 3}) {
    ScopedThreads scoped(threads);
    HiddenStates after = states;
    std::vector<HessianSum> sums;
    ASSERT_TRUE(fixture.model->RunBlock(0, nullptr, &after, &sums).ok());
    auto nll = fixture.model->WindowNll(after, tokens);
    ASSERT_TRUE(nll.ok()) << nll.status();
    if (threads == 1) {
      std::tie(first, first_sums, first_nll) = std::tie(after, sums, *nll);
      continue;
    }
    EXPECT_TRUE(SameBytes(first.data, after.data)) << threads;
    ExpectSameSums(first_sums, sums);
    EXPECT_EQ(first_nll, *nll) << threads;
  }
}

TEST_P(BlockTest, BytesDoNotDependOnTheBatch) {
  const Fixture fixture(GetParam());
  const HiddenStates states = ManySequences(fixture, 7);
  HiddenStates whole = states;
  ASSERT_TRUE(fixture.model->RunBlock(0, nullptr, &whole, nullptr).ok());
  std::vector<float> joined;
  for (auto [begin, end] : {std::pair(0, 1), {1, 5}, {5, 7}}) {
    HiddenStates part = Slice(states, begin, end);
    std::vector<HessianSum> sums;  // Capturing changes nothing either.
    ASSERT_TRUE(fixture.model->RunBlock(0, nullptr, &part, &sums).ok());
    joined.insert(joined.end(), part.data.begin(), part.data.end());
  }
  EXPECT_TRUE(SameBytes(whole.data, joined));
}

INSTANTIATE_TEST_SUITE_P(Families, BlockTest,
                         testing::Values("llama_plain", "opt_before"),
                         [](const auto& info) { return info.param; });

// Attention works through blocks of at most 256 queries.
TEST(DecoderModelTest, LongSequencesMatchFloat64) {
  for (const char* name : {"llama_plain", "mistral_window"}) {
    SCOPED_TRACE(name);
    const Fixture fixture(name);
    ExpectBlockMatchesReference(fixture, 0, {}, /*seqlen=*/300);
  }
}

// The head is read in pieces of 4,096 tokens: the likelihoods over 10,000 must
// be those of one softmax in float64.
TEST(DecoderModelTest, LargeVocabulariesMatchFloat64) {
  constexpr int64_t kVocab = 10000, kWidth = 8, kSeqlen = 30;
  auto directory = TempDirectory::Create("model_test");
  ASSERT_TRUE(directory.ok()) << directory.status();
  WriteRandomLlama(directory->path(), kVocab, kWidth);
  auto weights = ModelDirectory::Open(directory->path());
  ASSERT_TRUE(weights.ok()) << weights.status();
  auto model = DecoderModel::Open(weights->get(), "cpu");
  ASSERT_TRUE(model.ok()) << model.status();

  std::vector<int32_t> tokens(2 * kSeqlen);
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<int32_t>(i * 4099 % kVocab);
  }
  auto states = (*model)->Embed(tokens, 2, kSeqlen);
  ASSERT_TRUE(states.ok()) << states.status();
  auto nll = (*model)->WindowNll(*states, tokens);
  ASSERT_TRUE(nll.ok()) << nll.status();
  auto logits = (*model)->Logits(*states);
  ASSERT_TRUE(logits.ok()) << logits.status();
  const std::vector<float> head = *(*weights)->ReadFloats("lm_head.weight");
  const std::vector<float> embedding =
      *(*weights)->ReadFloats("model.embed_tokens.weight");
  for (int64_t s = 0; s < 2; ++s) {
    double expected = 0;
    for (int64_t p = 0; p < kSeqlen; ++p) {
      const float* x = embedding.data() + tokens[s * kSeqlen + p] * kWidth;
      double square = 0, sum = 0, target = 0;
      for (int64_t c = 0; c < kWidth; ++c)
        square += double{x[c]} * x[c] / kWidth;
      for (int64_t v = 0; v < kVocab; ++v) {
        double logit = 0;
        for (int64_t c = 0; c < kWidth; ++c) {
          logit += x[c] / std::sqrt(square + 1e-5) * head[v * kWidth + c];
        }
        ASSERT_NEAR((*logits)[(s * kSeqlen + p) * kVocab + v], logit, 1e-4);
        sum += std::exp(logit);
        if (p + 1 < kSeqlen && v == tokens[s * kSeqlen + p + 1]) target = logit;
      }
      if (p + 1 < kSeqlen) expected += std::log(sum) - target;
    }
    EXPECT_NEAR((*nll)[s], expected, 1e-6 * expected);
  }
}

// ‖logits − logits'‖² without the logits.
TEST(DecoderModelTest, TheVocabularysGramMeasuresChangesOfTheLogits) {
  for (const char* name :
       {"llama_plain", "opt_before", "opt_after_projected"}) {
    SCOPED_TRACE(name);
    const Fixture fixture(name);
    const DecoderModel& model = *fixture.model;
    const HiddenStates before = fixture.Embed();
    HiddenStates after = before;
    ASSERT_TRUE(model.RunBlock(0, nullptr, &after, nullptr).ok());
    const std::vector<float> logits = Must(model.Logits(before));
    const std::vector<float> changed = Must(model.Logits(after));
    double expected = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
      const double move = double{changed[i]} - logits[i];
      expected += move * move;
    }
    const HiddenStates x = Must(model.HeadInputs(before));
    const HiddenStates y = Must(model.HeadInputs(after));
    const std::vector<double> gram = Must(model.VocabularyGram());
    const int64_t n = x.width;
    ASSERT_EQ(static_cast<int64_t>(gram.size()), n * n);
    ASSERT_EQ(static_cast<int64_t>(x.data.size()), x.sequences * x.seqlen * n);
    double measured = 0;
    for (size_t at = 0; at < x.data.size(); at += n) {
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          measured += (double{y.data[at + i]} - x.data[at + i]) *
                      gram[i * n + j] *
                      (double{y.data[at + j]} - x.data[at + j]);
        }
      }
    }
    EXPECT_NEAR(measured / expected, 1, 1e-5);
  }
}

TEST(DecoderModelTest, EveryLinearOfTheBlockIsAskedForOnce) {
  const Fixture fixture("llama_gqa_bias_bf16");
  std::vector<std::string> asked, expected;
  HiddenStates states = fixture.Embed();
  ASSERT_TRUE(fixture.model
                  ->RunBlock(
                      1,
                      [&](const std::string& name)
                          -> absl::StatusOr<std::optional<std::vector<float>>> {
                        asked.push_back(name);
                        return std::nullopt;
                      },
                      &states, nullptr)
                  .ok());
  for (const LinearSpec& linear : BlockLinears(fixture.model->config(), 1)) {
    expected.push_back(linear.name);
  }
  EXPECT_EQ(asked, expected);
}

TEST(DecoderModelTest, OverridesThatFailOrDoNotFitAreErrors) {
  const Fixture fixture("llama_plain");
  HiddenStates states = fixture.Embed();
  absl::Status status = fixture.model->RunBlock(
      0,
      [](const std::string&)
          -> absl::StatusOr<std::optional<std::vector<float>>> {
        return std::vector<float>(5);
      },
      &states, nullptr);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("model.layers.0.self_attn.q_proj.weight has 5 "));
  status = fixture.model->RunBlock(
      0,
      [](const std::string&)
          -> absl::StatusOr<std::optional<std::vector<float>>> {
        return absl::DataLossError("blob");
      },
      &states, nullptr);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
}

TEST(DecoderModelTest, RefusesWhatDoesNotFitTheModel) {
  const Fixture fixture("opt_before");
  const DecoderModel& model = *fixture.model;
  using Tokens = std::vector<int32_t>;
  auto result = model.Embed(Tokens{1, 2, 67}, 1, 3);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("token 67"));
  result = model.Embed(Tokens{1, -2, 3}, 1, 3);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("token -2"));
  result = model.Embed(Tokens{1, 2, 3}, 2, 2);
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  result = model.Embed(Tokens(49, 1), 1, 49);
  EXPECT_THAT(std::string(result.status().message()),
              HasSubstr("seqlen 49 is beyond the model's 48 positions"));

  HiddenStates states = fixture.Embed();
  EXPECT_EQ(model.RunBlock(2, nullptr, &states, nullptr).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(model.RunBlock(-1, nullptr, &states, nullptr).code(),
            absl::StatusCode::kInvalidArgument);
  states.data.pop_back();
  EXPECT_EQ(model.RunBlock(0, nullptr, &states, nullptr).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(DecoderModelTest, ALikelihoodThatIsNotFiniteIsAnError) {
  const Fixture fixture("opt_before");
  HiddenStates states = fixture.Embed();
  states.data[states.seqlen * states.width + 3] =
      std::numeric_limits<float>::quiet_NaN();
  auto nll = fixture.model->WindowNll(states, fixture.tokens);
  EXPECT_EQ(nll.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(nll.status().message()), HasSubstr("window 1"));
}

TEST(DecoderModelTest, DevicesAreNamed) {
  const Fixture fixture("opt_before");
  EXPECT_EQ(fixture.model->device(), "cpu");
  auto model = DecoderModel::Open(fixture.directory.get(), "tpu");
  EXPECT_EQ(model.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(DecoderModel::Open(fixture.directory.get(), "auto").ok());
}

}  // namespace
}  // namespace bitwright::model
