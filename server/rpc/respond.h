// From the scheduler's answers to gRPC's.
#ifndef BITWRIGHT_SERVER_RPC_RESPOND_H_
#define BITWRIGHT_SERVER_RPC_RESPOND_H_

#include <grpcpp/support/status.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "proto/status_conversion.h"

namespace bitwright {

inline constexpr int kMaxPageSize = 1000;

template <typename Message>
grpc::Status Respond(absl::StatusOr<Message> answer, Message* response) {
  if (!answer.ok()) return ToGrpcStatus(answer.status());
  *response = *std::move(answer);
  return grpc::Status::OK;
}

// A list request within bounds: more than the limit means the limit (AIP-158).
template <typename Request>
absl::StatusOr<Request> CheckPage(const Request& request) {
  if (request.page_size() < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("page_size is negative: ", request.page_size()));
  }
  Request checked = request;
  if (checked.page_size() > kMaxPageSize) checked.set_page_size(kMaxPageSize);
  return checked;
}

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_RPC_RESPOND_H_
