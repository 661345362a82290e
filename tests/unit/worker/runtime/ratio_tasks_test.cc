// response and solve, and quantize with a solution, task by task against direct
// computations.
#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "Eigen/Eigenvalues"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/unit/worker/runtime/task_test_util.h"
#include "worker/quant/quantize_rows.h"
#include "worker/runtime/row_bits.h"
#include "worker/runtime/task_inputs.h"

namespace bitwright {
namespace {

using ::testing::HasSubstr;

constexpr int kWindows = 5, kSeqlen = 12, kShards = 2;
const std::vector<double> kRatios = {0.1, 0.3};

std::unique_ptr<SafetensorsFile> Parse(std::string bytes) {
  return *SafetensorsFile::Parse(std::move(bytes), "test");
}

class RatioTasksTest : public testing::Test {
 protected:
  RatioTasksTest() : bench_(FixtureModel("llama_plain")) {
    windows_ =
        bench_.Store("", TokensBlob({kWindows, kSeqlen}, config().vocab_size))
            .digest();
    for (int b = 0; b < blocks(); ++b) {
      for (LinearSpec& linear : BlockLinears(config(), b)) {
        linears_.push_back(std::move(linear));
        block_of_.push_back(b);
      }
    }
    for (int s = 0; s < kShards; ++s) {
      for (int b = 0; b <= blocks(); ++b) Forward(b, s);
      for (int b = blocks() - 1; b >= 0; --b) Gradient(b, s);
    }
  }

  const ModelConfig& config() { return bench_.model()->config(); }
  const model::DecoderModel& decoder() { return **bench_.model()->Decoder(); }
  int blocks() { return static_cast<int>(config().num_layers); }

  void Done(const std::string& key, const v1::Action& action) {
    auto done = bench_.Run(action);
    if (!done.ok()) ADD_FAILURE() << key << ": " << done.status();
    if (!done.ok()) std::abort();
    tasks_[key] = *std::move(done);
  }
  const v1::BlobDigest& Output(const std::string& key,
                               const std::string& name) {
    return tasks_.at(key).outputs.at(name);
  }

  void Forward(int b, int s) {
    v1::Action action;
    action.set_kind(v1::TASK_KIND_FORWARD);
    action.mutable_forward()->set_block(b);
    action.mutable_forward()->set_shard(s);
    action.mutable_forward()->set_shards(kShards);
    if (b == 0) AddInput(&action, "windows", windows_);
    if (b > 0) {
      AddInput(&action, "hidden",
               Output(absl::StrCat("forward-", b - 1, "-", s), "hidden"));
    }
    Done(absl::StrCat("forward-", b, "-", s), action);
  }

  void Gradient(int b, int s) {
    v1::Action action;
    action.set_kind(v1::TASK_KIND_GRADIENT);
    action.mutable_gradient()->set_block(b);
    action.mutable_gradient()->set_shard(s);
    action.mutable_gradient()->set_shards(kShards);
    action.mutable_gradient()->set_fisher(true);
    AddInput(&action, "hidden",
             Output(absl::StrCat("forward-", b, "-", s), "hidden"));
    if (b + 1 == blocks()) AddInput(&action, "windows", windows_);
    if (b + 1 < blocks()) {
      AddInput(&action, "gradient",
               Output(absl::StrCat("gradient-", b + 1, "-", s), "gradient"));
    }
    Done(absl::StrCat("gradient-", b, "-", s), action);
  }

  void AddFisher(int b, v1::Action* action) {
    for (int s = 0; s < kShards; ++s) {
      AddInput(action, absl::StrFormat("fisher.%04d", s),
               Output(absl::StrCat("gradient-", b, "-", s), "fisher"));
    }
  }

