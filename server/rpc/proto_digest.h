// Digests as they come from clients.
#ifndef BITWRIGHT_SERVER_RPC_PROTO_DIGEST_H_
#define BITWRIGHT_SERVER_RPC_PROTO_DIGEST_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "bitwright/v1/common.pb.h"
#include "common/base/digest.h"

namespace bitwright {

// INVALID_ARGUMENT unless it is 64 lower-case hex digits and a size.
inline absl::StatusOr<Digest> CheckedDigest(const v1::BlobDigest& digest) {
  if (digest.size_bytes() < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("digest.size_bytes is negative: ", digest.size_bytes()));
  }
  return Digest::Parse(absl::StrCat(digest.sha256(), "/", digest.size_bytes()));
}

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_RPC_PROTO_DIGEST_H_
