#include "client/cli/spec_options.h"

#include <cmath>
#include <filesystem>

#include "common/base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bitwright {
namespace {

using testing::HasSubstr;

class SpecOptionsTest : public testing::Test {
 protected:
  void SetUp() override {
    auto directory = TempDirectory::Create("spec-options-");
    ASSERT_TRUE(directory.ok());
    directory_.emplace(*std::move(directory));
    text_ = directory_->path() + "/text.txt";
    ASSERT_TRUE(WriteFileAtomically(text_, "hello").ok());
  }

  // Parses as `bitwright quantize` does.
  SpecOptions Parse(std::vector<std::string> arguments) {
    CLI::App app;
    SpecOptions options;
    AddModelArgument(&app, &options);
    AddQuantizationOptions(&app, &options);
    AddEvaluationOptions(&app, &options);
    std::reverse(arguments.begin(), arguments.end());
    app.parse(arguments);
    return options;
  }

  static absl::StatusOr<Digest> FakeUpload(const std::string& path) {
    return DigestOfFile(path);
  }

  std::optional<TempDirectory> directory_;
  std::string text_;
};

TEST_F(SpecOptionsTest, EveryFlagReachesTheSpec) {
  const SpecOptions options = Parse(
      {"model",    "--calib",    text_,           "--nsamples",  "7",
       "--seqlen", "33",         "--seed",        "9",           "--shards",
       "2",        "--method",   "baq",           "--variant",   "reference",
       "--bits",   "2.5",        "--budget",      "codes",       "--group-size",
       "64",       "--sym",      "--mse-clip",    "--act-order", "--damping",
       "0.05",     "--pipeline", "parallel",      "--format",    "dense",
       "--eval",   text_,        "--eval-seqlen", "44"});
  ASSERT_TRUE(CheckOptions(options, false).ok());
  auto spec = BuildQuantizeSpec(options, FakeUpload);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->calibration().nsamples(), 7);
  EXPECT_EQ(spec->calibration().seqlen(), 33);
  EXPECT_EQ(spec->calibration().seed(), 9u);
  EXPECT_EQ(spec->calibration().shards(), 2);
  EXPECT_EQ(spec->calibration().source().texts(0).digest().sha256(),
            DigestOf("hello").sha256);
  EXPECT_EQ(spec->method().method(), v1::METHOD_BAQ);
  EXPECT_EQ(spec->method().variant(), v1::VARIANT_REFERENCE);
  EXPECT_EQ(spec->method().bits(), 2.5);
  EXPECT_EQ(spec->method().budget(), v1::BUDGET_CODES);
  EXPECT_EQ(spec->method().group_size(), 64);
  EXPECT_TRUE(spec->method().symmetric());
  EXPECT_TRUE(spec->method().mse_clip());
  EXPECT_TRUE(spec->method().act_order());
  EXPECT_EQ(spec->method().damping(), 0.05);
  EXPECT_EQ(spec->pipeline(), v1::PIPELINE_PARALLEL);
  EXPECT_EQ(spec->format(), v1::FORMAT_DENSE);
  EXPECT_EQ(spec->evaluation().seqlen(), 44);
  EXPECT_FALSE(spec->evaluate_only());
}

TEST_F(SpecOptionsTest, Defaults) {
  auto spec = BuildQuantizeSpec(Parse({"model", "--calib", text_}), FakeUpload);
  ASSERT_TRUE(spec.ok());
  EXPECT_EQ(spec->method().method(), v1::METHOD_BAQ);
  EXPECT_EQ(spec->method().variant(), v1::VARIANT_EXACT);
  EXPECT_EQ(spec->method().bits(), 3);
  EXPECT_EQ(spec->method().budget(), v1::BUDGET_FILE);
  EXPECT_EQ(spec->pipeline(), v1::PIPELINE_SEQUENTIAL);
  EXPECT_EQ(spec->format(), v1::FORMAT_NATIVE);
  EXPECT_FALSE(spec->has_evaluation());
}

TEST_F(SpecOptionsTest, ScopeAndGranularityReachTheSpec) {
  auto method = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"model", "--calib", text_});
    const SpecOptions options = Parse(std::move(arguments));
    EXPECT_TRUE(CheckOptions(options, false).ok());
    return BuildQuantizeSpec(options, FakeUpload)->method();
  };
  EXPECT_EQ(method({}).scope(), v1::SCOPE_LAYER);
  EXPECT_EQ(method({}).granularity(), v1::GRANULARITY_UNSPECIFIED);
  EXPECT_EQ(method({"--scope", "model"}).scope(), v1::SCOPE_MODEL);
  EXPECT_EQ(method({"--scope", "model"}).granularity(),
            v1::GRANULARITY_UNSPECIFIED);
  EXPECT_EQ(
      method({"--scope", "model", "--granularity", "column"}).granularity(),
      v1::GRANULARITY_COLUMN);
  EXPECT_EQ(method({"--scope", "model", "--granularity", "module", "--method",
                    "gptq", "--bits", "2.5"})
                .granularity(),
            v1::GRANULARITY_MODULE);
}

TEST_F(SpecOptionsTest, PlanSpec) {
  SpecOptions options = Parse({"model", "--calib", text_, "--scope", "model",
                               "--budget", "codes", "--nsamples", "7"});
  options.plan_bits = {2, 2.5};
  ASSERT_TRUE(CheckOptions(options, false).ok());
  auto spec = BuildPlanSpec(options, FakeUpload);
  ASSERT_TRUE(spec.ok());
  ASSERT_EQ(spec->plan().bits_size(), 2);
  EXPECT_EQ(spec->plan().bits(1), 2.5);
  EXPECT_EQ(spec->method().scope(), v1::SCOPE_MODEL);
  EXPECT_EQ(spec->method().budget(), v1::BUDGET_CODES);
  EXPECT_EQ(spec->method().bits(), 0);
  EXPECT_EQ(spec->calibration().nsamples(), 7);
  EXPECT_NE(RequestIdFor(*spec),
            RequestIdFor(*BuildQuantizeSpec(options, FakeUpload)));
  options.plan_bits = {2, 9};
  EXPECT_THAT(std::string(CheckOptions(options, false).message()),
              HasSubstr("--bits 9"));
}