  v1::Action Response(size_t l, int option) {
    v1::Action action;
    action.set_kind(v1::TASK_KIND_RESPONSE);
    v1::ResponseParameters* parameters = action.mutable_response();
    parameters->set_block(block_of_[l]);
    parameters->set_linear(linears_[l].name);
    parameters->set_ratio(kRatios[option]);
    parameters->set_bits_normal(2);
    parameters->set_bits_high(4);
    AddFisher(block_of_[l], &action);
    for (int s = 0; s < kShards; ++s) {
      AddInput(
          &action, absl::StrFormat("hidden.%04d", s),
          Output(absl::StrCat("forward-", block_of_[l], "-", s), "hidden"));
      AddInput(&action, absl::StrFormat("output.%04d", s),
               Output(absl::StrCat("forward-", blocks(), "-", s), "hidden"));
    }
    return action;
  }

  // Of every option of every linear, and of all pairs within blocks.
  void Respond() {
    for (size_t l = 0; l < linears_.size(); ++l) {
      for (int m = 0; m < 2; ++m) {
        v1::Action action = Response(l, m);
        Done(ResponseName(l, m), action);
        action.mutable_response()->mutable_partner_ratios()->Add(
            kRatios.begin(), kRatios.end());
        for (size_t k = l + 1; k < linears_.size(); ++k) {
          if (block_of_[k] != block_of_[l]) continue;
          action.mutable_response()->set_partner(linears_[k].name);
          Done(PairName(l, m, k), action);
        }
      }
    }
  }
  std::string ResponseName(size_t l, int m) {
    return absl::StrFormat("response.%s.%04d", linears_[l].name, m);
  }
  std::string PairName(size_t l, int m, size_t k) {
    return absl::StrFormat("pair.%s.%04d.%s", linears_[l].name, m,
                           linears_[k].name);
  }

  v1::Action Solve(v1::Estimate estimate, double bits) {
    v1::Action action;
    action.set_kind(v1::TASK_KIND_SOLVE);
    v1::MethodSpec* method = action.mutable_solve()->mutable_method();
    method->set_method(v1::METHOD_RATIO);
    method->set_bits(bits);
    method->set_budget(v1::BUDGET_CODES);
    method->mutable_ratio()->set_bits_normal(2);
    method->mutable_ratio()->set_bits_high(4);
    method->mutable_ratio()->mutable_ratios()->Add(kRatios.begin(),
                                                   kRatios.end());
    method->mutable_ratio()->set_estimate(estimate);
    method->mutable_ratio()->set_interactions(v1::INTERACTIONS_BLOCK);
    for (const auto& [name, done] : tasks_) {
      const bool pair = name.rfind("pair.", 0) == 0;
      if (pair ? estimate == v1::ESTIMATE_PAPER
               : name.rfind("response.", 0) == 0) {
        AddInput(&action, name, done.outputs.at("response"));
      }
    }
    return action;
  }

  // [n, n]
  std::vector<double> Matrix(v1::Estimate estimate) {
    Done("solve", Solve(estimate, 2.6));
    const auto n = static_cast<int64_t>(linears_.size() * 2);
    return *ReadDoubles(*Parse(bench_.Bytes(Output("solve", "matrix"))), "m",
                        {n, n});
  }

  // Σ over shards of the squared gradients, by row.
  std::vector<double> Fisher(size_t l) {
    std::vector<double> sums(linears_[l].rows);
    for (int s = 0; s < kShards; ++s) {
      const auto part = *ReadDoubles(
          *Parse(bench_.Bytes(Output(
              absl::StrCat("gradient-", block_of_[l], "-", s), "fisher"))),
          linears_[l].name, {linears_[l].rows});
      for (size_t r = 0; r < sums.size(); ++r) sums[r] += part[r];
    }
    return sums;
  }

