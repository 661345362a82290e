// The graph of a ratio job (math.md §4).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/planner/planner.h"
#include "tests/unit/server/planner/plan_test_util.h"

namespace bitwright {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// As the server does it: the files are its own to add.
v1::JobSpec Resolved(v1::JobSpec spec, const ModelConfig& config) {
  absl::StatusOr<v1::JobSpec> resolved = ResolveSpec(spec, config);
  EXPECT_TRUE(resolved.ok()) << resolved.status();
  *resolved->mutable_model()->add_files() = Spec(config).model().files(0);
  return *resolved;
}

// As submitted: defaults are not filled in, since they differ by quantizer.
v1::JobSpec Submitted(const ModelConfig& config, v1::Quantizer quantizer) {
  v1::JobSpec spec = Spec(config);
  spec.mutable_model()->clear_files();
  spec.mutable_method()->Clear();
  spec.mutable_method()->set_method(v1::METHOD_RATIO);
  spec.mutable_method()->set_bits(2.3);
  for (double ratio : {0.1, 0.3}) {
    spec.mutable_method()->mutable_ratio()->add_ratios(ratio);
  }
  spec.mutable_method()->mutable_ratio()->set_quantizer(quantizer);
  return spec;
}

v1::JobSpec Ratio(const ModelConfig& config,
                  v1::Estimate estimate = v1::ESTIMATE_GRAM) {
  v1::JobSpec spec = Submitted(config, v1::QUANTIZER_GPTQ);
  spec.mutable_method()->mutable_ratio()->set_estimate(estimate);
  return Resolved(std::move(spec), config);
}

std::map<v1::TaskKind, int> Count(const Plan& plan) {
  std::map<v1::TaskKind, int> counts;
  for (const PlannedTask& task : plan.tasks) ++counts[task.action.kind()];
  return counts;
}

TEST(PlanRatio, RespondsThenSolvesThenQuantizes) {
  const ModelConfig config = Model(2);
  const Plan plan = PlanJob(Ratio(config), config);
  const std::string q = BlockLinears(config, 1)[0].name;
  EXPECT_EQ(Describe(Find(plan, absl::StrCat("response-", q, "-1"))),
            absl::StrCat("response-", q,
                         "-1: fisher.0000=gradient-1-0/fisher, "
                         "fisher.0001=gradient-1-1/fisher, "
                         "hidden.0000=forward-full-1-0/hidden, "
                         "hidden.0001=forward-full-1-1/hidden, "
                         "output.0000=forward-full-2-0/hidden, "
                         "output.0001=forward-full-2-1/hidden"));
  const v1::ResponseParameters& response =
      Find(plan, absl::StrCat("response-", q, "-1")).action.response();
  EXPECT_EQ(response.block(), 1);
  EXPECT_EQ(response.linear(), q);
  EXPECT_EQ(response.ratio(), 0.3);
  EXPECT_EQ(response.bits_normal(), 2);
  EXPECT_EQ(response.bits_high(), 3);
  EXPECT_THAT(Describe(Find(plan, "solve")),
              HasSubstr(absl::StrCat("response.", q, ".0001=response-", q,
                                     "-1/response")));
  const std::string quantize = Describe(Find(plan, "quantize-" + q));
  EXPECT_THAT(quantize, HasSubstr("hessian.0000=forward-1-0/hessian"));
  EXPECT_THAT(quantize, HasSubstr("fisher.0001=gradient-1-1/fisher"));
  EXPECT_THAT(quantize, HasSubstr("solution=solve/solution"));
  EXPECT_TRUE(Find(plan, "gradient-0-1").action.gradient().fisher());
  // 12 linears at 2 ratios; no pairs.
  const std::map<v1::TaskKind, int> counts = Count(plan);
  EXPECT_EQ(counts.at(v1::TASK_KIND_RESPONSE), 24);
  EXPECT_EQ(counts.at(v1::TASK_KIND_SOLVE), 1);
}

TEST(PlanRatio, ThePapersEstimateHasPairsWithinBlocks) {
  const ModelConfig config = Model(2);
  const Plan plan = PlanJob(Ratio(config, v1::ESTIMATE_PAPER), config);
  // 2 blocks, 15 pairs of 6 linears, 2 ratios of the first.
  EXPECT_EQ(Count(plan).at(v1::TASK_KIND_RESPONSE), 24 + 60);
  const std::string q = BlockLinears(config, 0)[0].name;
  const std::string k = BlockLinears(config, 0)[1].name;
  const v1::ResponseParameters& pair =
      Find(plan, absl::StrCat("response-", q, "-0-", k)).action.response();
  EXPECT_EQ(pair.ratio(), 0.1);
  EXPECT_EQ(pair.partner(), k);
  EXPECT_THAT(pair.partner_ratios(), ElementsAre(0.1, 0.3));
  EXPECT_THAT(Describe(Find(plan, "solve")),
              HasSubstr(absl::StrCat("pair.", q, ".0000.", k, "=response-", q,
                                     "-0-", k, "/response")));
}

TEST(PlanRatio, EveryInputComesFromAnEarlierTask) {
  const ModelConfig config = Model(3);
  for (v1::Pipeline pipeline :
       {v1::PIPELINE_SEQUENTIAL, v1::PIPELINE_PARALLEL}) {
    v1::JobSpec spec = Ratio(config, v1::ESTIMATE_PAPER);
    spec.set_pipeline(pipeline);
    std::set<std::string> keys;
    for (const PlannedTask& task : PlanJob(spec, config).tasks) {
      for (const PlannedInput& input : task.inputs) {
        EXPECT_TRUE(input.task.empty() || keys.count(input.task))
            << task.key << " reads " << input.task;
      }
      EXPECT_TRUE(keys.insert(task.key).second) << task.key;
    }
  }
}

// Another budget is solved again; nothing that runs the model before it is.
TEST(PlanRatio, OnlyTheSolverReadsTheBudget) {
  const ModelConfig config = Model(2);
  v1::JobSpec spec = Ratio(config), other = spec;
  other.mutable_method()->set_bits(2.4);
  other.mutable_method()->mutable_ratio()->set_interactions(
      v1::INTERACTIONS_NONE);
  const Plan plan = PlanJob(spec, config), changed = PlanJob(other, config);
  std::set<std::string> different;
  for (const PlannedTask& task : plan.tasks) {
    if (ActionDigest(task.action) !=
        ActionDigest(Find(changed, task.key).action)) {
      different.insert(task.key);
    }
  }
  EXPECT_THAT(different, ElementsAre("finalize", "solve"));
}

v1::JobSpec Hybrid(const ModelConfig& config, v1::Pipeline pipeline) {
  v1::JobSpec spec = Submitted(config, v1::QUANTIZER_HYBRID);
  spec.set_pipeline(pipeline);
  return Resolved(std::move(spec), config);
}

TEST(PlanRatio, TheHybridQuantizerReconstructsBlocks) {
  const ModelConfig config = Model(2);
  const Plan plan = PlanJob(Hybrid(config, v1::PIPELINE_SEQUENTIAL), config);
  EXPECT_EQ(Describe(Find(plan, "reconstruct-1")),
            "reconstruct-1: fisher.0000=gradient-1-0/fisher, "
            "fisher.0001=gradient-1-1/fisher, "
            "hessian.0000=forward-1-0/hessian, "
            "hessian.0001=forward-1-1/hessian, "
            "hidden.0000=forward-1-0/hidden, "
            "hidden.0001=forward-1-1/hidden, "
            "solution=solve/solution, "
            "target.0000=forward-full-2-0/hidden, "
            "target.0001=forward-full-2-1/hidden");
  // Its input is kept although no block comes after it.
  EXPECT_FALSE(Find(plan, "forward-1-0").action.forward().last());
  const std::string q = BlockLinears(config, 0)[0].name;
  const std::string linear =
      absl::StrCat("linear.", q, "=reconstruct-0/linear.", q);
  EXPECT_THAT(Describe(Find(plan, "forward-1-0")), HasSubstr(linear));
  EXPECT_THAT(Describe(Find(plan, "finalize")), HasSubstr(linear));
  const auto counts = Count(plan);
  EXPECT_EQ(counts.at(v1::TASK_KIND_RECONSTRUCT), 2);
  EXPECT_EQ(counts.count(v1::TASK_KIND_QUANTIZE), 0);
  const v1::HybridSpec& spec =
      Find(plan, "reconstruct-1").action.reconstruct().hybrid();
  EXPECT_EQ(spec.iterations(), 5000);
  EXPECT_EQ(spec.gamma_first(), 20);
}

TEST(PlanRatio, ReconstructionInTheParallelPipelineReadsTheFullPass) {
  const ModelConfig config = Model(2);
  const std::string described = Describe(Find(
      PlanJob(Hybrid(config, v1::PIPELINE_PARALLEL), config), "reconstruct-1"));
  EXPECT_THAT(described, HasSubstr("hidden.0000=forward-1-0/hidden"));
  EXPECT_THAT(described, HasSubstr("target.0000=forward-2-0/hidden"));
}

// The quantizer is no part of what comes before it.
TEST(PlanRatio, BothQuantizersShareTheSolution) {
  const ModelConfig config = Model(2);
  const Plan hybrid = PlanJob(Hybrid(config, v1::PIPELINE_SEQUENTIAL), config);
  const Plan gptq = PlanJob(Ratio(config), config);
  for (const PlannedTask& task : gptq.tasks) {
    const v1::TaskKind kind = task.action.kind();
    if (kind != v1::TASK_KIND_SOLVE && kind != v1::TASK_KIND_RESPONSE &&
        kind != v1::TASK_KIND_GRADIENT &&
        !absl::StartsWith(task.key, "forward-full-")) {
      continue;
    }
    const PlannedTask& same = Find(hybrid, task.key);
    EXPECT_EQ(ActionDigest(task.action), ActionDigest(same.action)) << task.key;
    EXPECT_EQ(Describe(task), Describe(same));
  }
}

TEST(ResolveHybrid, BadFieldsAreNamed) {
  const ModelConfig config = Model(2);
  const auto refused = [&](auto change) {
    v1::JobSpec spec = Submitted(config, v1::QUANTIZER_HYBRID);
    change(spec.mutable_method());
    absl::StatusOr<v1::JobSpec> resolved = ResolveSpec(spec, config);
    EXPECT_EQ(resolved.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(resolved.status().message());
  };
  const auto hybrid = [](v1::MethodSpec* method) {
    return method->mutable_ratio()->mutable_hybrid();
  };
  EXPECT_THAT(refused([&](auto* m) { hybrid(m)->set_iterations(0); }),
              HasSubstr("hybrid.iterations is 0"));
  EXPECT_THAT(refused([&](auto* m) { hybrid(m)->set_batch(0); }),
              HasSubstr("hybrid.batch is 0"));
  EXPECT_THAT(refused([&](auto* m) { hybrid(m)->set_clip_rate(-1); }),
              HasSubstr("hybrid.clip_rate is -1"));
  EXPECT_THAT(refused([&](auto* m) { hybrid(m)->set_round_rate(0); }),
              HasSubstr("hybrid.round_rate is 0"));
  EXPECT_THAT(refused([&](auto* m) { hybrid(m)->set_gamma_last(21); }),
              HasSubstr("hybrid.gamma_last is 21"));
  EXPECT_THAT(refused([&](auto* m) { hybrid(m)->set_patience(-1); }),
              HasSubstr("hybrid.patience is -1"));
  EXPECT_THAT(refused([&](auto* m) { m->set_act_order(true); }),
              HasSubstr("method.act_order"));
  EXPECT_THAT(refused([&](auto* m) { m->set_refine_sweeps(2); }),
              HasSubstr("method.refine_sweeps"));
  EXPECT_THAT(refused([&](auto* m) {
                hybrid(m);
                m->mutable_ratio()->set_quantizer(v1::QUANTIZER_GPTQ);
              }),
              HasSubstr("method.ratio.hybrid"));
}

}  // namespace
}  // namespace bitwright
