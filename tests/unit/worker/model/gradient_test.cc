// Gradients against PyTorch's autograd through Hugging Face Transformers
// (tests/interop/gradients/make_fixtures.py), and what else NllGradient and
// BackpropBlock promise. gradient_check_test.cc asks the likelihood itself.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/checkpoint/safetensors.h"
#include "tests/unit/worker/model/test_models.h"

namespace bitwright::model {
namespace {

using testing::HasSubstr;

std::vector<float> Stored(const SafetensorsFile& file,
                          const std::string& name) {
  return Must(file.ReadFloats(name, Must(file.Require(name))->shape));
}

// All boundaries of one batch and what backpropagation says of them.
struct Chain {
  std::vector<HiddenStates> states;     // [blocks + 1]: into each block, out.
  std::vector<HiddenStates> gradients;  // Likewise.
  std::vector<OutputSensitivity> sensitivities;  // In the model's order.
};

Chain RunChain(const DecoderModel& model, const std::vector<int32_t>& tokens,
               int64_t sequences, int64_t seqlen) {
  Chain chain;
  chain.states = {Must(model.Embed(tokens, sequences, seqlen))};
  const int64_t blocks = model.num_blocks();
  for (int64_t b = 0; b < blocks; ++b) {
    HiddenStates next = chain.states.back();
    EXPECT_TRUE(model.RunBlock(b, nullptr, &next, nullptr).ok());
    chain.states.push_back(std::move(next));
  }
  chain.gradients.resize(blocks + 1);
  chain.gradients[blocks] =
      Must(model.NllGradient(chain.states[blocks], tokens));
  for (int64_t b = blocks - 1; b >= 0; --b) {
    std::vector<OutputSensitivity> sums = Must(
        model.BackpropBlock(b, nullptr, chain.states[b], chain.gradients[b + 1],
                            &chain.gradients[b], Sensitivity::kWeights));
    chain.sensitivities.insert(chain.sensitivities.begin(), sums.begin(),
                               sums.end());
  }
  return chain;
}

// max |have - want| / max |want|
template <typename A, typename B>
double WorstError(const std::vector<A>& have, const std::vector<B>& want) {
  EXPECT_EQ(have.size(), want.size());
  if (have.size() != want.size()) return 1;
  double worst = 0, largest = 0;
  for (size_t i = 0; i < have.size(); ++i) {
    worst = std::max(worst, std::abs(double{have[i]} - double{want[i]}));
    largest = std::max(largest, std::abs(double{want[i]}));
  }
  EXPECT_GT(largest, 0.0);
  return worst / largest;
}

bool SameBytes(const HiddenStates& a, const HiddenStates& b) {
  return a.sequences == b.sequences && a.seqlen == b.seqlen &&
         a.width == b.width && a.data.size() == b.data.size() &&
         std::memcmp(a.data.data(), b.data.data(),
                     a.data.size() * sizeof(float)) == 0;
}

void ExpectSame(const std::vector<OutputSensitivity>& a,
                const std::vector<OutputSensitivity>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].linear, b[i].linear);
    EXPECT_EQ(a[i].squares, b[i].squares) << a[i].linear;
    EXPECT_EQ(a[i].fisher, b[i].fisher) << a[i].linear;
  }
}

class AutogradTest : public testing::TestWithParam<const char*> {};

TEST_P(AutogradTest, BoundariesAndSensitivitiesAgree) {
  const Fixture fixture(GetParam());
  const DecoderModel& model = *fixture.model;
  const auto file = Must(SafetensorsFile::Open(
      FixturePath(absl::StrCat(GetParam(), ".gradients.safetensors"))));
  const Chain chain =
      RunChain(model, fixture.tokens, fixture.sequences, fixture.seqlen);
  double worst = 0;
  for (size_t b = 0; b < chain.gradients.size(); ++b) {
    const double error = WorstError(
        chain.gradients[b].data, Stored(*file, absl::StrCat("boundary.", b)));
    EXPECT_LE(error, 2e-5) << "boundary " << b;
    worst = std::max(worst, error);
  }
  std::vector<std::string> names, expected;
  for (int64_t b = 0; b < model.num_blocks(); ++b) {
    for (const LinearSpec& linear : BlockLinears(model.config(), b)) {
      expected.push_back(linear.name);
    }
  }
  for (const OutputSensitivity& s : chain.sensitivities) {
    const double error = WorstError(s.squares, Stored(*file, s.linear));
    EXPECT_LE(error, 2e-5) << s.linear;
    const double fisher_error =
        WorstError(s.fisher, Stored(*file, s.linear + ".fisher"));
    EXPECT_LE(fisher_error, 2e-5) << s.linear << ".fisher";
    worst = std::max({worst, error, fisher_error});
    names.push_back(s.linear);
  }
  EXPECT_EQ(names, expected);
  RecordProperty("max_relative_difference", std::to_string(worst));
}

