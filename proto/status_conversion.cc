#include "proto/status_conversion.h"

#include <google/protobuf/unknown_field_set.h>

#include <utility>

#include "absl/strings/cord.h"

namespace bitwright {
namespace {

using ::google::protobuf::UnknownField;
using ::google::protobuf::UnknownFieldSet;

// The wire format of google/rpc/status.proto and error_details.proto, written
// field by field:
//   Status { int32 code = 1; string message = 2; repeated Any details = 3; }
//   Any { string type_url = 1; bytes value = 2; }
//   ErrorInfo { string reason = 1; string domain = 2; }
constexpr char kErrorInfoUrl[] = "type.googleapis.com/google.rpc.ErrorInfo";
constexpr char kDomain[] = "bitwright";

std::string Serialize(const UnknownFieldSet& fields) {
  std::string bytes;
  fields.SerializeToString(&bytes);
  return bytes;
}

std::string BytesField(const UnknownFieldSet& fields, int number) {
  for (int i = 0; i < fields.field_count(); ++i) {
    const UnknownField& field = fields.field(i);
    if (field.number() == number &&
        field.type() == UnknownField::TYPE_LENGTH_DELIMITED) {
      return field.length_delimited();
    }
  }
  return "";
}

std::string Truncated(absl::string_view message) {
  if (message.size() <= kMaxStatusMessageBytes) return std::string(message);
  size_t end = kMaxStatusMessageBytes;
  // Not within a UTF-8 character.
  while (end > 0 && (message[end] & 0xC0) == 0x80) --end;
  return std::string(message.substr(0, end)) + "...";
}

std::string ErrorInfo(absl::string_view reason) {
  UnknownFieldSet info;
  info.AddLengthDelimited(1, std::string(reason));
  info.AddLengthDelimited(2, kDomain);
  return Serialize(info);
}

}  // namespace

absl::Status WithReason(absl::Status status, absl::string_view reason) {
  if (!status.ok()) {
    status.SetPayload(kErrorInfoUrl, absl::Cord(ErrorInfo(reason)));
  }
  return status;
}

std::string ErrorReason(const absl::Status& status) {
  if (absl::optional<absl::Cord> payload = status.GetPayload(kErrorInfoUrl)) {
    UnknownFieldSet info;
    if (info.ParseFromString(std::string(*payload))) {
      return BytesField(info, 1);
    }
  }
  return absl::StatusCodeToString(status.code());
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const std::string message = Truncated(status.message());
  UnknownFieldSet details;
  details.AddVarint(1, static_cast<uint64_t>(status.code()));
  details.AddLengthDelimited(2, message);
  const absl::Status annotated = WithReason(status, ErrorReason(status));
  annotated.ForEachPayload([&](absl::string_view url, const absl::Cord& value) {
    UnknownFieldSet any;
    any.AddLengthDelimited(1, std::string(url));
    any.AddLengthDelimited(2, std::string(value));
    details.AddLengthDelimited(3, Serialize(any));
  });
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), message,
                      Serialize(details));
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status result(static_cast<absl::StatusCode>(status.error_code()),
                      status.error_message());
  UnknownFieldSet details;
  if (!details.ParseFromString(status.error_details())) return result;
  for (int i = 0; i < details.field_count(); ++i) {
    const UnknownField& field = details.field(i);
    UnknownFieldSet any;
    if (field.number() != 3 ||
        field.type() != UnknownField::TYPE_LENGTH_DELIMITED ||
        !any.ParseFromString(field.length_delimited())) {
      continue;
    }
    result.SetPayload(BytesField(any, 1), absl::Cord(BytesField(any, 2)));
  }
  return result;
}

}  // namespace bitwright
