#include "worker/runtime/executor.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "common/text/tokenizer.h"
#include "common/text/windows.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "proto/algorithm_version.h"
#include "tests/unit/worker/runtime/task_test_util.h"
#include "worker/quant/hessian.h"
#include "worker/quant/quantizer.h"
#include "worker/runtime/task_inputs.h"

namespace bitwright {
namespace {

using ::testing::HasSubstr;

v1::Action Prepare(bool calibration, int nsamples, int seqlen) {
  v1::Action action;
  action.set_kind(v1::TASK_KIND_PREPARE);
  action.mutable_prepare()->set_calibration(calibration);
  action.mutable_prepare()->set_nsamples(nsamples);
  action.mutable_prepare()->set_seqlen(seqlen);
  action.mutable_prepare()->set_seed(7);
  return action;
}

std::unique_ptr<SafetensorsFile> Parse(std::string bytes) {
  return *SafetensorsFile::Parse(std::move(bytes), "test");
}

class ExecutorTest : public testing::Test {
 protected:
  ExecutorTest() : bench_(FixtureModel("llama_plain")) {}

  int vocabulary() { return bench_.model()->config().vocab_size; }
  const model::DecoderModel& decoder() { return **bench_.model()->Decoder(); }

  // Windows as a prepare task gives them.
  v1::BlobDigest Windows(int count, int seqlen) {
    return bench_.Store("", TokensBlob({count, seqlen}, vocabulary())).digest();
  }
  std::vector<int32_t> TokensOf(const v1::BlobDigest& windows) {
    auto ids = *Parse(bench_.Bytes(windows))->ReadIntegers("tokens");
    return {ids.begin(), ids.end()};
  }

