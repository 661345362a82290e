#include "common/base/exit_code.h"

#include "gtest/gtest.h"

namespace bitwright {
namespace {

TEST(ExitCodeTest, OfEveryCode) {
  const struct {
    absl::StatusCode code;
    int exit;
  } kCases[] = {
      {absl::StatusCode::kOk, 0},
      {absl::StatusCode::kInvalidArgument, 3},
      {absl::StatusCode::kNotFound, 3},
      {absl::StatusCode::kAlreadyExists, 3},
      {absl::StatusCode::kFailedPrecondition, 3},
      {absl::StatusCode::kOutOfRange, 3},
      {absl::StatusCode::kUnimplemented, 3},
      {absl::StatusCode::kPermissionDenied, 4},
      {absl::StatusCode::kUnauthenticated, 4},
      {absl::StatusCode::kDeadlineExceeded, 6},
      {absl::StatusCode::kUnavailable, 11},
      {absl::StatusCode::kResourceExhausted, 2},
      {absl::StatusCode::kDataLoss, 2},
      {absl::StatusCode::kAborted, 2},
      {absl::StatusCode::kInternal, 1},
      {absl::StatusCode::kUnknown, 1},
      {absl::StatusCode::kCancelled, 1},
  };
  for (const auto& test : kCases) {
    EXPECT_EQ(ExitCodeFor(absl::Status(test.code, "why")), test.exit)
        << absl::StatusCodeToString(test.code);
  }
}

}  // namespace
}  // namespace bitwright