  // Logits of all windows, some linears rounded, in float64 from the head's
  // input on.
  std::vector<double> Logits(const std::map<size_t, double>& ratio_of) {
    std::map<std::string, std::vector<float>> rounded;
    for (const auto& [l, ratio] : ratio_of) {
      const LinearSpec& linear = linears_[l];
      const auto weight =
          *bench_.model()->directory().ReadFloats(linear.name + ".weight");
      rounded[linear.name] =
          *quant::RoundRows(weight.data(), linear.rows, linear.cols, 0,
                            RowBits(Fisher(l), ratio, 2, 4));
      for (float& w : rounded[linear.name]) w = AsModelHasIt(w);
    }
    const auto ids = *Parse(bench_.Bytes(windows_))->ReadIntegers("tokens");
    const std::vector<int32_t> tokens(ids.begin(), ids.end());
    auto states = *decoder().Embed(tokens, kWindows, kSeqlen);
    for (int b = 0; b < blocks(); ++b) {
      const auto status = decoder().RunBlock(
          b,
          [&](const std::string& name)
              -> absl::StatusOr<std::optional<std::vector<float>>> {
            const auto it = rounded.find(name);
            if (it == rounded.end()) return std::nullopt;
            return it->second;
          },
          &states, nullptr);
      EXPECT_TRUE(status.ok()) << status;
    }
    const auto head = *decoder().HeadInputs(states);
    const bool tied = config().tied_embeddings;
    const auto v = *bench_.model()->directory().ReadFloats(
        tied ? "model.embed_tokens.weight" : "lm_head.weight");
    const int64_t width = head.width;
    std::vector<double> logits;
    for (size_t t = 0; t < head.data.size(); t += width) {
      for (size_t token = 0; token < v.size(); token += width) {
        logits.push_back(std::inner_product(head.data.begin() + t,
                                            head.data.begin() + t + width,
                                            v.begin() + token, 0.0));
      }
    }
    return logits;
  }
  float AsModelHasIt(float w) {
    std::vector<float> one = {w};
    const auto dtype =
        bench_.model()->directory().WeightDType(linears_[0].name + ".weight");
    EXPECT_TRUE(RoundTo(*dtype, absl::MakeSpan(one)).ok());
    return one[0];
  }

