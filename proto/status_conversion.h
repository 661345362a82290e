// absl::Status to grpc::Status and back, for both ends of the API. Code,
// message and payloads survive; every error that leaves a server carries an
// ErrorInfo (google.rpc, AIP-193) with a reason that programs can compare and
// the domain "bitwright".
//
//   return ToGrpcStatus(WithReason(absl::PermissionDeniedError("..."),
//                                  "PATH_OUTSIDE_MODEL_ROOTS"));
//   ...
//   absl::Status status = FromGrpcStatus(rpc_status);
//   if (ErrorReason(status) == "PATH_OUTSIDE_MODEL_ROOTS") ...
#ifndef BITWRIGHT_PROTO_STATUS_CONVERSION_H_
#define BITWRIGHT_PROTO_STATUS_CONVERSION_H_

#include <grpcpp/support/status.h>

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace bitwright {

// Messages are cut to this many bytes on the wire, where headers are bounded.
inline constexpr size_t kMaxStatusMessageBytes = 1500;

grpc::Status ToGrpcStatus(const absl::Status& status);
absl::Status FromGrpcStatus(const grpc::Status& status);

// `reason` in UPPER_SNAKE_CASE. OK stays OK.
absl::Status WithReason(absl::Status status, absl::string_view reason);

// Of a status that WithReason or FromGrpcStatus made; otherwise the code's
// name, e.g. "NOT_FOUND".
std::string ErrorReason(const absl::Status& status);

}  // namespace bitwright

#endif  // BITWRIGHT_PROTO_STATUS_CONVERSION_H_
