#include "client/cli/compare_rows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace bitwright {
namespace {

using ::testing::ContainsRegex;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

SpecOptions Base() {
  SpecOptions base;
  base.model = "m";
  base.calibration = {"calib.txt"};
  base.nsamples = 17;
  return base;
}

TEST(CompareRowsTest, ARowHasTheFlagsOfQuantize) {
  const auto row = ParseCompareRow(
      "ratio --bits 2.2  --ratios 0.1,0.2 --interactions none", Base(), {});
  ASSERT_TRUE(row.ok()) << row.status();
  EXPECT_EQ(row->method, "ratio");
  EXPECT_EQ(row->bits, 2.2);
  EXPECT_THAT(row->ratios, ElementsAre(0.1, 0.2));
  EXPECT_EQ(row->interactions, "none");
  EXPECT_EQ(row->model, "m");
  EXPECT_THAT(row->calibration, ElementsAre("calib.txt"));
  EXPECT_EQ(row->nsamples, 17);
}

TEST(CompareRowsTest, FileBitsOfARowAboveStandForTheirNumber) {
  const auto row = ParseCompareRow("baq --bits @2", Base(), {3, 2.31});
  ASSERT_TRUE(row.ok()) << row.status();
  EXPECT_EQ(row->bits, 2.31);
  for (const char* word : {"@3", "@0", "@x", "@"}) {
    EXPECT_THAT(
        ParseCompareRow(std::string("baq --bits ") + word, Base(), {3, 2})
            .status()
            .message(),
        HasSubstr("is no row above"));
  }
}

TEST(CompareRowsTest, BadRowsAreQuoted) {
  for (const char* row : {"", "magic", "baq --bits", "baq --bits x",
                          "baq --no-such-flag", "baq --help"}) {
    const absl::Status status = ParseCompareRow(row, Base(), {}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << row;
    EXPECT_THAT(status.message(),
                HasSubstr(std::string("--methods \"") + row + "\""));
  }
}

CompareRow Row(const std::string& method, std::vector<double> perplexities) {
  CompareRow row{.method = method, .runs = {}};
  for (double perplexity : perplexities) {
    CompareRun& run = row.runs.emplace_back();
    run.seed = row.runs.size() - 1;
    v1::JobResult* result = run.job.mutable_result();
    result->set_code_bits_per_weight(2);
    result->set_file_bits_per_weight(2.25);
    result->mutable_perplexity_before()->set_perplexity(10);
    result->mutable_perplexity_after()->set_perplexity(perplexity);
    result->mutable_perplexity_after()->set_windows(7);
    result->mutable_perplexity_after()->set_seqlen(64);
  }
  return row;
}

TEST(CompareRowsTest, ATableOfMeansAndDeviations) {
  const std::string text = CompareText(
      {Row("rtn --bits 2", {20, 22}), Row("baq --bits @1", {12, 14})});
  EXPECT_THAT(text, HasSubstr("original"));
  EXPECT_THAT(text, ContainsRegex("21 +2.100 +1.4"));
  EXPECT_THAT(text, HasSubstr("1.300"));
  EXPECT_THAT(text, HasSubstr("7 windows of 64 tokens"));
  EXPECT_THAT(text, HasSubstr("2 calibration sets"));
  const nlohmann::ordered_json json = CompareJson(
      {Row("rtn --bits 2", {20, 22}), Row("gptq --bits 2", {12, 12})});
  EXPECT_EQ(json["perplexity"]["before"], 10);
  EXPECT_EQ(json["rows"][0]["perplexity"], 21);
  EXPECT_EQ(json["rows"][0]["runs"][1]["perplexity"], 22);
  EXPECT_EQ(json["rows"][1]["deviation"], 0);
  EXPECT_EQ(json["rows"][1]["file_bits"], 2.25);
}

}  // namespace
}  // namespace bitwright
