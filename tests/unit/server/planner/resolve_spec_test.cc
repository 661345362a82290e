#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/planner/planner.h"

namespace bitwright {
namespace {

ModelConfig Model(int64_t max_position = 4096) {
  ModelConfig config;
  config.num_layers = 2;
  config.hidden_size = 8;
  config.intermediate_size = 16;
  config.num_heads = config.num_kv_heads = 2;
  config.head_dim = 4;
  config.max_position = max_position;
  return config;
}

void SetText(v1::TextSource* source) {
  v1::NamedBlob* text = source->add_texts();
  text->set_name("a.txt");
  text->mutable_digest()->set_sha256(std::string(64, 'a'));
  text->mutable_digest()->set_size_bytes(5);
}

v1::JobSpec Minimal() {
  v1::JobSpec spec;
  spec.mutable_model()->set_path("/models/m");
  SetText(spec.mutable_calibration()->mutable_source());
  spec.mutable_method()->set_bits(2.5);
  return spec;
}

TEST(ResolveSpec, FillsInEveryDefault) {
  const absl::StatusOr<v1::JobSpec> spec = ResolveSpec(Minimal(), Model());
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->method().method(), v1::METHOD_BAQ);
  EXPECT_EQ(spec->method().variant(), v1::VARIANT_EXACT);
  EXPECT_EQ(spec->method().budget(), v1::BUDGET_FILE);
  EXPECT_EQ(spec->method().damping(), 0.01);
  EXPECT_EQ(spec->method().scope(), v1::SCOPE_LAYER);
  EXPECT_EQ(spec->method().granularity(), v1::GRANULARITY_UNSPECIFIED);
  EXPECT_EQ(spec->calibration().nsamples(), 128);
  EXPECT_EQ(spec->calibration().seqlen(), 2048);
  EXPECT_EQ(spec->calibration().shards(), 4);
  EXPECT_EQ(spec->pipeline(), v1::PIPELINE_SEQUENTIAL);
  EXPECT_EQ(spec->format(), v1::FORMAT_NATIVE);
  EXPECT_FALSE(spec->has_evaluation());
  const absl::StatusOr<v1::JobSpec> again = ResolveSpec(*spec, Model());
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->SerializeAsString(), spec->SerializeAsString());
}

TEST(ResolveSpec, SeqlenFollowsTheModelAndTheCalibration) {
  v1::JobSpec spec = Minimal();
  SetText(spec.mutable_evaluation()->mutable_source());
  EXPECT_EQ(ResolveSpec(spec, Model(512))->calibration().seqlen(), 512);
  EXPECT_EQ(ResolveSpec(spec, Model(512))->evaluation().seqlen(), 512);
  spec.mutable_calibration()->set_seqlen(100);
  EXPECT_EQ(ResolveSpec(spec, Model(512))->evaluation().seqlen(), 100);
  spec.mutable_evaluation()->set_seqlen(200);
  EXPECT_EQ(ResolveSpec(spec, Model(512))->evaluation().seqlen(), 200);
}

TEST(ResolveSpec, NeverMoreShardsThanSamples) {
  v1::JobSpec spec = Minimal();
  spec.mutable_calibration()->set_nsamples(3);
  EXPECT_EQ(ResolveSpec(spec, Model())->calibration().shards(), 3);
  spec.mutable_calibration()->set_shards(2);
  EXPECT_EQ(ResolveSpec(spec, Model())->calibration().shards(), 2);
  spec.mutable_calibration()->set_shards(7);
  EXPECT_EQ(ResolveSpec(spec, Model())->calibration().shards(), 3);
}

TEST(ResolveSpec, RtnNeedsNoCalibration) {
  v1::JobSpec spec = Minimal();
  spec.mutable_method()->set_method(v1::METHOD_RTN);
  spec.mutable_method()->set_bits(3);
  EXPECT_TRUE(ResolveSpec(spec, Model()).ok());
  spec.clear_calibration();
  ASSERT_TRUE(ResolveSpec(spec, Model()).ok());
  EXPECT_FALSE(ResolveSpec(spec, Model())->has_calibration());
}

TEST(ResolveSpec, EvaluateOnlyNeedsNothingElse) {
  v1::JobSpec spec;
  spec.mutable_model()->set_path("/models/m");
  spec.set_evaluate_only(true);
  SetText(spec.mutable_evaluation()->mutable_source());
  const absl::StatusOr<v1::JobSpec> resolved = ResolveSpec(spec, Model(512));
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->evaluation().seqlen(), 512);
  EXPECT_FALSE(resolved->has_method());
}

