#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/algorithm_version.h"
#include "server/planner/planner.h"
#include "tests/unit/server/planner/plan_test_util.h"

namespace bitwright {
namespace {

TEST(PlanJob, Sequential) {
  const ModelConfig config = Model(2);
  std::vector<std::string> golden = {
      "prepare: text.0000=a, text.0001=b",
      "prepare-evaluation: tokens=c",
      "forward-0-0 @shard-0: windows=prepare/windows",
      "forward-0-1 @shard-1: windows=prepare/windows",
  };
  for (int block : {0, 1}) {
    for (int shard = 0; shard < 2 && block > 0; ++shard) {
      golden.push_back(absl::StrCat("forward-1-", shard, " @shard-", shard,
                                    ": hidden=forward-0-", shard, "/hidden, ",
                                    Linears(0)));
    }
    for (const LinearSpec& linear : BlockLinears(config, block)) {
      golden.push_back(absl::StrCat(
          "quantize-", linear.name, ": hessian.0000=forward-", block,
          "-0/hessian, hessian.0001=forward-", block, "-1/hessian"));
    }
  }
  golden.push_back(absl::StrCat("finalize: ", Linears(0), ", ", Linears(1)));
  for (int shard = 0; shard < 4; ++shard) {
    golden.push_back(absl::StrCat("evaluate-before-", shard,
                                  ": windows=prepare-evaluation/windows"));
  }
  for (int shard = 0; shard < 4; ++shard) {
    golden.push_back(absl::StrCat("evaluate-after-", shard, ": ", Linears(0),
                                  ", ", Linears(1),
                                  ", windows=prepare-evaluation/windows"));
  }
  EXPECT_EQ(Describe(PlanJob(Spec(config), config)), golden);
}

TEST(PlanJob, ParametersSayWhatTheProtoSays) {
  const ModelConfig config = Model(2);
  const v1::JobSpec spec = Spec(config);
  const Plan plan = PlanJob(spec, config);
  const v1::PrepareParameters& prepare = Find(plan, "prepare").action.prepare();
  EXPECT_TRUE(prepare.calibration());
  EXPECT_EQ(prepare.nsamples(), 128);
  EXPECT_EQ(prepare.seqlen(), 64);
  EXPECT_EQ(prepare.seed(), 7u);
  const v1::PrepareParameters& evaluation =
      Find(plan, "prepare-evaluation").action.prepare();
  EXPECT_FALSE(evaluation.calibration());
  EXPECT_EQ(evaluation.seqlen(), 64);
  EXPECT_EQ(evaluation.seed(), 0u);
  const v1::ForwardParameters& forward =
      Find(plan, "forward-1-1").action.forward();
  EXPECT_EQ(forward.block(), 1);
  EXPECT_EQ(forward.shard(), 1);
  EXPECT_EQ(forward.shards(), 2);
  EXPECT_TRUE(forward.last());
  EXPECT_FALSE(Find(plan, "forward-0-1").action.forward().last());
  const std::string linear = BlockLinears(config, 1)[2].name;
  const v1::QuantizeParameters& quantize =
      Find(plan, "quantize-" + linear).action.quantize();
  EXPECT_EQ(quantize.block(), 1);
  EXPECT_EQ(quantize.linear(), linear);
  EXPECT_EQ(quantize.method().bits(), 3);
  EXPECT_EQ(Find(plan, "evaluate-after-3").action.evaluate().shard(), 3);
  EXPECT_EQ(Find(plan, "evaluate-after-3").action.evaluate().shards(), 4);
  const v1::FinalizeParameters& finalize =
      Find(plan, "finalize").action.finalize();
  EXPECT_EQ(finalize.format(), v1::FORMAT_NATIVE);
  EXPECT_TRUE(finalize.spec().model().path().empty());
  EXPECT_EQ(finalize.spec().model().files_size(), 1);
  EXPECT_FALSE(finalize.spec().has_evaluation());
  EXPECT_EQ(finalize.spec().calibration().source().texts_size(), 2);
  for (const PlannedTask& task : plan.tasks) {
    EXPECT_EQ(task.action.model_digest(), ModelDigest(spec.model()));
    EXPECT_GT(task.action.algorithm_version(), 0);
    EXPECT_EQ(task.action.inputs_size(), 0);
  }
}

TEST(PlanJob, EveryKindOfTaskHasAVersion) {
  for (int kind = v1::TaskKind_MIN; kind <= v1::TaskKind_MAX; ++kind) {
    if (!v1::TaskKind_IsValid(kind) || kind == v1::TASK_KIND_UNSPECIFIED)
      continue;
    EXPECT_GT(AlgorithmVersion(static_cast<v1::TaskKind>(kind)), 0) << kind;
  }
  EXPECT_EQ(AlgorithmVersion(v1::TASK_KIND_UNSPECIFIED), 0);
  EXPECT_TRUE(absl::StartsWith(AlgorithmVersions(), "PREPARE 1, FORWARD "));
}

TEST(PlanJob, InTopologicalOrderWithUniqueKeys) {
  for (v1::Pipeline pipeline :
       {v1::PIPELINE_SEQUENTIAL, v1::PIPELINE_PARALLEL}) {
    const ModelConfig config = Model(12);
    v1::JobSpec spec = Spec(config);
    spec.set_pipeline(pipeline);
    std::set<std::string> seen;
    for (const PlannedTask& task : PlanJob(spec, config).tasks) {
      for (const PlannedInput& input : task.inputs) {
        EXPECT_TRUE(input.task.empty() || seen.count(input.task) == 1)
            << task.key << " needs " << input.task;
      }
      EXPECT_TRUE(seen.insert(task.key).second) << task.key;
    }
    EXPECT_EQ(seen.size(), 2u + 12 * (2 + 6) + 1 + 8);
  }
}

TEST(PlanJob, ParallelForwardsNeedNoQuantizedLinears) {
  const ModelConfig config = Model(2);
  v1::JobSpec spec = Spec(config);
  spec.set_pipeline(v1::PIPELINE_PARALLEL);
  EXPECT_EQ(Describe(Find(PlanJob(spec, config), "forward-1-0")),
            "forward-1-0 @shard-0: hidden=forward-0-0/hidden");
}

TEST(PlanJob, RtnNeedsNoInputs) {
  const ModelConfig config = Model(2);
  v1::JobSpec spec = Spec(config);
  spec.mutable_method()->set_method(v1::METHOD_RTN);
  const Plan plan = PlanJob(spec, config);
  EXPECT_EQ(plan.tasks.size(), 1u + 12 + 1 + 8);
  for (const PlannedTask& task : plan.tasks) {
    EXPECT_TRUE(task.action.kind() != v1::TASK_KIND_QUANTIZE ||
                task.inputs.empty());
  }
  // The calibration, unused, does not tell two checkpoints apart.
  EXPECT_FALSE(
      Find(plan, "finalize").action.finalize().spec().has_calibration());
}

TEST(PlanJob, EvaluateOnly) {
  const ModelConfig config = Model(2);
  v1::JobSpec spec = Spec(config);
  spec.set_evaluate_only(true);
  const std::vector<std::string> golden = {
      "prepare-evaluation: tokens=c",
      "evaluate-before-0: windows=prepare-evaluation/windows",
      "evaluate-before-1: windows=prepare-evaluation/windows",
      "evaluate-before-2: windows=prepare-evaluation/windows",
      "evaluate-before-3: windows=prepare-evaluation/windows"};
  EXPECT_EQ(Describe(PlanJob(spec, config)), golden);
}

TEST(PlanJob, SameArgumentsSamePlan) {
  const ModelConfig config = Model(2);
  auto digests = [&] {
    std::vector<std::string> digests;
    for (const PlannedTask& task : PlanJob(Spec(config), config).tasks) {
      digests.push_back(ActionDigest(task.action));
    }
    return digests;
  };
  EXPECT_EQ(digests(), digests());
}

TEST(PlanJob, WhatTheMethodDoesNotReadIsNotInItsAction) {
  const ModelConfig config = Model(1);
  v1::JobSpec spec = Spec(config);
  const std::string key = "quantize-" + BlockLinears(config, 0)[0].name;
  auto digest = [&] {
    return ActionDigest(Find(PlanJob(spec, config), key).action);
  };
  spec.mutable_method()->set_method(v1::METHOD_GPTQ);
  const std::string gptq = digest();
  spec.mutable_method()->set_variant(v1::VARIANT_REFERENCE);
  EXPECT_EQ(digest(), gptq);
  spec.mutable_method()->set_act_order(true);
  EXPECT_NE(digest(), gptq);
  spec.mutable_method()->set_method(v1::METHOD_BAQ);
  const std::string baq = digest();
  spec.mutable_method()->set_variant(v1::VARIANT_EXACT);
  EXPECT_NE(digest(), baq);
}

TEST(Digests, ModelDigestDependsOnNamesAndContentsNotOnOrderOrPath) {
  v1::ModelSource model;
  for (const char* name : {"config.json", "model.safetensors"}) {
    v1::SourceFile* file = model.add_files();
    file->set_name(name);
    file->mutable_digest()->set_sha256(std::string(64, *name));
  }
  const std::string digest = ModelDigest(model);
  model.set_path("/elsewhere");
  model.mutable_files()->SwapElements(0, 1);
  EXPECT_EQ(ModelDigest(model), digest);
  model.mutable_files(0)->mutable_digest()->set_size_bytes(1);
  EXPECT_NE(ModelDigest(model), digest);
  model.mutable_files(0)->mutable_digest()->set_size_bytes(0);
  model.mutable_files(0)->set_name("model2.safetensors");
  EXPECT_NE(ModelDigest(model), digest);
}

TEST(Digests, ActionDigestIsPinned) {
  v1::Action action;
  action.set_kind(v1::TASK_KIND_EVALUATE);
  action.set_algorithm_version(1);
  action.set_model_digest("m");
  action.mutable_evaluate()->set_shards(4);
  SetBlob("windows", 'a', action.add_inputs());
  // sha256 of the serialized bytes, worked out by protoc --encode and
  // sha256sum: if this changes, every result on record is lost.
  EXPECT_EQ(ActionDigest(action),
            "8514cdf4abf154ab13123a8f87b52cd16ea0d5967b3b9c43f10cbf653c378a73");
}

}  // namespace
}  // namespace bitwright
