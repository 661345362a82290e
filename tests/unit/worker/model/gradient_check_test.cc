// Gradients against differences of the likelihood that WindowNll gives.
//
// Differences are taken along a direction with four evaluations, exact to the
// fourth order, and steps large enough for float32: along a gradient g itself,
// where the slope is |g|, or along g restricted to some places, where it is the
// restricted |g|.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <utility>

#include "common/base/file.h"
#include "tests/unit/worker/model/test_models.h"

namespace bitwright::model {
namespace {

// f'(0), for f smooth over [-2h, 2h].
double Slope(const std::function<double(double)>& f, double h) {
  return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h);
}

WeightOverride Replace(const Weights& replaced) {
  return [&replaced](const std::string& name)
             -> absl::StatusOr<std::optional<std::vector<float>>> {
    auto it = replaced.find(name);
    if (it == replaced.end()) return std::nullopt;
    return it->second;
  };
}

// Σ NLL over the batch, from the states that enter block `block`.
double NllFrom(const DecoderModel& model, int64_t block,
               const WeightOverride& weights, HiddenStates states,
               const std::vector<int32_t>& tokens) {
  for (int64_t b = block; b < model.num_blocks(); ++b) {
    EXPECT_TRUE(model.RunBlock(b, weights, &states, nullptr).ok());
  }
  const std::vector<double> nll = Must(model.WindowNll(states, tokens));
  return std::accumulate(nll.begin(), nll.end(), 0.0);
}

std::vector<int32_t> SomeTokens(const DecoderModel& model, int64_t count) {
  std::vector<int32_t> tokens(count);
  for (int64_t i = 0; i < count; ++i) {
    tokens[i] =
        static_cast<int32_t>((i * i * 5 + 11 * i) % model.config().vocab_size);
  }
  return tokens;
}

// The batch as it enters each block, and leaves the last one.
std::vector<HiddenStates> Boundaries(const DecoderModel& model,
                                     const WeightOverride& weights,
                                     const std::vector<int32_t>& tokens,
                                     int64_t sequences) {
  const int64_t seqlen = static_cast<int64_t>(tokens.size()) / sequences;
  std::vector<HiddenStates> states = {
      Must(model.Embed(tokens, sequences, seqlen))};
  for (int64_t b = 0; b < model.num_blocks(); ++b) {
    states.push_back(states.back());
    EXPECT_TRUE(model.RunBlock(b, weights, &states.back(), nullptr).ok());
  }
  return states;
}

// Gradients at all boundaries against slopes of the likelihood: along the whole
// gradient, and along its parts at every third position and channel.
void ExpectSlopes(const DecoderModel& model, const Weights& replaced,
                  int64_t sequences, int64_t seqlen) {
  const WeightOverride weights = Replace(replaced);
  const std::vector<int32_t> tokens = SomeTokens(model, sequences * seqlen);
  const auto states = Boundaries(model, weights, tokens, sequences);
  HiddenStates gradient = Must(model.NllGradient(states.back(), tokens));
  for (int64_t b = model.num_blocks(); b >= 0; --b) {
    if (b < model.num_blocks()) {
      Must(model.BackpropBlock(b, weights, states[b], gradient, &gradient));
    }
    const auto kept = [&](int part, int64_t i) {
      const int64_t position = i / gradient.width, channel = i % gradient.width;
      return part == 0 || (part == 1 ? position : channel) % 3 == 1;
    };
    for (int part = 0; part < 3; ++part) {
      double square = 0;
      for (size_t i = 0; i < gradient.data.size(); ++i) {
        if (kept(part, i)) square += std::pow(double{gradient.data[i]}, 2);
      }
      const double norm = std::sqrt(square);
      const auto along = [&](double step) {
        HiddenStates moved = states[b];
        for (size_t i = 0; i < moved.data.size(); ++i) {
          if (kept(part, i)) moved.data[i] += step * gradient.data[i] / norm;
        }
        return NllFrom(model, b, weights, std::move(moved), tokens);
      };
      const double slope = Slope(along, 0.01 * std::sqrt(tokens.size()) / norm);
      EXPECT_NEAR(slope / norm, 1, 2e-3)
          << "boundary " << b << ", part " << part;
    }
  }
}

std::string Handbook(const std::string& name) {
  const char* root = std::getenv("BITWRIGHT_SOURCE_DIR");
  return std::string(root == nullptr ? "." : root) + "/tests/fixtures/models/" +
         name;
}

class HandbookGradientTest : public testing::TestWithParam<const char*> {};

TEST_P(HandbookGradientTest, BoundariesAreSlopesOfTheLikelihood) {
  const LoadedModel loaded(Handbook(GetParam()));
  ExpectSlopes(*loaded.model, {}, /*sequences=*/2, /*seqlen=*/64);
}

// Vectors v_t with v_t · x_s = [t == s], in the span of the rows of x.
Matrix DualVectors(const Matrix& x) {
  Matrix dual = x;
  for (size_t t = 0; t < x.size(); ++t) {
    // Two rows: subtract the other's part, then scale.
    const std::vector<double>& other = x[1 - t];
    const double along =
        std::inner_product(x[t].begin(), x[t].end(), other.begin(), 0.0) /
        std::inner_product(other.begin(), other.end(), other.begin(), 0.0);
    for (size_t c = 0; c < other.size(); ++c) dual[t][c] -= along * other[c];
    const double unit =
        std::inner_product(dual[t].begin(), dual[t].end(), x[t].begin(), 0.0);
    for (double& v : dual[t]) v /= unit;
  }
  return dual;
}

// Three tokens, of which the last predicts nothing: W += ε e_r v_tᵀ moves
// output r of the linear at token t by ε and at the other by nothing, so that
// the slope in ε is g[t, r], and squares[r] = Σ_t g[t, r]².
TEST_P(HandbookGradientTest, SensitivitiesAreSlopesOfTheLikelihood) {
  constexpr int64_t kSeqlen = 3;
  const LoadedModel loaded(Handbook(GetParam()));
  const DecoderModel& model = *loaded.model;
  const std::vector<int32_t> tokens = {17, 301, 44};
  const auto states = Boundaries(model, nullptr, tokens, 1);
  HiddenStates gradient = Must(model.NllGradient(states.back(), tokens));
  for (int64_t b = model.num_blocks() - 1; b >= 0; --b) {
    const std::vector<OutputSensitivity> sums =
        Must(model.BackpropBlock(b, nullptr, states[b], gradient, &gradient));
    const ReferenceBlock reference(*loaded.directory, b, {},
                                   states[b].data.data(), kSeqlen);
    const std::vector<LinearSpec> linears = BlockLinears(model.config(), b);
    for (size_t l = 0; l < linears.size(); ++l) {
      Matrix x = reference.inputs.at(linears[l].hessian_group);
      x.pop_back();
      const Matrix dual = DualVectors(x);
      const std::vector<double>& squares = sums[l].squares;
      const int64_t cols = linears[l].cols,
                    row = std::max_element(squares.begin(), squares.end()) -
                          squares.begin();
      Weights replaced;
      std::vector<float>& moved = replaced[linears[l].name];
      const std::vector<float> own =
          Must(loaded.directory->ReadFloats(linears[l].name + ".weight"));
      double expected = 0;
      for (const std::vector<double>& v : dual) {
        const auto along = [&](double step) {
          moved = own;
          for (int64_t c = 0; c < cols; ++c) {
            moved[row * cols + c] += static_cast<float>(step * v[c]);
          }
          return NllFrom(model, b, Replace(replaced), states[b], tokens);
        };
        const double step = 0.005 / std::sqrt(squares[row]);
        expected += std::pow(Slope(along, step), 2);
      }
      EXPECT_NEAR(squares[row] / expected, 1, 5e-3)
          << linears[l].name << " row " << row;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, HandbookGradientTest,
                         testing::Values("handbook-llama", "handbook-opt"),
                         [](const auto& info) {
                           return std::string(info.param).substr(9);
                         });

// Attention works through blocks of at most 256 queries.
TEST(GradientCheckTest, LongSequences) {
  for (const char* name : {"llama_plain", "mistral_window"}) {
    SCOPED_TRACE(name);
    const Fixture fixture(name);
    ExpectSlopes(*fixture.model, {}, /*sequences=*/1, /*seqlen=*/600);
  }
}

// The gradient is that of the weights in use, not of the model's own.
TEST(GradientCheckTest, OverriddenWeights) {
  for (const char* name : {"llama_gqa_bias_bf16", "opt_after_projected"}) {
    SCOPED_TRACE(name);
    const Fixture fixture(name);
    Weights replaced;
    for (int64_t b = 0; b < fixture.model->num_blocks(); ++b) {
      for (const LinearSpec& l : BlockLinears(fixture.model->config(), b)) {
        std::vector<float> w =
            Must(fixture.directory->ReadFloats(l.name + ".weight"));
        for (float& v : w) v = std::round(4 * v) / 4;
        replaced[l.name] = std::move(w);
      }
    }
    ExpectSlopes(*fixture.model, replaced, /*sequences=*/2, /*seqlen=*/40);
  }
}

// The head is read in pieces of 4,096 tokens: the gradient must be that of one
// softmax over 10,000, by differences in float64.
TEST(GradientCheckTest, LargeVocabulariesMatchFloat64) {
  constexpr int64_t kVocab = 10000, kWidth = 8, kSeqlen = 12;
  auto directory = Must(TempDirectory::Create("model_test"));
  WriteRandomLlama(directory.path(), kVocab, kWidth);
  const LoadedModel loaded(directory.path());
  std::vector<int32_t> tokens(2 * kSeqlen);
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<int32_t>(i * 4099 % kVocab);
  }
  const HiddenStates states = Must(loaded.model->Embed(tokens, 2, kSeqlen));
  const HiddenStates gradient = Must(loaded.model->NllGradient(states, tokens));
  const std::vector<float> head =
      Must(loaded.directory->ReadFloats("lm_head.weight"));
  const auto nll = [&](const std::vector<double>& x, int32_t target) {
    double square = 0, sum = 0, chosen = 0;
    for (double v : x) square += v * v;
    const double scale = 1 / std::sqrt(square / kWidth + 1e-5);
    for (int64_t v = 0; v < kVocab; ++v) {
      double logit = 0;
      for (int64_t c = 0; c < kWidth; ++c) {
        logit += double{head[v * kWidth + c]} * x[c] * scale;
      }
      sum += std::exp(logit);
      if (v == target) chosen = logit;
    }
    return std::log(sum) - chosen;
  };
  for (int64_t p = 0; p < 2 * kSeqlen; ++p) {
    const float *x = states.data.data() + p * kWidth,
                *g = gradient.data.data() + p * kWidth;
    double largest = 0;
    for (int64_t c = 0; c < kWidth; ++c) {
      if (p % kSeqlen == kSeqlen - 1) {
        EXPECT_EQ(g[c], 0);
        continue;
      }
      const double want = Slope(
          [&](double step) {
            std::vector<double> moved(x, x + kWidth);
            moved[c] += step;
            return nll(moved, tokens[p + 1]);
          },
          1e-3);
      EXPECT_NEAR(g[c], want, 1e-5) << "position " << p << ", channel " << c;
      largest = std::max(largest, std::abs(want));
    }
    if (p % kSeqlen < kSeqlen - 1) {
      EXPECT_GT(largest, 0.1) << p;
    }
  }
}

}  // namespace
}  // namespace bitwright::model