TEST(ResolveSpec, ModelScopeTakesTheMethodsGranularity) {
  v1::JobSpec spec = Minimal();
  spec.mutable_method()->set_scope(v1::SCOPE_MODEL);
  EXPECT_EQ(ResolveSpec(spec, Model())->method().granularity(),
            v1::GRANULARITY_COLUMN);
  spec.mutable_method()->set_granularity(v1::GRANULARITY_MODULE);
  EXPECT_EQ(ResolveSpec(spec, Model())->method().granularity(),
            v1::GRANULARITY_MODULE);
  // Each module's bits are whole; the model's need not be.
  spec.mutable_method()->clear_granularity();
  spec.mutable_method()->set_method(v1::METHOD_GPTQ);
  const absl::StatusOr<v1::JobSpec> gptq = ResolveSpec(spec, Model());
  ASSERT_TRUE(gptq.ok()) << gptq.status();
  EXPECT_EQ(gptq->method().granularity(), v1::GRANULARITY_MODULE);
  EXPECT_EQ(gptq->method().bits(), 2.5);
}

TEST(ResolveSpec, PlanKeepsOnlyWhatItReads) {
  v1::JobSpec spec = Minimal();
  spec.mutable_plan()->add_bits(2);
  spec.mutable_plan()->add_bits(2.25);
  spec.set_pipeline(v1::PIPELINE_SEQUENTIAL);
  SetText(spec.mutable_evaluation()->mutable_source());
  const absl::StatusOr<v1::JobSpec> plan = ResolveSpec(spec, Model());
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->plan().bits_size(), 2);
  EXPECT_EQ(plan->method().bits(), 0);
  EXPECT_EQ(plan->pipeline(), v1::PIPELINE_UNSPECIFIED);
  EXPECT_EQ(plan->format(), v1::FORMAT_UNSPECIFIED);
  EXPECT_FALSE(plan->has_evaluation());
  EXPECT_EQ(plan->calibration().nsamples(), 128);
  const absl::StatusOr<v1::JobSpec> again = ResolveSpec(*plan, Model());
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->SerializeAsString(), plan->SerializeAsString());
  // GPTQ takes whole bits, unless they are a model's.
  spec.mutable_method()->set_method(v1::METHOD_GPTQ);
  EXPECT_FALSE(ResolveSpec(spec, Model()).ok());
  spec.mutable_method()->set_scope(v1::SCOPE_MODEL);
  EXPECT_TRUE(ResolveSpec(spec, Model()).ok());
}

v1::JobSpec Ratio() {
  v1::JobSpec spec = Minimal();
  spec.mutable_method()->set_method(v1::METHOD_RATIO);
  spec.mutable_method()->set_bits(2.3);
  return spec;
}

TEST(ResolveSpec, RatioHasTheDefaultsOfThePaper) {
  const absl::StatusOr<v1::JobSpec> spec = ResolveSpec(Ratio(), Model());
  ASSERT_TRUE(spec.ok()) << spec.status();
  const v1::RatioSpec& ratio = spec->method().ratio();
  EXPECT_EQ(ratio.bits_normal(), 2);
  EXPECT_EQ(ratio.bits_high(), 3);
  EXPECT_EQ(std::vector<double>(ratio.ratios().begin(), ratio.ratios().end()),
            (std::vector<double>{0.02, 0.05, 0.1, 0.15, 0.2}));
  EXPECT_EQ(ratio.interactions(), v1::INTERACTIONS_ALL);
  EXPECT_EQ(ratio.estimate(), v1::ESTIMATE_GRAM);
  EXPECT_EQ(ratio.quantizer(), v1::QUANTIZER_HYBRID);
  EXPECT_EQ(ratio.hybrid().iterations(), 5000);
  EXPECT_EQ(spec->method().damping(), 0);  // There is no error feedback.
  EXPECT_EQ(spec->method().budget(), v1::BUDGET_CODES);
  EXPECT_EQ(spec->method().refine_sweeps(), 0);
  const absl::StatusOr<v1::JobSpec> again = ResolveSpec(*spec, Model());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->SerializeAsString(), spec->SerializeAsString());
  // The paper's estimate knows blocks only.
  v1::JobSpec paper = Ratio();
  paper.mutable_method()->mutable_ratio()->set_estimate(v1::ESTIMATE_PAPER);
  EXPECT_EQ(ResolveSpec(paper, Model())->method().ratio().interactions(),
            v1::INTERACTIONS_BLOCK);
}

