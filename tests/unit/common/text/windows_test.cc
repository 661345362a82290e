#include "common/text/windows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>

namespace bitwright {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<int32_t> Iota(int n) {
  std::vector<int32_t> tokens(n);
  std::iota(tokens.begin(), tokens.end(), 0);
  return tokens;
}

TEST(EvalWindowsTest, CutsInOrderAndDropsTheTail) {
  auto windows = EvalWindows(Iota(11), 4);
  ASSERT_TRUE(windows.ok());
  EXPECT_THAT(*windows,
              ElementsAre(ElementsAre(0, 1, 2, 3), ElementsAre(4, 5, 6, 7)));
  EXPECT_EQ(EvalWindows(Iota(12), 4)->size(), 3u);
}

TEST(EvalWindowsTest, RefusesTooLittleText) {
  auto status = EvalWindows(Iota(3), 4).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("3 tokens"));
  EXPECT_FALSE(EvalWindows(Iota(3), 1).ok());
  EXPECT_FALSE(EvalWindows(Iota(3), 0).ok());
  EXPECT_FALSE(EvalWindows(Iota(3), -4).ok());
  EXPECT_FALSE(EvalWindows({}, 2).ok());
}

// The draws are part of a job's identity: they may never change. These come
// from an implementation of the same rule in Python.
TEST(CalibrationWindowsTest, StartsAreThoseOfSplitMix64) {
  EXPECT_THAT(*CalibrationStarts(1000, 4, 100, 0),
              ElementsAre(835, 584, 29, 223));
  EXPECT_THAT(*CalibrationStarts(1000, 4, 100, 12345),
              ElementsAre(44, 396, 297, 369));
  EXPECT_THAT(*CalibrationStarts(10, 6, 4, 7), ElementsAre(3, 5, 4, 0, 2, 1));
}

TEST(CalibrationWindowsTest, StartsAreDistinctAndInRange) {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const auto starts = *CalibrationStarts(60, 40, 20, seed);
    EXPECT_EQ(std::set<int64_t>(starts.begin(), starts.end()).size(), 40u);
    EXPECT_EQ(*std::min_element(starts.begin(), starts.end()), 0);
    EXPECT_EQ(*std::max_element(starts.begin(), starts.end()), 39);
    const auto fewer = *CalibrationStarts(60, 7, 20, seed);
    EXPECT_TRUE(std::equal(fewer.begin(), fewer.end(), starts.begin()));
  }
}

TEST(CalibrationWindowsTest, StartsAreUniform) {
  std::vector<int> counts(10);
  for (uint64_t seed = 0; seed < 20000; ++seed) {
    ++counts[(*CalibrationStarts(15, 2, 5, seed))[1]];
  }
  for (int count : counts) EXPECT_NEAR(count, 2000, 200);
}

TEST(CalibrationWindowsTest, WindowsAreTheTokensAtTheStarts) {
  const auto starts = *CalibrationStarts(500, 9, 32, 3);
  const auto windows = *CalibrationWindows(Iota(500), 9, 32, 3);
  ASSERT_EQ(windows.size(), 9u);
  for (size_t i = 0; i < windows.size(); ++i) {
    ASSERT_EQ(windows[i].size(), 32u);
    EXPECT_EQ(windows[i].front(), starts[i]);
    EXPECT_EQ(windows[i].back(), starts[i] + 31);
  }
}

TEST(CalibrationWindowsTest, TooLittleTextNamesBothNumbers) {
  EXPECT_TRUE(CalibrationWindows(Iota(104), 4, 100, 0).ok());
  const auto status = CalibrationWindows(Iota(103), 4, 100, 0).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("4 windows of 100 tokens were asked for, and its 103 "
                        "tokens give 3 with distinct starts (1 without"));
  EXPECT_FALSE(CalibrationWindows({}, 1, 100, 0).ok());
  EXPECT_FALSE(CalibrationWindows(Iota(100), 1, 100, 0).ok());
  EXPECT_FALSE(CalibrationWindows(Iota(1000), 0, 100, 0).ok());
  EXPECT_FALSE(CalibrationWindows(Iota(1000), 1, 1, 0).ok());
}

TEST(JoinDocumentsTest, PutsOneBlankLineBetween) {
  EXPECT_EQ(JoinDocuments({"a\n", "b", "c"}), "a\n\n\nb\n\nc");
  EXPECT_EQ(JoinDocuments({"a"}), "a");
  EXPECT_EQ(JoinDocuments({}), "");
}

}  // namespace
}  // namespace bitwright
