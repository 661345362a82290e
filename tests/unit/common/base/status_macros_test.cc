#include "common/base/status_macros.h"

#include <memory>
#include <string>

#include "gtest/gtest.h"

namespace bitwright {
namespace {

absl::StatusOr<std::unique_ptr<int>> Make(bool good) {
  if (!good) return absl::NotFoundError("no number");
  return std::make_unique<int>(7);
}

absl::StatusOr<int> Twice(bool first, bool second) {
  BW_RETURN_IF_ERROR(Make(first).status());
  BW_ASSIGN_OR_RETURN(std::unique_ptr<int> number, Make(second));
  return 2 * *number;
}

TEST(StatusMacrosTest, ReturnEarlyOrGoOn) {
  EXPECT_EQ(*Twice(true, true), 14);
  EXPECT_TRUE(absl::IsNotFound(Twice(false, true).status()));
  EXPECT_TRUE(absl::IsNotFound(Twice(true, false).status()));
}

TEST(StatusMacrosTest, AnnotateKeepsCodeAndPayload) {
  absl::Status status = absl::DataLossError("bad sum");
  status.SetPayload("type/x", absl::Cord("details"));
  const absl::Status annotated = Annotate(status, "file.bin");
  EXPECT_EQ(annotated.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(annotated.message(), "file.bin: bad sum");
  EXPECT_EQ(std::string(*annotated.GetPayload("type/x")), "details");
  EXPECT_TRUE(Annotate(absl::OkStatus(), "file.bin").ok());
}

}  // namespace
}  // namespace bitwright
