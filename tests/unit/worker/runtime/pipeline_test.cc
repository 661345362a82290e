// The whole pipeline, task by task, against direct calls.
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bitwright/v1/checkpoint.pb.h"
#include "common/checkpoint/checkpoint_writer.h"
#include "common/checkpoint/dtype.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/unit/worker/runtime/task_test_util.h"
#include "worker/quant/hessian.h"
#include "worker/quant/parallel.h"
#include "worker/quant/quantizer.h"

namespace bitwright {
namespace {

// Sequential GPTQ with no tasks: each block sees the quantized prefix. The
// Hessians are summed per shard, as the job's spec says.
std::map<std::string, std::vector<float>> DirectGptq(
    const ModelDirectory& directory, const model::DecoderModel& decoder,
    const std::vector<int32_t>& tokens, const PipelineSpec& spec) {
  std::map<std::string, std::vector<float>> quantized;
  auto weights = [&](const std::string& name)
      -> absl::StatusOr<std::optional<std::vector<float>>> {
    auto it = quantized.find(name);
    if (it == quantized.end()) return std::nullopt;
    return it->second;
  };
  std::vector<model::HiddenStates> states;
  for (int s = 0; s < spec.shards; ++s) {
    const int64_t begin = s * spec.nsamples / spec.shards;
    const int64_t end = (s + 1) * spec.nsamples / spec.shards;
    states.push_back(
        *decoder.Embed(absl::MakeConstSpan(tokens).subspan(
                           begin * spec.seqlen, (end - begin) * spec.seqlen),
                       end - begin, spec.seqlen));
  }
  for (int64_t block = 0; block < decoder.num_blocks(); ++block) {
    std::vector<std::vector<model::HessianSum>> sums;
    for (auto& shard : states) {
      sums.push_back(*decoder.BlockHessians(block, nullptr, shard));
    }
    for (const LinearSpec& linear : BlockLinears(directory.config(), block)) {
      std::vector<absl::Span<const float>> partials;
      for (auto& shard : sums) {
        for (auto& sum : shard) {
          if (sum.group == linear.hessian_group) {
            partials.push_back(sum.packed_lower);
          }
        }
      }
      auto hessian =
          *quant::ReduceHessians(partials, linear.cols, spec.nsamples);
      auto weight = *directory.ReadFloats(linear.name + ".weight");
      quant::QuantizeOptions options;
      options.method = quant::Method::kGptq;
      options.bits = spec.method.bits();
      options.f16_ranges = true;
      std::vector<float> decoded = quant::DequantizeResult(
          *quant::QuantizeLinear({.weight = weight.data(),
                                  .rows = linear.rows,
                                  .columns = linear.cols,
                                  .hessian = hessian},
                                 options));
      // The fixtures are F16: models compute with what F16 can hold.
      for (float& w : decoded) w = HalfToFloat(FloatToHalf(w));
      quantized[linear.name] = std::move(decoded);
    }
    for (auto& shard : states) {
      EXPECT_TRUE(decoder.RunBlock(block, weights, &shard, nullptr).ok());
    }
  }
  return quantized;
}

class PipelineTest : public testing::TestWithParam<const char*> {
 protected:
  ~PipelineTest() override { quant::SetThreads(0); }
};

TEST_P(PipelineTest, SequentialGptqEqualsDirectCalls) {
  TaskBench bench(FixtureModel(GetParam()));
  const PipelineSpec spec{.method = Method(v1::METHOD_GPTQ, 3)};
  const PipelineResult result = RunPipeline(&bench, spec);

  auto file = *SafetensorsFile::Parse(
      bench.Bytes(result.tasks.at("prepare").outputs.at("windows")), "windows");
  const auto ids = *file->ReadIntegers("tokens");
  const auto expected =
      DirectGptq(bench.model()->directory(), **bench.model()->Decoder(),
                 {ids.begin(), ids.end()}, spec);

  const std::string checkpoint = bench.Checkout(result.finalized);
  auto report = VerifyCheckpoint(checkpoint);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(report->problems.empty()) << report->problems.front();
  auto directory = ModelDirectory::Open(checkpoint);
  ASSERT_TRUE(directory.ok()) << directory.status();
  EXPECT_TRUE((*directory)->is_native());
  for (const auto& [name, weight] : expected) {
    EXPECT_EQ(*(*directory)->ReadFloats(name + ".weight"), weight) << name;
  }
  EXPECT_GT(result.finalized.summary.finalize().quantized_weights(), 0);
  EXPECT_GT(result.finalized.summary.finalize().file_bits_per_weight(),
            result.finalized.summary.finalize().code_bits_per_weight());
}

TEST_P(PipelineTest, TheCheckpointDoesNotDependOnThreads) {
  std::set<std::string> manifests;
  for (int threads : {1, 2, 5}) {
    quant::SetThreads(threads);
    TaskBench bench(FixtureModel(GetParam()));
    const PipelineResult result =
        RunPipeline(&bench, {.method = Method(v1::METHOD_BAQ, 2.5)});
    manifests.insert(bench.Bytes(result.finalized.outputs.at("manifest")));
  }
  EXPECT_EQ(manifests.size(), 1u);
}

TEST_P(PipelineTest, SequentialAndParallelDifferAfterTheFirstBlock) {
  TaskBench bench(FixtureModel(GetParam()));
  const auto sequential =
      RunPipeline(&bench, {.method = Method(v1::METHOD_GPTQ, 2)});
  const auto parallel = RunPipeline(
      &bench, {.parallel = true, .method = Method(v1::METHOD_GPTQ, 2)});
  const ModelConfig& config = bench.model()->config();
  auto digest = [](const PipelineResult& result, const LinearSpec& linear) {
    return result.tasks.at("quantize-" + linear.name)
        .outputs.at("linear")
        .sha256();
  };
  const LinearSpec first = BlockLinears(config, 0)[0];
  const LinearSpec last = BlockLinears(config, config.num_layers - 1)[0];
  EXPECT_EQ(digest(sequential, first), digest(parallel, first));
  EXPECT_NE(digest(sequential, last), digest(parallel, last));
}

TEST_P(PipelineTest, EvaluationOfTheLinearsEqualsThatOfTheCheckpoint) {
  TaskBench bench(FixtureModel(GetParam()));
  const auto result = RunPipeline(
      &bench,
      {.format = v1::FORMAT_NATIVE, .method = Method(v1::METHOD_BAQ, 2)});
  v1::Action action;
  action.set_kind(v1::TASK_KIND_EVALUATE);
  action.mutable_evaluate()->set_shards(1);
  AddInput(&action, "windows",
           result.tasks.at("prepare").outputs.at("windows"));
  const double before = bench.Run(action)->summary.evaluate().nll();
  for (const auto& [key, task] : result.tasks) {
    if (key.rfind("quantize-", 0) != 0) continue;
    AddInput(&action, absl::StrCat("linear.", key.substr(9)),
             task.outputs.at("linear"));
  }
  const double after = bench.Run(action)->summary.evaluate().nll();
  EXPECT_NE(before, after);

  TaskBench quantized(bench.Checkout(result.finalized));
  v1::Action again;
  again.set_kind(v1::TASK_KIND_EVALUATE);
  again.mutable_evaluate()->set_shards(1);
  *again.add_inputs() = quantized.Store(
      "windows", bench.Bytes(result.tasks.at("prepare").outputs.at("windows")));
  EXPECT_EQ(quantized.Run(again)->summary.evaluate().nll(), after);
}

TEST_P(PipelineTest, LineageSaysWhatItWasMadeFromAndNotWhere) {
  TaskBench bench(FixtureModel(GetParam()));
  const auto result = RunPipeline(
      &bench,
      {.format = v1::FORMAT_DENSE, .method = Method(v1::METHOD_BAQ, 3)});
  const std::string checkpoint = bench.Checkout(result.finalized);
  auto described = DescribeCheckpoint(checkpoint);
  ASSERT_TRUE(described.ok()) << described.status();
  EXPECT_EQ(described->format, "dense");
  EXPECT_EQ(described->method, "baq");
  const auto lineage = nlohmann::json::parse(described->lineage_json);
  EXPECT_EQ(lineage["spec"]["method"]["bits"], 3);
  EXPECT_FALSE(lineage["source_files"].empty());
  EXPECT_EQ(lineage["calibration"]["seqlen"], 12);
  const ModelConfig& config = bench.model()->config();
  EXPECT_EQ(described->layers.size(),
            config.num_layers * BlockLinears(config, 0).size());
  for (const LayerDescription& layer : described->layers) {
    EXPECT_GT(layer.loss, 0) << layer.name;
    EXPECT_GT(layer.code_bits, 0) << layer.name;
  }
  EXPECT_EQ(described->lineage_json.find(FixtureModel("")), std::string::npos);

  v1::CheckpointManifest manifest;
  ASSERT_TRUE(manifest.ParseFromString(
      bench.Bytes(result.finalized.outputs.at("manifest"))));
  EXPECT_EQ(manifest.format(), v1::FORMAT_DENSE);
  ASSERT_EQ(manifest.files_size() + 1,
            static_cast<int>(result.finalized.outputs.size()));
  for (int i = 1; i < manifest.files_size(); ++i) {
    EXPECT_LT(manifest.files(i - 1).path(), manifest.files(i).path());
  }
}

INSTANTIATE_TEST_SUITE_P(Families, PipelineTest,
                         testing::Values("llama_plain", "opt_before"));

}  // namespace
}  // namespace bitwright
