// Plans with a budget over the whole model, and plans that only predict.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/planner/planner.h"
#include "tests/unit/server/planner/plan_test_util.h"

namespace bitwright {
namespace {

v1::JobSpec ModelScope(v1::JobSpec spec) {
  spec.mutable_method()->set_scope(v1::SCOPE_MODEL);
  spec.mutable_method()->set_granularity(v1::GRANULARITY_COLUMN);
  return spec;
}

// Inputs "hessian.<shard>" of the tasks "<prefix><block>-<shard>".
std::string Hessians(const std::string& prefix, int block) {
  return absl::StrCat("hessian.0000=", prefix, block, "-0/hessian, ",
                      "hessian.0001=", prefix, block, "-1/hessian");
}

TEST(PlanJob, ModelScopeAllocatesBeforeItQuantizes) {
  const ModelConfig config = Model(2);
  v1::JobSpec spec = ModelScope(Spec(config));
  spec.clear_evaluation();
  for (v1::Pipeline pipeline :
       {v1::PIPELINE_SEQUENTIAL, v1::PIPELINE_PARALLEL}) {
    spec.set_pipeline(pipeline);
    const bool sequential = pipeline == v1::PIPELINE_SEQUENTIAL;
    const std::string full = sequential ? "forward-full-" : "forward-";
    std::vector<std::string> golden = {"prepare: text.0000=a, text.0001=b"};
    std::map<std::string, std::string> curves;
    for (int block : {0, 1}) {
      const std::string own = block == 0 ? "forward-" : full;
      for (int shard : {0, 1}) {
        golden.push_back(absl::StrCat(
            own, block, "-", shard, " @shard-", shard, ": ",
            block == 0 ? "windows=prepare/windows"
                       : absl::StrCat("hidden=forward-0-", shard, "/hidden")));
      }
      for (const LinearSpec& linear : BlockLinears(config, block)) {
        golden.push_back(
            absl::StrCat("measure-", linear.name, ": ", Hessians(own, block)));
        curves[linear.name] = absl::StrCat("curves.", linear.name, "=measure-",
                                           linear.name, "/curves");
      }
    }
    for (int block : {1, 0}) {
      for (int shard : {0, 1}) {
        golden.push_back(absl::StrCat(
            "gradient-", block, "-", shard, " @shard-", shard, ": ",
            block == 0
                ? absl::StrCat("gradient=gradient-1-", shard, "/gradient, ")
                : "",
            "hidden=", block == 0 ? "forward-" : full, block, "-", shard,
            "/hidden", block == 1 ? ", windows=prepare/windows" : ""));
      }
    }
    std::vector<std::string> inputs;
    for (const auto& [name, line] : curves) inputs.push_back(line);
    for (int block : {0, 1}) {
      for (int shard : {0, 1}) {
        inputs.push_back(absl::StrCat("sensitivity.000", block, ".000", shard,
                                      "=gradient-", block, "-", shard,
                                      "/sensitivity"));
      }
    }
    golden.push_back(absl::StrCat("allocate: ", absl::StrJoin(inputs, ", ")));
    for (int block : {0, 1}) {
      for (int shard = 0; shard < 2 && block > 0 && sequential; ++shard) {
        golden.push_back(absl::StrCat("forward-1-", shard, " @shard-", shard,
                                      ": hidden=forward-0-", shard, "/hidden, ",
                                      Linears(0)));
      }
      for (const LinearSpec& linear : BlockLinears(config, block)) {
        golden.push_back(absl::StrCat("quantize-", linear.name,
                                      ": allocation=allocate/allocation, ",
                                      Hessians("forward-", block)));
      }
    }
    golden.push_back(absl::StrCat("finalize: ", Linears(0), ", ", Linears(1)));
    EXPECT_EQ(Describe(PlanJob(spec, config)), golden);
  }
}

// Keys of the tasks whose actions, as far as planned, differ between two specs.
std::set<std::string> KindsThatDiffer(const v1::JobSpec& a,
                                      const v1::JobSpec& b,
                                      const ModelConfig& config) {
  const Plan first = PlanJob(a, config), second = PlanJob(b, config);
  EXPECT_EQ(first.tasks.size(), second.tasks.size());
  std::set<std::string> kinds;
  for (size_t i = 0; i < first.tasks.size(); ++i) {
    const PlannedTask& one = first.tasks[i];
    const PlannedTask& two = second.tasks[i];
    EXPECT_EQ(Describe(one), Describe(two));
    if (ActionDigest(one.action) != ActionDigest(two.action)) {
      kinds.insert(v1::TaskKind_Name(one.action.kind()));
    }
  }
  return kinds;
}

TEST(PlanJob, OnlyTheAllocationDependsOnTheBudget) {
  const ModelConfig config = Model(3);
  for (v1::Pipeline pipeline :
       {v1::PIPELINE_SEQUENTIAL, v1::PIPELINE_PARALLEL}) {
    v1::JobSpec spec = ModelScope(Spec(config));
    spec.set_pipeline(pipeline);
    v1::JobSpec other = spec;
    other.mutable_method()->set_bits(2.5);
    EXPECT_EQ(
        KindsThatDiffer(spec, other, config),
        (std::set<std::string>{"TASK_KIND_ALLOCATE", "TASK_KIND_FINALIZE"}));
    // How a linear's bits are counted is for quantize to know.
    other.mutable_method()->set_budget(v1::BUDGET_CODES);
    EXPECT_EQ(KindsThatDiffer(spec, other, config),
              (std::set<std::string>{"TASK_KIND_ALLOCATE", "TASK_KIND_QUANTIZE",
                                     "TASK_KIND_FINALIZE"}));
    // What the grid is, measuring too; the passes over the text never.
    other.mutable_method()->set_group_size(32);
    EXPECT_EQ(
        KindsThatDiffer(spec, other, config),
        (std::set<std::string>{"TASK_KIND_ALLOCATE", "TASK_KIND_MEASURE",
                               "TASK_KIND_QUANTIZE", "TASK_KIND_FINALIZE"}));
  }
}

// Digests by key, of the tasks that `keep` starts.
std::map<std::string, std::string> DigestsOf(
    const Plan& plan, const std::vector<std::string>& kinds) {
  std::map<std::string, std::string> digests;
  for (const PlannedTask& task : plan.tasks) {
    for (const std::string& kind : kinds) {
      if (v1::TaskKind_Name(task.action.kind()) == "TASK_KIND_" + kind) {
        digests[Describe(task)] = ActionDigest(task.action);
      }
    }
  }
  return digests;
}

TEST(PlanJob, PlanOnlySharesEverythingWithALaterJob) {
  const ModelConfig config = Model(2);
  for (v1::Scope scope : {v1::SCOPE_LAYER, v1::SCOPE_MODEL}) {
    v1::JobSpec planned = Spec(config);
    planned.mutable_model()->clear_files();
    planned.mutable_method()->set_scope(scope);
    for (double bits : {2.0, 2.5, 3.0}) planned.mutable_plan()->add_bits(bits);
    auto resolved = ResolveSpec(planned, config);
    ASSERT_TRUE(resolved.ok()) << resolved.status();
    *resolved->mutable_model() = Spec(config).model();
    const Plan plan = PlanJob(*resolved, config);
    // prepare, 2 x (2 + 6), 2 x 2 gradients, and three allocations.
    ASSERT_EQ(plan.tasks.size(), 1u + 16 + 4 + 3);
    EXPECT_EQ(plan.tasks[21].key, "allocate-0000");
    EXPECT_EQ(plan.tasks[23].key, "allocate-0002");
    EXPECT_EQ(plan.tasks[22].action.allocate().method().bits(), 2.5);

    v1::JobSpec later = ModelScope(Spec(config));
    later.clear_evaluation();
    later.set_pipeline(v1::PIPELINE_PARALLEL);
    const Plan quantize = PlanJob(later, config);
    const std::vector<std::string> calibration = {"PREPARE", "FORWARD",
                                                  "MEASURE", "GRADIENT"};
    EXPECT_EQ(DigestsOf(plan, calibration), DigestsOf(quantize, calibration));
    if (scope == v1::SCOPE_MODEL) {
      EXPECT_EQ(ActionDigest(plan.tasks[23].action),
                ActionDigest(Find(quantize, "allocate").action));
    }
    // A job with the same bits for every linear shares the forward passes.
    later = Spec(config);
    later.set_pipeline(v1::PIPELINE_PARALLEL);
    EXPECT_EQ(DigestsOf(plan, {"FORWARD"}),
              DigestsOf(PlanJob(later, config), {"FORWARD"}));
  }
}

TEST(PlanJob, ModelScopeScalesToLargeModels) {
  ModelConfig config = Model(32);
  config.family = ModelFamily::kLlama;
  config.name_prefix = "model.";
  v1::JobSpec spec = ModelScope(Spec(config));
  spec.mutable_calibration()->set_shards(8);
  const Plan plan = PlanJob(spec, config);
  const PlannedTask& allocate = Find(plan, "allocate");
  EXPECT_EQ(allocate.inputs.size(), 32u * 7 + 32u * 8);
  // As a worker gets it, well below a message's limit.
  v1::Action action = allocate.action;
  std::set<std::string> names;
  for (const PlannedInput& input : allocate.inputs) {
    EXPECT_TRUE(names.insert(input.name).second) << input.name;
    SetBlob(input.name, 'a', action.add_inputs());
  }
  EXPECT_TRUE(std::is_sorted(
      allocate.inputs.begin(), allocate.inputs.end(),
      [](const auto& a, const auto& b) { return a.name < b.name; }));
  EXPECT_LT(action.ByteSizeLong(), 128u << 10);
  std::set<std::string> keys;
  for (const PlannedTask& task : plan.tasks) {
    for (const PlannedInput& input : task.inputs) {
      EXPECT_TRUE(input.task.empty() || keys.count(input.task) == 1)
          << task.key << " needs " << input.task;
    }
    EXPECT_TRUE(keys.insert(task.key).second) << task.key;
  }
}

TEST(PlanJob, FullPrecisionForwardsKeepWhatEnteredTheLastBlock) {
  const ModelConfig config = Model(2);
  v1::JobSpec spec = Spec(config);
  EXPECT_TRUE(
      Find(PlanJob(spec, config), "forward-1-0").action.forward().last());
  const Plan model = PlanJob(ModelScope(spec), config);
  EXPECT_TRUE(Find(model, "forward-1-0").action.forward().last());
  EXPECT_FALSE(Find(model, "forward-full-1-0").action.forward().last());
  spec.set_pipeline(v1::PIPELINE_PARALLEL);
  EXPECT_FALSE(
      Find(PlanJob(spec, config), "forward-1-0").action.forward().last());
}

TEST(PlanJob, TheReferenceKnowsNoBudget) {
  const ModelConfig config = Model(1);
  v1::JobSpec spec = Spec(config);
  spec.mutable_method()->set_variant(v1::VARIANT_REFERENCE);
  v1::JobSpec other = spec;
  other.mutable_method()->set_budget(v1::BUDGET_CODES);
  EXPECT_EQ(KindsThatDiffer(spec, other, config),
            std::set<std::string>{"TASK_KIND_FINALIZE"});
}

}  // namespace
}  // namespace bitwright