INSTANTIATE_TEST_SUITE_P(
    Fixtures, AutogradTest,
    testing::Values("llama_plain", "llama_tied_f32", "llama_gqa_bias_bf16",
                    "llama_rope_linear", "llama_rope_dynamic",
                    "llama_rope_llama3", "llama_rope_yarn", "mistral_window",
                    "qwen2", "opt_before", "opt_after_projected",
                    "opt_no_bias_bf16", "opt_untied_gelu_no_final_norm"),
    [](const auto& info) { return std::string(info.param); });

class BackpropTest : public testing::TestWithParam<const char*> {
 protected:
  static constexpr int64_t kSequences = 7, kSeqlen = 40;
  BackpropTest() : fixture_(GetParam()), tokens_(kSequences * kSeqlen) {
    for (size_t i = 0; i < tokens_.size(); ++i) {
      tokens_[i] = static_cast<int32_t>((i * i + 7 * i + i / 13) % 67);
    }
  }
  const DecoderModel& model() const { return *fixture_.model; }

  const Fixture fixture_;
  std::vector<int32_t> tokens_;
};

TEST_P(BackpropTest, BytesDoNotDependOnThreads) {
  Chain first;
  for (int threads : {1, 2, 3}) {
    ScopedThreads scoped(threads);
    Chain chain = RunChain(model(), tokens_, kSequences, kSeqlen);
    if (threads == 1) {
      first = std::move(chain);
      continue;
    }
    for (size_t b = 0; b < chain.gradients.size(); ++b) {
      EXPECT_TRUE(SameBytes(first.gradients[b], chain.gradients[b]))
          << "boundary " << b << ", " << threads << " threads";
    }
    ExpectSame(first.sensitivities, chain.sensitivities);
  }
}

// Sequence by sequence, the sums added in their order: the same bytes.
TEST_P(BackpropTest, BytesDoNotDependOnTheBatch) {
  const Chain whole = RunChain(model(), tokens_, kSequences, kSeqlen);
  std::vector<OutputSensitivity> sums;
  const int64_t size = kSeqlen * model().config().hidden_size;
  for (int64_t s = 0; s < kSequences; ++s) {
    const Chain one = RunChain(
        model(),
        {tokens_.begin() + s * kSeqlen, tokens_.begin() + (s + 1) * kSeqlen}, 1,
        kSeqlen);
    for (size_t b = 0; b < one.gradients.size(); ++b) {
      EXPECT_EQ(std::memcmp(one.gradients[b].data.data(),
                            whole.gradients[b].data.data() + s * size,
                            size * sizeof(float)),
                0)
          << "sequence " << s << ", boundary " << b;
    }
    if (s == 0) sums = one.sensitivities;
    for (size_t l = 0; s > 0 && l < sums.size(); ++l) {
      for (size_t r = 0; r < sums[l].squares.size(); ++r) {
        sums[l].squares[r] += one.sensitivities[l].squares[r];
        sums[l].fisher[r] += one.sensitivities[l].fisher[r];
      }
    }
  }
  ExpectSame(sums, whole.sensitivities);
}

TEST_P(BackpropTest, TheInputGradientMayReplaceTheOutputsOrBeLeftOut) {
  const Chain chain = RunChain(model(), tokens_, kSequences, kSeqlen);
  HiddenStates gradient = chain.gradients[1];
  auto sums = model().BackpropBlock(0, nullptr, chain.states[0], gradient,
                                    nullptr, Sensitivity::kWeights);
  ASSERT_TRUE(sums.ok()) << sums.status();
  EXPECT_TRUE(SameBytes(gradient, chain.gradients[1]));
  const std::vector<OutputSensitivity> first_block(
      chain.sensitivities.begin(), chain.sensitivities.begin() + sums->size());
  ExpectSame(*sums, first_block);
  sums = model().BackpropBlock(0, nullptr, chain.states[0], gradient, &gradient,
                               Sensitivity::kWeights);
  ASSERT_TRUE(sums.ok()) << sums.status();
  EXPECT_TRUE(SameBytes(gradient, chain.gradients[0]));
  ExpectSame(*sums, first_block);
}