// Nothing should run for hours before the solver says so.
TEST(ResolveSpec, ARatioBudgetOutOfReachNamesBothLimits) {
  for (double bits : {2.01, 2.9}) {
    v1::JobSpec spec = Ratio();
    spec.mutable_method()->set_bits(bits);
    const absl::Status status = ResolveSpec(spec, Model()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bits;
    EXPECT_THAT(std::string(status.message()),
                testing::ContainsRegex("between 2\\.[0-9]+ and 2\\.[0-9]+"));
  }
}

struct RatioCase {
  std::string field;
  std::function<void(v1::MethodSpec*)> spoil;
};

TEST(ResolveSpec, NamesEveryBadFieldOfARatio) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<RatioCase> cases = {
      {"method.ratio.bits_normal",
       [](auto* m) { m->mutable_ratio()->set_bits_normal(8); }},
      {"method.ratio.bits_high",
       [](auto* m) { m->mutable_ratio()->set_bits_high(2); }},
      {"method.ratio.bits_high",
       [](auto* m) { m->mutable_ratio()->set_bits_high(9); }},
      {"method.ratio.ratios[0]",
       [](auto* m) { m->mutable_ratio()->add_ratios(0); }},
      {"method.ratio.ratios[0]",
       [nan](auto* m) { m->mutable_ratio()->add_ratios(nan); }},
      {"method.ratio.ratios[1]",
       [](auto* m) {
         m->mutable_ratio()->add_ratios(0.2);
         m->mutable_ratio()->add_ratios(0.1);
       }},
      {"method.ratio.ratios",
       [](auto* m) {
         for (int i = 1; i < 66; ++i) m->mutable_ratio()->add_ratios(i / 100.0);
       }},
      {"method.ratio.interactions",
       [](auto* m) {
         m->mutable_ratio()->set_estimate(v1::ESTIMATE_PAPER);
         m->mutable_ratio()->set_interactions(v1::INTERACTIONS_ALL);
       }},
      {"method.ratio",
       [](auto* m) {
         m->mutable_ratio();
         m->set_method(v1::METHOD_BAQ);
       }},
      {"method.scope", [](auto* m) { m->set_scope(v1::SCOPE_MODEL); }},
      {"method.symmetric", [](auto* m) { m->set_symmetric(true); }},
      {"method.mse_clip", [](auto* m) { m->set_mse_clip(true); }},
  };
  for (const RatioCase& bad : cases) {
    v1::JobSpec spec = Ratio();
    bad.spoil(spec.mutable_method());
    const absl::Status status = ResolveSpec(spec, Model()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad.field;
    EXPECT_THAT(std::string(status.message()),
                testing::HasSubstr(absl::StrCat("spec.", bad.field, " is")));
  }
}

struct BadCase {
  std::string field;  // Must be in the message.
  std::function<void(v1::JobSpec*)> spoil;
};

TEST(ResolveSpec, NamesEveryBadField) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double inf = std::numeric_limits<double>::infinity();
  const std::vector<BadCase> cases = {
      {"model.path", [](auto* s) { s->mutable_model()->clear_path(); }},
      {"model.files", [](auto* s) { s->mutable_model()->add_files(); }},
      {"calibration.source", [](auto* s) { s->clear_calibration(); }},
      {"calibration.source",
       [](auto* s) {
         s->mutable_method()->set_method(v1::METHOD_GPTQ);
         s->mutable_method()->set_bits(3);
         s->clear_calibration();
       }},
      {"calibration.source",
       [](auto* s) {
         *s->mutable_calibration()->mutable_source()->mutable_tokens() =
             s->calibration().source().texts(0);
       }},
      {"calibration.source.texts[0].digest",
       [](auto* s) {
         s->mutable_calibration()
             ->mutable_source()
             ->mutable_texts(0)
             ->mutable_digest()
             ->set_sha256("abc");
       }},
      {"evaluation.source.tokens.digest",
       [](auto* s) {
         s->mutable_evaluation()->mutable_source()->mutable_tokens();
       }},
      {"calibration.nsamples",
       [](auto* s) { s->mutable_calibration()->set_nsamples(-1); }},
      {"calibration.seqlen",
       [](auto* s) { s->mutable_calibration()->set_seqlen(-1); }},
      {"calibration.seqlen",
       [](auto* s) { s->mutable_calibration()->set_seqlen(4097); }},
      {"calibration.shards",
       [](auto* s) { s->mutable_calibration()->set_shards(-1); }},
      {"calibration.shards",
       [](auto* s) { s->mutable_calibration()->set_shards(100000); }},
      {"method.method",
       [](auto* s) {
         s->mutable_method()->set_method(static_cast<v1::Method>(17));
       }},
      {"method.variant",
       [](auto* s) {
         s->mutable_method()->set_variant(static_cast<v1::Variant>(17));
       }},
      {"method.budget",
       [](auto* s) {
         s->mutable_method()->set_budget(static_cast<v1::Budget>(-1));
       }},
      {"method.scope",
       [](auto* s) {
         s->mutable_method()->set_scope(static_cast<v1::Scope>(17));
       }},
      {"method.scope",
       [](auto* s) {
         s->mutable_method()->set_method(v1::METHOD_RTN);
         s->mutable_method()->set_bits(3);
         s->mutable_method()->set_scope(v1::SCOPE_MODEL);
       }},
      {"method.scope",
       [](auto* s) {
         s->mutable_method()->set_variant(v1::VARIANT_REFERENCE);
         s->mutable_method()->set_scope(v1::SCOPE_MODEL);
       }},
      {"method.granularity",
       [](auto* s) {
         s->mutable_method()->set_granularity(v1::GRANULARITY_MODULE);
       }},
      {"method.granularity",
       [](auto* s) {
         s->mutable_method()->set_scope(v1::SCOPE_MODEL);
         s->mutable_method()->set_granularity(static_cast<v1::Granularity>(9));
       }},
      {"method.granularity",
       [](auto* s) {
         s->mutable_method()->set_method(v1::METHOD_GPTQ);
         s->mutable_method()->set_scope(v1::SCOPE_MODEL);
         s->mutable_method()->set_granularity(v1::GRANULARITY_COLUMN);
       }},
      {"plan.bits", [](auto* s) { s->mutable_plan(); }},
      {"plan.bits",
       [](auto* s) {
         for (int i = 0; i < kMaxPlannedBudgets + 1; ++i) {
           s->mutable_plan()->add_bits(2 + i * 1e-3);
         }
       }},
      {"plan.bits[1]",
       [](auto* s) {
         s->mutable_plan()->add_bits(2);
         s->mutable_plan()->add_bits(2);
       }},
      {"plan.bits[0]", [](auto* s) { s->mutable_plan()->add_bits(9); }},
      {"plan.bits[0]",
       [](auto* s) {
         s->mutable_method()->set_method(v1::METHOD_GPTQ);
         s->mutable_plan()->add_bits(2.5);
       }},
      {"method.method",
       [](auto* s) {
         s->mutable_method()->set_method(v1::METHOD_RTN);
         s->mutable_plan()->add_bits(2);
       }},
      {"method.variant",
       [](auto* s) {
         s->mutable_method()->set_variant(v1::VARIANT_REFERENCE);
         s->mutable_plan()->add_bits(2);
       }},
      {"calibration.source",
       [](auto* s) {
         s->mutable_plan()->add_bits(2);
         s->clear_calibration();
       }},
      {"pipeline",
       [](auto* s) { s->set_pipeline(static_cast<v1::Pipeline>(17)); }},
      {"format", [](auto* s) { s->set_format(static_cast<v1::Format>(17)); }},
      {"method.bits", [](auto* s) { s->mutable_method()->set_bits(0); }},
      {"method.bits", [](auto* s) { s->mutable_method()->set_bits(0.99); }},
      {"method.bits", [](auto* s) { s->mutable_method()->set_bits(8.01); }},
      {"method.bits", [=](auto* s) { s->mutable_method()->set_bits(nan); }},
      {"method.bits",
       [](auto* s) { s->mutable_method()->set_method(v1::METHOD_GPTQ); }},
      {"method.bits",
       [](auto* s) { s->mutable_method()->set_method(v1::METHOD_RTN); }},
      {"method.group_size",
       [](auto* s) { s->mutable_method()->set_group_size(-1); }},
      {"method.damping",
       [](auto* s) { s->mutable_method()->set_damping(-0.1); }},
      {"method.damping",
       [=](auto* s) { s->mutable_method()->set_damping(nan); }},
      {"method.damping",
       [=](auto* s) { s->mutable_method()->set_damping(inf); }},
      {"evaluation.source", [](auto* s) { s->set_evaluate_only(true); }},
      {"evaluation.seqlen",
       [](auto* s) {
         SetText(s->mutable_evaluation()->mutable_source());
         s->mutable_evaluation()->set_seqlen(1);
       }},
      {"evaluation.seqlen",
       [](auto* s) {
         SetText(s->mutable_evaluation()->mutable_source());
         s->mutable_evaluation()->set_seqlen(5000);
       }},
      {"calibration.seqlen",
       [](auto* s) { s->mutable_calibration()->set_seqlen(1); }},
  };
  ASSERT_TRUE(ResolveSpec(Minimal(), Model()).ok());
  for (size_t i = 0; i < cases.size(); ++i) {
    v1::JobSpec spec = Minimal();
    cases[i].spoil(&spec);
    const absl::Status status = ResolveSpec(spec, Model()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument)
        << i << ": " << cases[i].field;
    EXPECT_TRUE(absl::StrContains(status.message(), "spec." + cases[i].field))
        << i << status;
  }
}

}  // namespace
}  // namespace bitwright
