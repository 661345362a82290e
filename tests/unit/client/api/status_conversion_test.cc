// absl::Status over the wire and back.
#include "proto/status_conversion.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace bitwright {
namespace {

TEST(StatusConversionTest, KeepsCodeMessageAndReason) {
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
  EXPECT_TRUE(FromGrpcStatus(grpc::Status::OK).ok());
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status =
        WithReason(absl::Status(static_cast<absl::StatusCode>(code), "why ü"),
                   "SOME_REASON");
    const absl::Status back = FromGrpcStatus(ToGrpcStatus(status));
    EXPECT_EQ(back, status);
    EXPECT_EQ(ErrorReason(back), "SOME_REASON");
  }
}

TEST(StatusConversionTest, EveryErrorHasAReason) {
  const absl::Status back =
      FromGrpcStatus(ToGrpcStatus(absl::NotFoundError("x")));
  EXPECT_EQ(back.message(), "x");
  EXPECT_EQ(ErrorReason(back), "NOT_FOUND");
  EXPECT_TRUE(back.GetPayload("type.googleapis.com/google.rpc.ErrorInfo"));
  // From a server that sends no details.
  EXPECT_EQ(
      ErrorReason(FromGrpcStatus(grpc::Status(grpc::StatusCode::ABORTED, "y"))),
      "ABORTED");
}

TEST(StatusConversionTest, WireFormatIsGoogleRpcStatus) {
  // Status{code: 5, message: "m", details: [Any{url, ErrorInfo{"R",
  // "bitwright"}}]}
  const std::string url = "type.googleapis.com/google.rpc.ErrorInfo";
  const std::string info =
      "\x0a\x01R\x12\x09"
      "bitwright";
  const std::string any = "\x0a\x28" + url + "\x12\x0e" + info;
  ASSERT_EQ(url.size(), 0x28u);
  ASSERT_EQ(info.size(), 0x0eu);
  const std::string expected = std::string("\x08\x05\x12\x01m\x1a") +
                               static_cast<char>(any.size()) + any;
  EXPECT_EQ(
      ToGrpcStatus(WithReason(absl::NotFoundError("m"), "R")).error_details(),
      expected);
}

TEST(StatusConversionTest, LongMessagesAreCutBetweenCharacters) {
  std::string message(kMaxStatusMessageBytes - 1, 'x');
  message += "üüü";
  const std::string cut =
      ToGrpcStatus(absl::InternalError(message)).error_message();
  EXPECT_EQ(cut, std::string(kMaxStatusMessageBytes - 1, 'x') + "...");
}

TEST(StatusConversionTest, GarbageInDetailsIsIgnored) {
  const absl::Status status = FromGrpcStatus(
      grpc::Status(grpc::StatusCode::INTERNAL, "m", "\xff\xff\xff garbage"));
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(status.message(), "m");
}

}  // namespace
}  // namespace bitwright
