// measure, gradient and allocate, and quantize with an allocation, task by task
// against direct calls.
#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/unit/worker/runtime/task_test_util.h"
#include "worker/quant/baq.h"
#include "worker/quant/hessian.h"
#include "worker/quant/quantizer.h"
#include "worker/runtime/task_inputs.h"

namespace bitwright {
namespace {

using ::testing::HasSubstr;

constexpr int kWindows = 5, kSeqlen = 12, kShards = 2;

std::unique_ptr<SafetensorsFile> Parse(std::string bytes) {
  return *SafetensorsFile::Parse(std::move(bytes), "test");
}

// The full-precision passes over a fixture, forwards and backwards.
class ModelScopeTasksTest : public testing::Test {
 protected:
  ModelScopeTasksTest() : bench_(FixtureModel("llama_plain")) {
    windows_ =
        bench_.Store("", TokensBlob({kWindows, kSeqlen}, config().vocab_size))
            .digest();
  }

  const ModelConfig& config() { return bench_.model()->config(); }
  const model::DecoderModel& decoder() { return **bench_.model()->Decoder(); }

  const TaskBench::Done& Done(const std::string& key,
                              const v1::Action& action) {
    auto done = bench_.Run(action);
    EXPECT_TRUE(done.ok()) << key << ": " << done.status();
    if (!done.ok()) std::abort();
    return tasks_[key] = *std::move(done);
  }
  const v1::BlobDigest& Output(const std::string& key,
                               const std::string& name) {
    return tasks_.at(key).outputs.at(name);
  }

  v1::Action Forward(int block, int shard, int shards) {
    v1::Action action;
    action.set_kind(v1::TASK_KIND_FORWARD);
    action.mutable_forward()->set_block(block);
    action.mutable_forward()->set_shard(shard);
    action.mutable_forward()->set_shards(shards);
    if (block == 0) {
      AddInput(&action, "windows", windows_);
    } else {
      AddInput(
          &action, "hidden",
          Output(absl::StrCat("forward-", block - 1, "-", shard), "hidden"));
    }
    return action;
  }

  v1::Action Gradient(int block, int shard, int shards) {
    v1::Action action;
    action.set_kind(v1::TASK_KIND_GRADIENT);
    action.mutable_gradient()->set_block(block);
    action.mutable_gradient()->set_shard(shard);
    action.mutable_gradient()->set_shards(shards);
    if (block + 1 < config().num_layers) {
      AddInput(
          &action, "gradient",
          Output(absl::StrCat("gradient-", block + 1, "-", shard), "gradient"));
    }
    AddInput(&action, "hidden",
             Output(absl::StrCat("forward-", block, "-", shard), "hidden"));
    if (block + 1 == config().num_layers)
      AddInput(&action, "windows", windows_);
    return action;
  }

  v1::Action Measure(int block, const LinearSpec& linear, int shards) {
    v1::Action action;
    action.set_kind(v1::TASK_KIND_MEASURE);
    action.mutable_measure()->set_block(block);
    action.mutable_measure()->set_linear(linear.name);
    action.mutable_measure()->mutable_method()->set_damping(0.02);
    AddHessians(block, shards, &action);
    return action;
  }

  void AddHessians(int block, int shards, v1::Action* action) {
    for (int s = 0; s < shards; ++s) {
      AddInput(action, absl::StrFormat("hessian.%04d", s),
               Output(absl::StrCat("forward-", block, "-", s), "hessian"));
    }
  }

  void Calibrate(int shards = kShards) {
    for (int b = 0; b < config().num_layers; ++b) {
      for (int s = 0; s < shards; ++s) {
        Done(absl::StrCat("forward-", b, "-", s), Forward(b, s, shards));
      }
      for (const LinearSpec& linear : BlockLinears(config(), b)) {
        Done("measure-" + linear.name, Measure(b, linear, shards));
      }
    }
    for (int b = static_cast<int>(config().num_layers) - 1; b >= 0; --b) {
      for (int s = 0; s < shards; ++s) {
        Done(absl::StrCat("gradient-", b, "-", s), Gradient(b, s, shards));
      }
    }
    shards_ = shards;
  }

  v1::Action Allocate(double bits, v1::Scope scope, v1::Granularity granularity,
                      v1::Method method = v1::METHOD_BAQ) {
    v1::Action action;
    action.set_kind(v1::TASK_KIND_ALLOCATE);
    v1::MethodSpec* spec = action.mutable_allocate()->mutable_method();
    spec->set_method(method);
    spec->set_bits(bits);
    spec->set_budget(v1::BUDGET_CODES);
    spec->set_scope(scope);
    spec->set_granularity(granularity);
    for (int b = 0; b < config().num_layers; ++b) {
      for (const LinearSpec& linear : BlockLinears(config(), b)) {
        AddInput(&action, "curves." + linear.name,
                 Output("measure-" + linear.name, "curves"));
      }
    }
    for (int b = 0; b < config().num_layers; ++b) {
      for (int s = 0; s < shards_; ++s) {
        AddInput(&action, absl::StrFormat("sensitivity.%04d.%04d", b, s),
                 Output(absl::StrCat("gradient-", b, "-", s), "sensitivity"));
      }
    }
    return action;
  }

