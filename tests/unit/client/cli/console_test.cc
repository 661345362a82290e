#include "client/cli/console.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bitwright {
namespace {

TEST(TableTest, AlignsNumbersRightAndTextLeft) {
  Table table({"layer", "bits"});
  table.AddRow({"q", "3.5"});
  table.AddRow({"down_proj", "12.25"});
  EXPECT_EQ(table.Render(),
            "layer       bits\n"
            "----------------\n"
            "q            3.5\n"
            "down_proj  12.25\n");
}

TEST(TableTest, CountsCharactersNotBytes) {
  Table table({"a", "b"});
  table.AddRow({"é", "x"});
  table.AddRow({"zz", "y"});
  EXPECT_THAT(table.Render(), testing::HasSubstr("é   x\nzz  y\n"));
}

TEST(TableTest, WithoutRowsIsItsHeader) {
  EXPECT_EQ(Table({"job", "state"}).Render(), "job  state\n----------\n");
}

TEST(HumanBytesTest, ChoosesTheUnit) {
  EXPECT_EQ(HumanBytes(0), "0 B");
  EXPECT_EQ(HumanBytes(1023), "1023 B");
  EXPECT_EQ(HumanBytes(1536), "1.5 KiB");
  EXPECT_EQ(HumanBytes(uint64_t{5} << 30), "5.0 GiB");
}

TEST(HumanDurationTest, ChoosesTheUnit) {
  EXPECT_EQ(HumanDuration(absl::Milliseconds(4200)), "4.2s");
  EXPECT_EQ(HumanDuration(absl::Seconds(187)), "3m07s");
  EXPECT_EQ(HumanDuration(absl::Minutes(62)), "1h02m");
  EXPECT_EQ(HumanDuration(-absl::Seconds(5)), "0.0s");
}

}  // namespace
}  // namespace bitwright