TEST_P(BackpropTest, WeightsAreSummedOnlyWhenAskedFor) {
  const Chain chain = RunChain(model(), tokens_, kSequences, kSeqlen);
  const auto sums = model().BackpropBlock(0, nullptr, chain.states[0],
                                          chain.gradients[1], nullptr);
  ASSERT_TRUE(sums.ok()) << sums.status();
  for (size_t l = 0; l < sums->size(); ++l) {
    EXPECT_EQ((*sums)[l].squares, chain.sensitivities[l].squares);
    EXPECT_THAT((*sums)[l].fisher, testing::IsEmpty());
  }
}

TEST_P(BackpropTest, TheLastPositionPredictsNothing) {
  const Chain chain = RunChain(model(), tokens_, kSequences, kSeqlen);
  const int64_t width = model().config().hidden_size;
  for (const HiddenStates& gradient : chain.gradients) {
    for (int64_t s = 0; s < kSequences; ++s) {
      const float* last =
          gradient.data.data() + ((s + 1) * kSeqlen - 1) * width;
      EXPECT_TRUE(std::all_of(last, last + width, [](float v) {
        return v == 0;
      })) << s;
      EXPECT_TRUE(std::any_of(last - width, last, [](float v) {
        return v != 0;
      })) << s;
    }
  }
  const Chain one = RunChain(model(), {3, 5}, /*sequences=*/2, /*seqlen=*/1);
  for (const OutputSensitivity& s : one.sensitivities) {
    EXPECT_THAT(s.squares, testing::Each(0.0)) << s.linear;
  }
}

TEST_P(BackpropTest, RefusesWhatDoesNotFitTheModel) {
  const HiddenStates states = Must(model().Embed(tokens_, 7, 40));
  const auto code = absl::StatusCode::kInvalidArgument;
  auto gradient = model().NllGradient(states, {1, 2, 3});
  EXPECT_EQ(gradient.status().code(), code);
  EXPECT_THAT(std::string(gradient.status().message()),
              HasSubstr("3 tokens for 7 sequences of 40 tokens"));
  std::vector<int32_t> foreign = tokens_;
  foreign[100] = 67;
  gradient = model().NllGradient(states, foreign);
  EXPECT_EQ(gradient.status().code(), code);
  EXPECT_THAT(std::string(gradient.status().message()), HasSubstr("token 67"));

  HiddenStates out;
  for (int64_t block : {-1, 2}) {
    const auto sums =
        model().BackpropBlock(block, nullptr, states, states, &out);
    EXPECT_EQ(sums.status().code(), code);
    EXPECT_THAT(std::string(sums.status().message()),
                HasSubstr(absl::StrCat("block ", block)));
  }
  HiddenStates shorter = Must(model().Embed(
      std::vector<int32_t>(tokens_.begin(), tokens_.end() - 40), 6, 40));
  auto sums = model().BackpropBlock(0, nullptr, states, shorter, &out);
  EXPECT_EQ(sums.status().code(), code);
  EXPECT_THAT(std::string(sums.status().message()),
              HasSubstr("a gradient of 6 sequences of 40 tokens for an input "
                        "of 7 sequences of 40 tokens"));
  shorter.data.pop_back();
  sums = model().BackpropBlock(0, nullptr, states, shorter, &out);
  EXPECT_EQ(sums.status().code(), code);
  EXPECT_THAT(std::string(sums.status().message()), HasSubstr("gradient: "));
  sums = model().BackpropBlock(0, nullptr, shorter, states, &out);
  EXPECT_EQ(sums.status().code(), code);
}

TEST_P(BackpropTest, AGradientThatIsNotFiniteIsAnError) {
  const Chain chain = RunChain(model(), tokens_, kSequences, kSeqlen);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const int64_t at = (2 * kSeqlen + 5) * model().config().hidden_size + 3;
  HiddenStates states = chain.states[2], out;
  states.data[at] = nan;
  const auto gradient = model().NllGradient(states, tokens_);
  EXPECT_EQ(gradient.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(gradient.status().message()),
              HasSubstr("sequence 2"));
  HiddenStates damaged = chain.gradients[2];
  damaged.data[at] = nan;
  for (HiddenStates* input_gradient :
       {&out, static_cast<HiddenStates*>(nullptr)}) {
    const auto sums = model().BackpropBlock(1, nullptr, chain.states[1],
                                            damaged, input_gradient);
    EXPECT_EQ(sums.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(sums.status().message()), HasSubstr("sequence 2"));
  }
}