  nlohmann::json Allocation(const v1::Action& action) {
    return nlohmann::json::parse(
        bench_.Bytes(Done("allocate", action).outputs.at("allocation")));
  }

  TaskBench bench_;
  v1::BlobDigest windows_;
  std::map<std::string, TaskBench::Done> tasks_;
  int shards_ = kShards;
};

TEST_F(ModelScopeTasksTest, GradientsAreThoseOfTheModel) {
  Calibrate();
  const auto ids = *Parse(bench_.Bytes(windows_))->ReadIntegers("tokens");
  const std::vector<int32_t> tokens(ids.begin(), ids.end());
  std::vector<model::HiddenStates> entered;
  model::HiddenStates states = *decoder().Embed(tokens, kWindows, kSeqlen);
  for (int64_t b = 0; b < decoder().num_blocks(); ++b) {
    entered.push_back(states);
    ASSERT_TRUE(decoder().RunBlock(b, nullptr, &states, nullptr).ok());
  }
  double nll = 0;
  const std::vector<double> sums_of_windows =
      *decoder().WindowNll(states, tokens);
  for (double sum : sums_of_windows) nll += sum;
  model::HiddenStates gradient = *decoder().NllGradient(states, tokens);
  for (int64_t b = decoder().num_blocks() - 1; b >= 0; --b) {
    auto sums =
        *decoder().BackpropBlock(b, nullptr, entered[b], gradient, &gradient);
    std::vector<std::unique_ptr<SafetensorsFile>> shards;
    for (int s = 0; s < kShards; ++s) {
      shards.push_back(Parse(bench_.Bytes(
          Output(absl::StrCat("gradient-", b, "-", s), "sensitivity"))));
      EXPECT_EQ(shards[s]->metadata().at("tokens"),
                absl::StrCat((s == 0 ? 2 : 3) * kSeqlen));
    }
    for (const model::OutputSensitivity& sum : sums) {
      const std::vector<int64_t> shape = {
          static_cast<int64_t>(sum.squares.size())};
      const auto first = *ReadDoubles(*shards[0], sum.linear, shape);
      const auto second = *ReadDoubles(*shards[1], sum.linear, shape);
      for (size_t r = 0; r < sum.squares.size(); ++r) {
        EXPECT_NEAR(first[r] + second[r], sum.squares[r],
                    1e-6 * sum.squares[r]);
        EXPECT_GT(sum.squares[r], 0);
      }
    }
    if (b + 1 == decoder().num_blocks()) {
      double total = 0;
      for (const auto& shard : shards) {
        total += std::stod(shard->metadata().at("nll"));
      }
      EXPECT_NEAR(total, nll, 1e-9 * nll);
    }
  }
  // Nobody reads what would leave block 0.
  EXPECT_EQ(tasks_.at("gradient-0-0").outputs.count("gradient"), 0u);
  EXPECT_EQ(tasks_.at("gradient-1-0").outputs.count("gradient"), 1u);
}

TEST_F(ModelScopeTasksTest, CurvesAreThoseOfTheQuantizer) {
  Calibrate();
  const LinearSpec linear = BlockLinears(config(), 1)[2];
  std::vector<std::unique_ptr<SafetensorsFile>> files;
  std::vector<std::vector<float>> sums;
  for (int s = 0; s < kShards; ++s) {
    files.push_back(
        Parse(bench_.Bytes(Output(absl::StrCat("forward-1-", s), "hessian"))));
    sums.push_back(*files[s]->ReadFloats(
        linear.hessian_group, {linear.cols * (linear.cols + 1) / 2}));
  }
  auto hessian =
      *quant::ReduceHessians({sums[0], sums[1]}, linear.cols, kWindows);
  auto weight =
      *bench_.model()->directory().ReadFloats(linear.name + ".weight");
  quant::QuantizeOptions options;
  options.damping = 0.02;
  auto direct = quant::MeasureLinear({.weight = weight.data(),
                                      .rows = linear.rows,
                                      .columns = linear.cols,
                                      .hessian = hessian},
                                     options);
  ASSERT_TRUE(direct.ok()) << direct.status();
  auto blob = Parse(bench_.Bytes(Output("measure-" + linear.name, "curves")));
  EXPECT_EQ(
      *ReadDoubles(*blob, "distortion",
                   {linear.cols,
                    static_cast<int64_t>(quant::MeasuredLevelCounts().size())}),
      direct->distortion);
  EXPECT_EQ(blob->metadata().at("groups"), "1");
  const auto spreads = *ReadDoubles(*blob, "row_spread", {linear.rows});
  for (int64_t r = 0; r < linear.rows; ++r) {
    const auto row = weight.begin() + r * linear.cols;
    const auto [low, high] = std::minmax_element(row, row + linear.cols);
    const double range = std::max(0.0f, *high) - std::min(0.0f, *low);
    EXPECT_NEAR(spreads[r], range * range * linear.cols, 1e-6 * spreads[r]);
  }
  EXPECT_EQ(blob->metadata().at("name"), linear.name);
}

TEST_F(ModelScopeTasksTest, AllocationMeetsTheBudgetAndSaysWhatItPredicts) {
  Calibrate();
  const nlohmann::json model =
      Allocation(Allocate(2.5, v1::SCOPE_MODEL, v1::GRANULARITY_COLUMN));
  const v1::Prediction prediction = tasks_.at("allocate").summary.allocate();
  double bits = 0, weights = 0, weighted = 0;
  ASSERT_EQ(model["linears"].size(), 14u);
  for (const auto& linear : model["linears"]) {
    const double count =
        linear["rows"].get<double>() * linear["cols"].get<double>();
    bits += linear["bits"].get<double>() * count;
    weights += count;
    weighted +=
        linear["sensitivity"].get<double>() * linear["loss"].get<double>();
    EXPECT_GT(linear["sensitivity"], 0);
  }
  EXPECT_LE(bits, 2.5 * weights);
  EXPECT_GT(bits, (2.5 - 1e-6) * weights);
  EXPECT_EQ(prediction.quantized_weights(), weights);
  EXPECT_NEAR(prediction.weighted_loss(), weighted, 1e-9 * weighted);
  // ¼ Σ s·loss for a sequence, which predicts seqlen - 1 tokens.
  EXPECT_NEAR(prediction.nll_rise(), weighted / 4 / (kSeqlen - 1),
              1e-9 * weighted);
  EXPECT_EQ(model["calibration"]["predictions"], kWindows * (kSeqlen - 1));
  EXPECT_NEAR(prediction.calibration_perplexity(),
              std::exp(model["calibration"]["nll"].get<double>() /
                       (kWindows * (kSeqlen - 1))),
              1e-9);

  const nlohmann::json layer =
      Allocation(Allocate(2.5, v1::SCOPE_LAYER, v1::GRANULARITY_UNSPECIFIED));
  for (const auto& linear : layer["linears"]) EXPECT_EQ(linear["bits"], 2.5);
  EXPECT_GT(layer["predicted"]["weighted_loss"], weighted);

  const nlohmann::json gptq = Allocation(Allocate(
      3, v1::SCOPE_LAYER, v1::GRANULARITY_UNSPECIFIED, v1::METHOD_GPTQ));
  EXPECT_NEAR(gptq["achieved"]["code_bits"].get<double>(), 3, 1e-9);
  for (const auto& linear : gptq["linears"]) EXPECT_EQ(linear["bits"], 3);
}

TEST_F(ModelScopeTasksTest, ModulesThatReadOneTensorShareTheirBits) {
  Calibrate();
  for (v1::Method method : {v1::METHOD_BAQ, v1::METHOD_GPTQ}) {
    const nlohmann::json json = Allocation(
        Allocate(3.4, v1::SCOPE_MODEL, v1::GRANULARITY_MODULE, method));
    std::map<std::string, double> bits;
    for (const auto& linear : json["linears"]) {
      bits[linear["name"]] = linear["bits"];
      EXPECT_EQ(std::floor(linear["bits"].get<double>()), linear["bits"]);
      EXPECT_GE(linear["bits"], 2);
    }
    for (const char* block : {"model.layers.0.", "model.layers.1."}) {
      const auto of = [&](const char* name) {
        return bits.at(absl::StrCat(block, name));
      };
      EXPECT_EQ(of("self_attn.q_proj"), of("self_attn.k_proj"));
      EXPECT_EQ(of("self_attn.q_proj"), of("self_attn.v_proj"));
      EXPECT_EQ(of("mlp.gate_proj"), of("mlp.up_proj"));
    }
    EXPECT_LE(json["achieved"]["bits"], 3.4);
  }
}

TEST_F(ModelScopeTasksTest, QuantizeTakesItsBitsFromTheAllocation) {
  Calibrate();
  const nlohmann::json json =
      Allocation(Allocate(2.5, v1::SCOPE_MODEL, v1::GRANULARITY_COLUMN));
  int others = 0;
  for (const auto& entry : json["linears"]) {
    const std::string name = entry["name"];
    const int block = absl::StartsWith(name, "model.layers.0.") ? 0 : 1;
    v1::Action action;
    action.set_kind(v1::TASK_KIND_QUANTIZE);
    action.mutable_quantize()->set_block(block);
    action.mutable_quantize()->set_linear(name);
    *action.mutable_quantize()->mutable_method() =
        Method(v1::METHOD_BAQ, entry["bits"].get<double>());
    AddHessians(block, kShards, &action);
    auto asked = bench_.Run(action);
    ASSERT_TRUE(asked.ok()) << asked.status();
    action.mutable_quantize()->mutable_method()->clear_bits();
    AddInput(&action, "allocation", Output("allocate", "allocation"));
    auto given = bench_.Run(action);
    ASSERT_TRUE(given.ok()) << given.status();
    auto one = *ParseLinearBlob(bench_.Bytes(asked->outputs.at("linear")), "a");
    auto two = *ParseLinearBlob(bench_.Bytes(given->outputs.at("linear")), "b");
    EXPECT_EQ(one.linear.codes, two.linear.codes);
    EXPECT_EQ(one.linear.levels, two.linear.levels);
    EXPECT_LE(two.linear.CodeBitsPerWeight(), entry["bits"].get<double>());
    const auto report = nlohmann::json::parse(two.report);
    EXPECT_EQ(report["scope"], "model");
    EXPECT_EQ(report["asked_bits"], entry["bits"]);
    EXPECT_EQ(report["sensitivity"], entry["sensitivity"]);
    EXPECT_EQ(nlohmann::json::parse(one.report)["scope"], "layer");
    others += entry["bits"] != 2.5;
  }
  EXPECT_GT(others, 7);
}

TEST_F(ModelScopeTasksTest, MoreShardsThanWindowsGiveTheSameSums) {
  Calibrate(1);
  const nlohmann::json one =
      Allocation(Allocate(3, v1::SCOPE_MODEL, v1::GRANULARITY_COLUMN));
  Calibrate(kWindows + 2);
  const nlohmann::json many =
      Allocation(Allocate(3, v1::SCOPE_MODEL, v1::GRANULARITY_COLUMN));
  for (size_t l = 0; l < one["linears"].size(); ++l) {
    const double s = one["linears"][l]["sensitivity"];
    EXPECT_NEAR(many["linears"][l]["sensitivity"].get<double>(), s, 1e-6 * s);
  }
}

TEST_F(ModelScopeTasksTest, ClearErrors) {
  Calibrate();
  auto message = [&](const v1::Action& action) {
    auto done = bench_.Run(action);
    EXPECT_FALSE(done.ok());
    EXPECT_FALSE(IsRetryable(done.status())) << done.status();
    return std::string(done.status().message());
  };
  v1::Action gradient = Gradient(1, 0, kShards);
  gradient.mutable_gradient()->set_block(2);
  EXPECT_THAT(message(gradient), HasSubstr("no block 2"));
  gradient = Gradient(1, 0, kShards);
  gradient.mutable_gradient()->set_shard(1);  // Of other windows.
  EXPECT_THAT(message(gradient), HasSubstr("input hidden has 2 sequences"));

  v1::Action measure = Measure(0, BlockLinears(config(), 0)[0], 0);
  EXPECT_THAT(message(measure), HasSubstr("no Hessian"));

  EXPECT_THAT(message(Allocate(0.5, v1::SCOPE_MODEL, v1::GRANULARITY_COLUMN)),
              HasSubstr("smallest possible is 1.0000"));
  v1::Action allocate = Allocate(3, v1::SCOPE_MODEL, v1::GRANULARITY_COLUMN);
  allocate.mutable_inputs()->RemoveLast();
  allocate.mutable_inputs()->RemoveLast();
  EXPECT_THAT(message(allocate), HasSubstr("sensitivities of block 1"));
  allocate = Allocate(3, v1::SCOPE_MODEL, v1::GRANULARITY_COLUMN);
  *allocate.mutable_inputs(0)->mutable_digest() = windows_;
  EXPECT_THAT(message(allocate), HasSubstr("row_spread"));

  const std::string name = BlockLinears(config(), 0)[0].name;
  v1::Action quantize;
  quantize.set_kind(v1::TASK_KIND_QUANTIZE);
  quantize.mutable_quantize()->set_linear(name);
  *quantize.mutable_quantize()->mutable_method() = Method(v1::METHOD_BAQ, 0);
  AddHessians(0, kShards, &quantize);
  for (const auto& [text, problem] : std::map<std::string, std::string>{
           {"nonsense", "not an allocation"},
           {"{\"linears\":[]}", "no linear " + name},
           {absl::StrCat("{\"linears\":[{\"name\":\"", name, "\"}]}"),
            "lacks bits"}}) {
    v1::Action with = quantize;
    *with.add_inputs() = bench_.Store("allocation", text);
    EXPECT_THAT(message(with), HasSubstr(problem));
  }
}

}  // namespace
}  // namespace bitwright