  TaskBench bench_;
};

TEST_F(ExecutorTest, RefusesAnUnknownKind) {
  v1::Action action;
  auto done = bench_.Run(action);
  EXPECT_EQ(done.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_FALSE(IsRetryable(done.status()));
}

TEST_F(ExecutorTest, RefusesAnotherVersionOfTheAlgorithm) {
  v1::Action action = Prepare(true, 6, 12);
  *action.add_inputs() =
      bench_.Store("tokens", TokensBlob({100}, vocabulary()));
  const int ours = AlgorithmVersion(action.kind());
  action.set_algorithm_version(ours);
  EXPECT_TRUE(bench_.Run(action).ok());
  action.set_algorithm_version(ours + 1);
  auto done = bench_.Run(action);
  EXPECT_EQ(done.status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_FALSE(IsRetryable(done.status()));
  EXPECT_THAT(std::string(done.status().message()), HasSubstr("of one build"));
}

TEST_F(ExecutorTest, PrepareCutsFlatTokensLikeTheWindowFunctions) {
  const std::string blob = TokensBlob({100}, vocabulary());
  const auto ids = *Parse(blob)->ReadIntegers("tokens");
  const std::vector<int32_t> tokens(ids.begin(), ids.end());
  for (bool calibration : {false, true}) {
    v1::Action action = Prepare(calibration, 6, 12);
    *action.add_inputs() = bench_.Store("tokens", blob);
    auto done = bench_.Run(action);
    ASSERT_TRUE(done.ok()) << done.status();
    auto file = Parse(bench_.Bytes(done->outputs.at("windows")));
    const auto expected = calibration ? *CalibrationWindows(tokens, 6, 12, 7)
                                      : *EvalWindows(tokens, 12);
    EXPECT_EQ(
        file->Find("tokens")->shape,
        (std::vector<int64_t>{static_cast<int64_t>(expected.size()), 12}));
    EXPECT_EQ(file->Find("tokens")->dtype, DType::kI32);
    std::vector<int64_t> flat;
    for (const auto& w : expected) flat.insert(flat.end(), w.begin(), w.end());
    EXPECT_EQ(*file->ReadIntegers("tokens"), flat);
    EXPECT_EQ(file->metadata().at("asked"), calibration ? "6" : "8");
    EXPECT_EQ(file->metadata().at("available"), "8");
    EXPECT_EQ(done->counters.tokens, 100);
  }
}

TEST_F(ExecutorTest, PrepareTakesWindowsThatAreCutAlready) {
  v1::Action action = Prepare(true, 3, 9);
  const std::string blob = TokensBlob({5, 9}, vocabulary());
  *action.add_inputs() = bench_.Store("tokens", blob);
  auto done = bench_.Run(action);
  ASSERT_TRUE(done.ok()) << done.status();
  auto all = *Parse(blob)->ReadIntegers("tokens");
  all.resize(27);
  EXPECT_EQ(
      *Parse(bench_.Bytes(done->outputs.at("windows")))->ReadIntegers("tokens"),
      all);
}

TEST_F(ExecutorTest, PrepareNamesWhatIsWrongWithTokens) {
  struct Case {
    std::vector<int64_t> shape;
    int vocabulary, nsamples, seqlen;
    std::string message;
  };
  const int v = vocabulary();
  const Case cases[] = {
      {{100}, 3 * v, 2, 12, "vocabulary"},
      {{5, 9}, v, 6, 9, "6 windows were asked for, and tokens gives 5"},
      {{5, 9}, v, 2, 10, "[5, 9]"},
      {{2, 5, 9}, v, 2, 9, "[2, 5, 9]"},
      {{20}, v, 30, 10, "30 windows of 10"},
      {{20}, v, 1, 1, "seqlen"},
  };
  for (const Case& c : cases) {
    v1::Action action = Prepare(true, c.nsamples, c.seqlen);
    *action.add_inputs() =
        bench_.Store("tokens", TokensBlob(c.shape, c.vocabulary));
    auto done = bench_.Run(action);
    EXPECT_EQ(done.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(done.status().message()), HasSubstr(c.message));
    EXPECT_FALSE(IsRetryable(done.status()));
  }
}

TEST_F(ExecutorTest, PrepareWithoutATokenizerSaysSo) {
  v1::Action action = Prepare(false, 0, 8);
  *action.add_inputs() = bench_.Store("text.0000", "some text");
  auto done = bench_.Run(action);
  EXPECT_EQ(done.status().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(IsRetryable(done.status()));
}

TEST(PrepareTextTest, JoinsTextsAndPutsOneBosInFront) {
  const std::string path = "tests/fixtures/models/handbook-llama";
  if (!std::filesystem::exists(absl::StrCat(path, "/tokenizer.json"))) {
    GTEST_SKIP() << path << " is absent";
  }
  TaskBench bench(path);
  v1::Action action = Prepare(false, 0, 8);
  *action.add_inputs() =
      bench.Store("text.0000", "The first document is short.");
  *action.add_inputs() =
      bench.Store("text.0001", "So is the second one, but for this clause.");
  auto done = bench.Run(action);
  ASSERT_TRUE(done.ok()) << done.status();
  auto tokenizer = *Tokenizer::FromDirectory(path);
  const auto ids = tokenizer->EncodeWithBos(
      "The first document is short.\n\nSo is the second one, but for this "
      "clause.");
  auto found =
      *Parse(bench.Bytes(done->outputs.at("windows")))->ReadIntegers("tokens");
  ASSERT_EQ(found.size(), ids.size() / 8 * 8);
  ASSERT_GE(found.size(), 8u);
  for (size_t i = 0; i < found.size(); ++i) EXPECT_EQ(found[i], ids[i]);
}

// sentencepiece and the API carry two versions of protobuf into one process:
// they must not get at each other's.
TEST(PrepareTextTest, SentencePieceWorksBesideProtobuf) {
  const char* shared = std::getenv("BITWRIGHT_SHARED_DIR");
  const std::string source =
      absl::StrCat(shared == nullptr ? "" : shared, "/models/stories260k");
  if (!std::filesystem::exists(source + "/tokenizer.model")) {
    GTEST_SKIP() << source << " is absent";
  }
  auto copy = *TempDirectory::Create("sentencepiece-");
  std::filesystem::copy(source, copy.path());
  std::filesystem::remove(copy.path() + "/tokenizer.json");
  const std::string text =
      "Once upon a time, in a big forest, there lived a rhinoceros.";
  std::string windows[2];
  for (int i : {0, 1}) {
    TaskBench bench(i == 0 ? source : copy.path());
    v1::Action action = Prepare(false, 0, 8);
    *action.add_inputs() = bench.Store("text.0000", text);
    auto done = bench.Run(action);
    ASSERT_TRUE(done.ok()) << done.status();
    windows[i] = bench.Bytes(done->outputs.at("windows"));
  }
  EXPECT_EQ(windows[0], windows[1]);
}

TEST_F(ExecutorTest, ForwardOfBlockZeroEmbedsItsShard) {
  const v1::BlobDigest windows = Windows(5, 10);
  const std::vector<int32_t> tokens = TokensOf(windows);
  int64_t covered = 0;
  for (int shard = 0; shard < 3; ++shard) {
    v1::Action action;
    action.set_kind(v1::TASK_KIND_FORWARD);
    action.mutable_forward()->set_shard(shard);
    action.mutable_forward()->set_shards(3);
    AddInput(&action, "windows", windows);
    auto done = bench_.Run(action);
    ASSERT_TRUE(done.ok()) << done.status();
    const int64_t begin = shard * 5 / 3, count = (shard + 1) * 5 / 3 - begin;
    covered += count;
    auto states = *decoder().Embed(
        absl::MakeSpan(tokens).subspan(begin * 10, count * 10), count, 10);
    auto hidden = Parse(bench_.Bytes(done->outputs.at("hidden")));
    EXPECT_EQ(*hidden->ReadFloats("hidden", {count, 10, states.width}),
              states.data);
    auto sums = *decoder().BlockHessians(0, nullptr, states);
    auto hessian = Parse(bench_.Bytes(done->outputs.at("hessian")));
    EXPECT_EQ(hessian->metadata().at("sequences"), absl::StrCat(count));
    ASSERT_EQ(hessian->tensors().size(), sums.size());
    for (const auto& sum : sums) {
      EXPECT_EQ(
          *hessian->ReadFloats(sum.group, {sum.cols * (sum.cols + 1) / 2}),
          sum.packed_lower);
    }
    EXPECT_EQ(done->counters.tokens, count * 10);
  }
  EXPECT_EQ(covered, 5);
}

TEST_F(ExecutorTest, ForwardOfAnEmptyShardGivesZeroSums) {
  const v1::BlobDigest windows = Windows(2, 10);
  v1::BlobDigest hidden;
  for (int block = 0; block < 2; ++block) {
    v1::Action action;
    action.set_kind(v1::TASK_KIND_FORWARD);
    action.mutable_forward()->set_block(block);
    action.mutable_forward()->set_shard(0);
    action.mutable_forward()->set_shards(3);
    AddInput(&action, block == 0 ? "windows" : "hidden",
             block == 0 ? windows : hidden);
    auto done = bench_.Run(action);
    ASSERT_TRUE(done.ok()) << done.status();
    hidden = done->outputs.at("hidden");
    auto hessian = Parse(bench_.Bytes(done->outputs.at("hessian")));
    EXPECT_EQ(hessian->metadata().at("sequences"), "0");
    EXPECT_EQ(hessian->tensors().size(), 4u);
  }
}

TEST_F(ExecutorTest, ForwardRefusesABlockOrShardThatIsNotThere) {
  v1::Action action;
  action.set_kind(v1::TASK_KIND_FORWARD);
  action.mutable_forward()->set_block(9);
  action.mutable_forward()->set_shards(1);
  EXPECT_THAT(std::string(bench_.Run(action).status().message()),
              HasSubstr("no block 9"));
  action.mutable_forward()->set_block(0);
  action.mutable_forward()->set_shard(1);
  AddInput(&action, "windows", Windows(2, 10));
  EXPECT_THAT(std::string(bench_.Run(action).status().message()),
              HasSubstr("no shard 1 of 1"));
}

TEST_F(ExecutorTest, LastForwardWritesNoHidden) {
  v1::Action action;
  action.set_kind(v1::TASK_KIND_FORWARD);
  action.mutable_forward()->set_shards(1);
  action.mutable_forward()->set_last(true);
  AddInput(&action, "windows", Windows(2, 10));
  auto done = bench_.Run(action);
  ASSERT_TRUE(done.ok()) << done.status();
  EXPECT_EQ(done->outputs.count("hidden"), 0u);
  EXPECT_EQ(done->outputs.count("hessian"), 1u);
}

TEST_F(ExecutorTest, CancelledTasksStop) {
  bench_.control()->Cancel();
  v1::Action action;
  action.set_kind(v1::TASK_KIND_FORWARD);
  action.mutable_forward()->set_shards(1);
  AddInput(&action, "windows", Windows(2, 10));
  EXPECT_TRUE(absl::IsCancelled(bench_.Run(action).status()));
}

v1::Action Evaluate(const v1::BlobDigest& windows, int shard, int shards) {
  v1::Action action;
  action.set_kind(v1::TASK_KIND_EVALUATE);
  action.mutable_evaluate()->set_shard(shard);
  action.mutable_evaluate()->set_shards(shards);
  AddInput(&action, "windows", windows);
  return action;
}

TEST_F(ExecutorTest, EvaluateAgreesWithTheModelWhateverTheChunk) {
  const v1::BlobDigest windows = Windows(7, 10);
  const std::vector<int32_t> tokens = TokensOf(windows);
  auto states = *decoder().Embed(tokens, 7, 10);
  for (int b = 0; b < decoder().num_blocks(); ++b) {
    ASSERT_TRUE(decoder().RunBlock(b, nullptr, &states, nullptr).ok());
  }
  const std::vector<double> expected = *decoder().WindowNll(states, tokens);

  std::string first;
  for (int64_t bytes : {int64_t{1} << 30, int64_t{1}, int64_t{3000}}) {
    bench_.max_hidden_bytes = bytes;
    auto done = bench_.Run(Evaluate(windows, 0, 1));
    ASSERT_TRUE(done.ok()) << done.status();
    const std::string json = bench_.Bytes(done->outputs.at("nll"));
    if (first.empty()) first = json;
    EXPECT_EQ(json, first);
    EXPECT_EQ(nlohmann::json::parse(json)["nll"].get<std::vector<double>>(),
              expected);
    EXPECT_EQ(done->summary.evaluate().windows(), 7);
    EXPECT_EQ(done->summary.evaluate().tokens(), 63);
    EXPECT_EQ(done->summary.evaluate().seqlen(), 10);
  }
}

TEST_F(ExecutorTest, EvaluateShardsMakeUpTheWhole) {
  const v1::BlobDigest windows = Windows(2, 10);
  const double whole =
      bench_.Run(Evaluate(windows, 0, 1))->summary.evaluate().nll();
  double sum = 0;
  int64_t count = 0;
  for (int shard = 0; shard < 3; ++shard) {  // One of them is empty.
    auto done = bench_.Run(Evaluate(windows, shard, 3));
    ASSERT_TRUE(done.ok()) << done.status();
    sum += done->summary.evaluate().nll();
    count += done->summary.evaluate().windows();
  }
  EXPECT_EQ(count, 2);
  EXPECT_NEAR(sum, whole, 1e-9);
}

// A Hessian blob of `sequences` sequences with x = columns of a fixed pattern.
std::vector<float> PackedSum(int64_t cols, int seed) {
  quant::HessianAccumulator sum(cols);
  std::vector<float> x(4 * cols * cols);
  uint32_t state = seed;
  for (float& v : x) {
    state = state * 1664525u + 1013904223u;
    v = static_cast<float>(static_cast<int32_t>(state)) / 2147483648.0f;
  }
  EXPECT_TRUE(sum.Add(x.data(), 4 * cols).ok());
  return sum.Packed();
}

TEST_F(ExecutorTest, QuantizeReducesShardsInOrderAndPacksWhatItMeasured) {
  const LinearSpec linear = BlockLinears(bench_.model()->config(), 1)[0];
  std::vector<std::vector<float>> partials;
  v1::Action action;
  action.set_kind(v1::TASK_KIND_QUANTIZE);
  action.mutable_quantize()->set_block(1);
  action.mutable_quantize()->set_linear(linear.name);
  *action.mutable_quantize()->mutable_method() = Method(v1::METHOD_BAQ, 2.5);
  for (int shard : {1, 0}) {  // Listed out of order on purpose.
    partials.insert(partials.begin(), PackedSum(linear.cols, shard + 1));
    const auto& sum = partials.front();
    AddInput(&action, absl::StrCat("hessian.000", shard),
             bench_
                 .Store("", SerializeSafetensors(
                                {FloatTensor("other", {1}, {0.f}),
                                 FloatTensor(linear.hessian_group,
                                             {static_cast<int64_t>(sum.size())},
                                             sum)},
                                {{"sequences", absl::StrCat(shard + 2)}}))
                 .digest());
  }
  auto done = bench_.Run(action);
  ASSERT_TRUE(done.ok()) << done.status();
  auto blob = ParseLinearBlob(bench_.Bytes(done->outputs.at("linear")), "blob");
  ASSERT_TRUE(blob.ok()) << blob.status();
  EXPECT_EQ(blob->name, linear.name);

  auto hessian =
      *quant::ReduceHessians({partials[0], partials[1]}, linear.cols, 5);
  auto weight =
      *bench_.model()->directory().ReadFloats(linear.name + ".weight");
  quant::QuantizeOptions options;
  options.bits = 2.5;
  options.budget = quant::Budget::kCodes;
  options.f16_ranges = true;
  auto direct = *quant::QuantizeLinear({.weight = weight.data(),
                                        .rows = linear.rows,
                                        .columns = linear.cols,
                                        .hessian = hessian},
                                       options);
  EXPECT_EQ(*Dequantize(blob->linear), quant::DequantizeResult(direct));
  const auto report = nlohmann::json::parse(blob->report);
  EXPECT_EQ(report["loss"].get<double>(), direct.loss);
  EXPECT_EQ(report["loss_kind"], "hessian");
  EXPECT_EQ(report["uniform_loss"].get<double>(), direct.uniform_loss);
  EXPECT_EQ(report["file_bits"].get<double>(),
            blob->linear.FileBitsPerWeight());
  EXPECT_FALSE(report.contains("seconds"));
  int64_t columns = 0;
  for (const auto& [levels, n] : report["levels_histogram"].items()) {
    columns += n.get<int64_t>();
  }
  EXPECT_EQ(columns, linear.cols);
  EXPECT_EQ(done->summary.quantize().loss(), direct.loss);
  EXPECT_LE(done->summary.quantize().code_bits_per_weight(), 2.5);
}

TEST_F(ExecutorTest, RtnNeedsNoHessianAndSaysWhatItsLossIs) {
  const LinearSpec linear = BlockLinears(bench_.model()->config(), 0)[0];
  v1::Action action;
  action.set_kind(v1::TASK_KIND_QUANTIZE);
  action.mutable_quantize()->set_linear(linear.name);
  *action.mutable_quantize()->mutable_method() = Method(v1::METHOD_RTN, 4);
  action.mutable_quantize()->mutable_method()->set_group_size(16);
  auto done = bench_.Run(action);
  ASSERT_TRUE(done.ok()) << done.status();
  auto blob =
      *ParseLinearBlob(bench_.Bytes(done->outputs.at("linear")), "blob");
  EXPECT_EQ(blob.linear.group_size, 16);
  auto weight =
      *bench_.model()->directory().ReadFloats(linear.name + ".weight");
  auto decoded = *Dequantize(blob.linear);
  double error = 0;
  for (size_t i = 0; i < weight.size(); ++i) {
    error += std::pow(double{weight[i]} - decoded[i], 2);
  }
  const auto report = nlohmann::json::parse(blob.report);
  EXPECT_EQ(report["loss_kind"], "squared_error");
  EXPECT_NEAR(report["loss"].get<double>(), error, 1e-9 * error);
  EXPECT_EQ(report["uniform_loss"], report["loss"]);
}

TEST_F(ExecutorTest, QuantizeRefusesWhatTheModelLacks) {
  v1::Action action;
  action.set_kind(v1::TASK_KIND_QUANTIZE);
  action.mutable_quantize()->set_linear("model.layers.1.self_attn.q_proj");
  *action.mutable_quantize()->mutable_method() = Method(v1::METHOD_RTN, 4);
  EXPECT_EQ(bench_.Run(action).status().code(),
            absl::StatusCode::kInvalidArgument);
  action.mutable_quantize()->set_block(1);
  action.mutable_quantize()->mutable_method()->clear_method();
  EXPECT_EQ(bench_.Run(action).status().code(),
            absl::StatusCode::kUnimplemented);
}

TEST_F(ExecutorTest, FinalizeRefusesASourceThatChanged) {
  v1::Action action;
  action.set_kind(v1::TASK_KIND_FINALIZE);
  v1::JobSpec* spec = action.mutable_finalize()->mutable_spec();
  *spec->mutable_model() = Source(FixtureModel("llama_plain"));
  spec->mutable_model()->mutable_files(0)->mutable_digest()->set_sha256(
      std::string(64, '0'));
  auto done = bench_.Run(action);
  EXPECT_EQ(done.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(done.status().message()), HasSubstr("has changed"));
  EXPECT_THAT(std::string(done.status().message()),
              HasSubstr(spec->model().files(0).name()));
}

}  // namespace
}  // namespace bitwright
