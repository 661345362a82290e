// Where a server may listen: "host:port", with an IPv6 host in brackets, or
// "unix:/path".
#ifndef BITWRIGHT_SERVER_RPC_LISTEN_ADDRESS_H_
#define BITWRIGHT_SERVER_RPC_LISTEN_ADDRESS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bitwright {

struct ListenAddress {
  std::string socket_path;  // Of a Unix socket; empty for TCP.
  std::string host;         // As given, with brackets.
  int port = 0;             // 0: a free one.

  bool is_unix() const { return !socket_path.empty(); }
  // Of this machine only. Names other than "localhost" are not looked up and
  // count as remote.
  bool is_local() const;
  std::string ToString() const;

  // INVALID_ARGUMENT names what is wrong.
  static absl::StatusOr<ListenAddress> Parse(absl::string_view text);
};

// Makes way for a new Unix socket: ABORTED if a process listens on it.
absl::Status CheckSocketFree(const std::string& path);

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_RPC_LISTEN_ADDRESS_H_