TEST(ParsePlanBitsTest, RangesAndLists) {
  using testing::ElementsAre;
  EXPECT_THAT(*ParsePlanBits("2..4", 0.5), ElementsAre(2, 2.5, 3, 3.5, 4));
  EXPECT_EQ(ParsePlanBits("2..4", 0.25)->size(), 9u);
  // As if written down: a later --bits 2.3 asks for the same number.
  EXPECT_THAT(*ParsePlanBits("2..2.35", 0.1), ElementsAre(2, 2.1, 2.2, 2.3));
  EXPECT_THAT(*ParsePlanBits("3..3", 0.25), ElementsAre(3));
  EXPECT_THAT(*ParsePlanBits("3", 0.25), ElementsAre(3));
  EXPECT_THAT(*ParsePlanBits("4,2,2.5,2", 0.25), ElementsAre(2, 2.5, 4));
  for (const char* bad : {"", "a", "2..", "4..2", "2..3..4", "2,", "2..nan"}) {
    EXPECT_EQ(ParsePlanBits(bad, 0.25).status().code(),
              absl::StatusCode::kInvalidArgument)
        << bad;
  }
  EXPECT_FALSE(ParsePlanBits("2..4", 0).ok());
  EXPECT_FALSE(ParsePlanBits("2..4", 1e-6).ok());
}

TEST_F(SpecOptionsTest, RefusesWhatCannotBe) {
  auto message = [&](std::vector<std::string> arguments) {
    return std::string(
        CheckOptions(Parse(std::move(arguments)), false).message());
  };
  EXPECT_THAT(message({"m"}), HasSubstr("--calib"));
  EXPECT_EQ(message({"m", "--method", "rtn"}), "");
  EXPECT_THAT(message({"m", "--calib", "/nowhere"}), HasSubstr("/nowhere"));
  EXPECT_THAT(message({"m", "--calib", text_, "--tokens", text_}),
              HasSubstr("not both"));
  EXPECT_THAT(message({"m", "--calib", text_, "--bits", "0.9"}),
              HasSubstr("0.9"));
  EXPECT_THAT(message({"m", "--calib", text_, "--bits", "nan"}),
              HasSubstr("out of range"));
  EXPECT_THAT(
      message({"m", "--calib", text_, "--method", "gptq", "--bits", "2.5"}),
      HasSubstr("whole bits"));
  EXPECT_THAT(message({"m", "--calib", text_, "--eval", "/nowhere"}),
              HasSubstr("--eval"));
  EXPECT_THAT(message({"m", "--scope", "model", "--method", "rtn"}),
              HasSubstr("--scope model needs"));
  EXPECT_THAT(message({"m", "--calib", text_, "--scope", "model", "--variant",
                       "reference"}),
              HasSubstr("--variant exact"));
  EXPECT_THAT(message({"m", "--calib", text_, "--granularity", "module"}),
              HasSubstr("--scope model"));
  EXPECT_THAT(message({"m", "--calib", text_, "--scope", "model", "--method",
                       "gptq", "--granularity", "column"}),
              HasSubstr("--granularity module"));
}

TEST_F(SpecOptionsTest, RtnHasNothingToRefine) {
  const absl::Status status = CheckOptions(
      Parse({"model", "--calib", text_, "--method", "rtn", "--refine", "1"}),
      false);
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_NE(status.message().find("--refine"), absl::string_view::npos);
}

TEST_F(SpecOptionsTest, RequestIdIsAFunctionOfTheSpec) {
  auto id = [&](std::vector<std::string> arguments) {
    return RequestIdFor(
        *BuildQuantizeSpec(Parse(std::move(arguments)), FakeUpload));
  };
  EXPECT_EQ(id({"m", "--calib", text_}),
            id({"m", "--calib", text_, "--bits", "3"}));
  EXPECT_NE(id({"m", "--calib", text_}),
            id({"m", "--calib", text_, "--bits", "2"}));
  EXPECT_NE(id({"m", "--calib", text_}), id({"n", "--calib", text_}));
}

TEST_F(SpecOptionsTest, ChangedModelIsAnotherRequest) {
  const std::string model = directory_->path() + "/model";
  std::filesystem::create_directory(model);
  auto id = [&] {
    return RequestIdFor(
        *BuildQuantizeSpec(Parse({model, "--calib", text_}), FakeUpload));
  };
  ASSERT_TRUE(WriteFileAtomically(model + "/model.safetensors", "a").ok());
  const std::string before = id();
  EXPECT_EQ(before, id());
  ASSERT_TRUE(WriteFileAtomically(model + "/model.safetensors", "ab").ok());
  EXPECT_NE(before, id());
}

TEST(ParsePlanBitsTest, WhatIsNotFiniteIsRefused) {
  for (const char* text :
       {"inf..inf", "2..inf", "nan..3", "-inf..3", "2,nan", "inf"}) {
    EXPECT_FALSE(ParsePlanBits(text, 0.5).ok()) << text;
  }
  EXPECT_FALSE(ParsePlanBits("2..4", NAN).ok());
  EXPECT_THAT(*ParsePlanBits("2..2.000001", 2e-7),
              testing::ElementsAre(2, 2.000001));
}

}  // namespace
}  // namespace bitwright
