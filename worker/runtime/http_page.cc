#include "worker/runtime/http_page.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/file.h"
#include "common/base/status_macros.h"

namespace bitwright {
namespace {

constexpr size_t kMaxRequest = 8192;

struct HostPort {
  std::string host, port;  // An empty host: all interfaces.
};

absl::StatusOr<HostPort> Split(absl::string_view address) {
  const size_t colon = address.rfind(':');
  const bool has_host = colon != absl::string_view::npos;
  absl::string_view host = has_host ? address.substr(0, colon) : "";
  const std::string port(has_host ? address.substr(colon + 1) : address);
  if (absl::StartsWith(host, "[") && absl::EndsWith(host, "]")) {
    host = host.substr(1, host.size() - 2);
  }
  if (port.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the address \"", address, "\" has no port; give host:port"));
  }
  return HostPort{std::string(host), port};
}

absl::StatusOr<int> Listen(const std::string& address, const addrinfo& at) {
  const int fd = socket(at.ai_family, at.ai_socktype | SOCK_CLOEXEC, 0);
  if (fd < 0) return ErrnoStatus(errno, "open a socket for", address);
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind(fd, at.ai_addr, at.ai_addrlen) == 0 && listen(fd, 16) == 0) {
    return fd;
  }
  const int error = errno;
  close(fd);
  return absl::UnavailableError(absl::StrCat("cannot serve on ", address, ": ",
                                             std::strerror(error),
                                             "; is another process using it?"));
}

int PortOf(int fd) {
  sockaddr_storage name = {};
  socklen_t size = sizeof(name);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&name), &size) != 0) return 0;
  return ntohs(name.ss_family == AF_INET6
                   ? reinterpret_cast<sockaddr_in6*>(&name)->sin6_port
                   : reinterpret_cast<sockaddr_in*>(&name)->sin_port);
}

// The request up to the empty line; empty if it does not come in time.
std::string ReadRequest(int client) {
  std::string request;
  char piece[1024];
  while (request.size() < kMaxRequest) {
    const ssize_t got = recv(client, piece, sizeof(piece), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return "";
    request.append(piece, got);
    if (absl::StrContains(request, "\r\n\r\n")) return request;
  }
  return "";
}

void SendAll(int client, absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(client, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return;  // The client has gone.
    bytes.remove_prefix(sent);
  }
}

std::string Response(absl::string_view status, absl::string_view body) {
  return absl::StrCat("HTTP/1.1 ", status,
                      "\r\nContent-Type: text/plain; version=0.0.4; "
                      "charset=utf-8\r\nContent-Length: ",
                      body.size(), "\r\nConnection: close\r\n\r\n", body);
}

}  // namespace

absl::StatusOr<std::unique_ptr<HttpPage>> HttpPage::Serve(
    const std::string& address, std::string path,
    std::function<std::string()> render) {
  BW_ASSIGN_OR_RETURN(HostPort where, Split(address));
  addrinfo hints = {}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  const int error =
      getaddrinfo(where.host.empty() ? nullptr : where.host.c_str(),
                  where.port.c_str(), &hints, &found);
  if (error != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the address ", address, " is not host:port: ", gai_strerror(error)));
  }
  absl::Cleanup free_found = [found] { freeaddrinfo(found); };
  BW_ASSIGN_OR_RETURN(int listener, Listen(address, *found));
  return std::unique_ptr<HttpPage>(new HttpPage(
      listener, PortOf(listener), std::move(path), std::move(render)));
}

HttpPage::HttpPage(int listener, int port, std::string path,
                   std::function<std::string()> render)
    : listener_(listener),
      port_(port),
      path_(std::move(path)),
      render_(std::move(render)) {
  if (pipe2(stop_, O_CLOEXEC) != 0) return;  // It answers nothing then.
  thread_ = std::thread([this] { Loop(); });
}

HttpPage::~HttpPage() {
  if (thread_.joinable()) {
    close(stop_[1]);
    thread_.join();
    close(stop_[0]);
  }
  close(listener_);
}

void HttpPage::Loop() {
  for (;;) {
    pollfd fds[2] = {{stop_[0], POLLIN, 0}, {listener_, POLLIN, 0}};
    if (poll(fds, 2, -1) < 0 && errno != EINTR) return;
    if (fds[0].revents != 0) return;
    if (fds[1].revents == 0) continue;
    const int client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (client < 0) continue;
    const timeval patience = {2, 0};
    setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    Answer(client);
    close(client);
  }
}

void HttpPage::Answer(int client) {
  const std::string request = ReadRequest(client);
  if (request.empty()) return;
  if (absl::StartsWith(request, absl::StrCat("GET ", path_, " ")) ||
      absl::StartsWith(request, absl::StrCat("GET ", path_, "?"))) {
    SendAll(client, Response("200 OK", render_()));
  } else {
    SendAll(client,
            Response("404 Not Found",
                     absl::StrCat("GET ", path_, " is all there is\n")));
  }
}

}  // namespace bitwright