TEST_P(BackpropTest, OverridesThatFailAreErrors) {
  const HiddenStates states = Must(model().Embed(tokens_, 7, 40));
  HiddenStates out;
  const auto sums = model().BackpropBlock(
      0,
      [](const std::string&)
          -> absl::StatusOr<std::optional<std::vector<float>>> {
        return absl::DataLossError("blob");
      },
      states, states, &out);
  EXPECT_EQ(sums.status().code(), absl::StatusCode::kDataLoss);
}

INSTANTIATE_TEST_SUITE_P(Families, BackpropTest,
                         testing::Values("llama_plain", "opt_before"),
                         [](const auto& info) { return info.param; });

TEST(GradientMemoryTest, DoesNotGrowWithTheNumberOfBlocks) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers keep memory that is freed";
#endif
  const auto peak_kib = []() -> int64_t {
    std::ifstream status("/proc/self/status");
    std::string line;
    while (std::getline(status, line)) {
      int64_t kib = 0;
      if (line.rfind("VmHWM:", 0) == 0 &&
          absl::SimpleAtoi(line.substr(6, line.find(" kB") - 6), &kib)) {
        return kib;
      }
    }
    return 0;
  };
  const auto forget_peak = [] {
    std::ofstream file("/proc/self/clear_refs");
    file << "5" << std::flush;
    return file.good();
  };
  if (!forget_peak()) GTEST_SKIP() << "no /proc/self/clear_refs here";
  constexpr int64_t kVocab = 50, kWidth = 768, kBlocks = 12;  // 9 MiB a block
  auto directory = Must(TempDirectory::Create("model_test"));
  WriteRandomLlama(directory.path(), kVocab, kWidth, kBlocks);
  const LoadedModel loaded(directory.path());
  const DecoderModel& model = *loaded.model;
  ScopedThreads scoped(1);
  std::vector<int32_t> tokens(16);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = i * 7 % kVocab;
  std::vector<HiddenStates> states = {Must(model.Embed(tokens, 1, 16))};
  for (int64_t b = 0; b < kBlocks; ++b) {
    states.push_back(states.back());
    ASSERT_TRUE(model.RunBlock(b, nullptr, &states.back(), nullptr).ok());
  }
  HiddenStates gradient = Must(model.NllGradient(states.back(), tokens));
  const auto peak_of = [&](int64_t begin, int64_t end) {
    EXPECT_TRUE(forget_peak());
    for (int64_t b = end - 1; b >= begin; --b) {
      EXPECT_TRUE(
          model.BackpropBlock(b, nullptr, states[b], gradient, &gradient).ok());
    }
    return peak_kib();
  };
  const int64_t one = peak_of(kBlocks - 1, kBlocks);
  const int64_t all = peak_of(0, kBlocks);
  EXPECT_LE(all - one, 20 * 1024)
      << one << " KiB for one block, " << all << " KiB for " << kBlocks;
}

TEST(GradientTest, CudaAgreesWithTheCpu) {
  if (!ResolveDevice("cuda").ok()) GTEST_SKIP() << "no CUDA device";
  for (const char* name : {"llama_gqa_bias_bf16", "mistral_window",
                           "opt_before", "opt_after_projected"}) {
    SCOPED_TRACE(name);
    const Fixture fixture(name);
    const LoadedModel cuda(FixturePath(name), "cuda");
    const Chain want = RunChain(*fixture.model, fixture.tokens,
                                fixture.sequences, fixture.seqlen);
    const Chain have = RunChain(*cuda.model, fixture.tokens, fixture.sequences,
                                fixture.seqlen);
    for (size_t b = 0; b < want.gradients.size(); ++b) {
      EXPECT_LE(WorstError(have.gradients[b].data, want.gradients[b].data),
                1e-4)
          << "boundary " << b;
    }
    for (size_t l = 0; l < want.sensitivities.size(); ++l) {
      EXPECT_LE(WorstError(have.sensitivities[l].squares,
                           want.sensitivities[l].squares),
                1e-4)
          << want.sensitivities[l].linear;
    }
  }
}

}  // namespace
}  // namespace bitwright::model
