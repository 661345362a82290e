#include "server/rpc/listen_address.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/file.h"

namespace bitwright {
namespace {

constexpr size_t kMaxSocketPath = sizeof(sockaddr_un::sun_path) - 1;

absl::StatusOr<ListenAddress> ParseUnix(absl::string_view text) {
  ListenAddress address;
  absl::string_view path = absl::StripPrefix(text, "unix:");
  while (absl::StartsWith(path, "//")) path.remove_prefix(1);
  address.socket_path = std::string(path);
  if (path.empty() || path.size() > kMaxSocketPath) {
    return absl::InvalidArgumentError(
        absl::StrCat("socket path of ", text, " has ", path.size(),
                     " bytes; 1 to ", kMaxSocketPath, " are possible"));
  }
  return address;
}

}  // namespace

absl::StatusOr<ListenAddress> ListenAddress::Parse(absl::string_view text) {
  if (absl::StartsWith(text, "unix:")) return ParseUnix(text);
  const absl::Status bad = absl::InvalidArgumentError(
      absl::StrCat("cannot listen on \"", text,
                   "\": give host:port, [ipv6]:port or unix:/path"));
  const size_t colon = text.rfind(':');
  if (colon == absl::string_view::npos || colon == 0) return bad;
  ListenAddress address;
  address.host = std::string(text.substr(0, colon));
  const bool bracketed =
      absl::StartsWith(address.host, "[") && absl::EndsWith(address.host, "]");
  // Also keeps out gRPC's other schemes, "dns:", "vsock:" and so on.
  if (!bracketed && absl::StrContains(address.host, ":")) return bad;
  if (!absl::SimpleAtoi(text.substr(colon + 1), &address.port) ||
      address.port < 0 || address.port > 65535) {
    return bad;
  }
  return address;
}

bool ListenAddress::is_local() const {
  if (is_unix() || host == "localhost" || host == "[::1]") return true;
  int parts = 0;
  absl::string_view rest = host;
  // 127.0.0.0/8, written out: "127.evil.example" is a name.
  for (char c : host) parts += c == '.';
  return absl::StartsWith(rest, "127.") && parts == 3 &&
         rest.find_first_not_of("0123456789.") == absl::string_view::npos;
}

std::string ListenAddress::ToString() const {
  return is_unix() ? absl::StrCat("unix:", socket_path)
                   : absl::StrCat(host, ":", port);
}

absl::Status CheckSocketFree(const std::string& path) {
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return ErrnoStatus(errno, "cannot make a socket for", path);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), kMaxSocketPath);
  const bool answered =
      connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  close(fd);
  if (!answered) return absl::OkStatus();
  return absl::AbortedError(
      absl::StrCat("another process listens on unix:", path,
                   "; stop it, or listen elsewhere"));
}

}  // namespace bitwright