  TaskBench bench_;
  v1::BlobDigest windows_;
  std::vector<LinearSpec> linears_;
  std::vector<int> block_of_;
  std::map<std::string, TaskBench::Done> tasks_;
};

std::vector<double> Difference(std::vector<double> a,
                               const std::vector<double>& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] -= b[i];
  return a;
}

double Dot(const std::vector<double>& a, const std::vector<double>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

TEST_F(RatioTasksTest, MatricesAreThoseOfTheLogits) {
  Respond();
  const std::vector<double> gram = Matrix(v1::ESTIMATE_GRAM);
  const std::vector<double> paper = Matrix(v1::ESTIMATE_PAPER);
  const size_t n = linears_.size() * 2;
  const std::vector<double> before = Logits({});
  std::vector<std::vector<double>> moves;
  for (size_t i = 0; i < n; ++i) {
    moves.push_back(Difference(Logits({{i / 2, kRatios[i % 2]}}), before));
  }
  for (size_t i = 0; i < n; ++i) {
    const double want = 2 * Dot(moves[i], moves[i]) / kWindows;
    EXPECT_NEAR(gram[i * n + i], want, 1e-4 * want) << i;
    EXPECT_NEAR(paper[i * n + i], gram[i * n + i], 1e-4 * want) << i;
    for (size_t j = 0; j < n; ++j) {
      EXPECT_EQ(gram[i * n + j], gram[j * n + i]);
      EXPECT_EQ(paper[i * n + j], paper[j * n + i]);
      const double scale = std::sqrt(gram[i * n + i] * gram[j * n + j]);
      EXPECT_NEAR(gram[i * n + j], 2 * Dot(moves[i], moves[j]) / kWindows,
                  2e-4 * scale);
      if (block_of_[i / 2] != block_of_[j / 2]) {
        EXPECT_EQ(paper[i * n + j], 0);
      }
    }
  }
  const Eigen::Map<const Eigen::MatrixXd> m(gram.data(), n, n);
  const Eigen::VectorXd values =
      Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd>(m).eigenvalues();
  EXPECT_GE(values.minCoeff(), -1e-6 * values.maxCoeff());
}

TEST_F(RatioTasksTest, APairIsBothLinearsRounded) {
  const size_t l = 1, k = 4;
  v1::Action action = Response(l, 0);
  action.mutable_response()->set_partner(linears_[k].name);
  action.mutable_response()->mutable_partner_ratios()->Add(kRatios.begin(),
                                                           kRatios.end());
  Done("pair", action);
  const auto squares =
      *ReadDoubles(*Parse(bench_.Bytes(Output("pair", "response"))), "squares",
                   {int64_t{2}});
  for (int m = 0; m < 2; ++m) {
    const std::vector<double> move =
        Difference(Logits({{l, kRatios[0]}, {k, kRatios[m]}}), Logits({}));
    EXPECT_NEAR(squares[m], Dot(move, move), 1e-4 * squares[m]);
  }
}

TEST_F(RatioTasksTest, QuantizeTakesTheRowsOfTheSolution) {
  Respond();
  Done("solve", Solve(v1::ESTIMATE_GRAM, 2.6));
  const auto solution =
      nlohmann::json::parse(bench_.Bytes(Output("solve", "solution")));
  EXPECT_TRUE(solution["chosen"]["optimal"]);
  EXPECT_LE(solution["chosen"]["bits"], solution["budget_bits"]);
  for (size_t l = 0; l < linears_.size(); ++l) {
    v1::Action action;
    action.set_kind(v1::TASK_KIND_QUANTIZE);
    action.mutable_quantize()->set_block(block_of_[l]);
    action.mutable_quantize()->set_linear(linears_[l].name);
    *action.mutable_quantize()->mutable_method() = Method(v1::METHOD_RATIO, 0);
    for (int s = 0; s < kShards; ++s) {
      AddInput(
          &action, absl::StrFormat("hessian.%04d", s),
          Output(absl::StrCat("forward-", block_of_[l], "-", s), "hessian"));
    }
    AddFisher(block_of_[l], &action);
    AddInput(&action, "solution", Output("solve", "solution"));
    Done("quantize", action);
    const auto blob =
        *ParseLinearBlob(bench_.Bytes(Output("quantize", "linear")), "blob");
    const std::vector<double> scores = Fisher(l);
    const double share = solution["linears"][l]["ratio"];
    const auto high =
        std::count(blob.linear.row_bits.begin(), blob.linear.row_bits.end(), 4);
    EXPECT_EQ(high, std::llround(share * static_cast<double>(scores.size())));
    double least_high = INFINITY, most_normal = 0;
    for (size_t r = 0; r < scores.size(); ++r) {
      if (blob.linear.row_bits[r] == 4) {
        least_high = std::min(least_high, scores[r]);
      } else {
        EXPECT_EQ(blob.linear.row_bits[r], 2);
        most_normal = std::max(most_normal, scores[r]);
      }
    }
    EXPECT_GE(least_high, most_normal);
  }
}

TEST_F(RatioTasksTest, BadInputsAreErrors) {
  v1::Action action = Response(0, 0);
  action.mutable_response()->set_linear("model.layers.0.no_such");
  EXPECT_FALSE(bench_.Run(action).ok());
  action = Response(0, 0);
  action.clear_inputs();
  EXPECT_THAT(bench_.Run(action).status().message(), HasSubstr("sequence"));
  action = Response(0, 0);
  action.mutable_inputs()->DeleteSubrange(0, kShards);
  EXPECT_THAT(bench_.Run(action).status().message(), HasSubstr("gradients"));
  EXPECT_FALSE(bench_.Run(Solve(v1::ESTIMATE_GRAM, 2.6)).ok());
  Respond();
  EXPECT_THAT(bench_.Run(Solve(v1::ESTIMATE_GRAM, 2.01)).status().message(),
              HasSubstr("budget"));
}

}  // namespace
}  // namespace bitwright
