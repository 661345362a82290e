#include "worker/runtime/http_page.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bitwright {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string Ask(int port, const std::string& request) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in to = {};
  to.sin_family = AF_INET;
  to.sin_port = htons(port);
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
  EXPECT_EQ(send(fd, request.data(), request.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(request.size()));
  shutdown(fd, SHUT_WR);
  std::string answer;
  char piece[512];
  for (ssize_t n; (n = recv(fd, piece, sizeof(piece), 0)) > 0;) {
    answer.append(piece, n);
  }
  close(fd);
  return answer;
}

TEST(HttpPageTest, ServesItsPageAndNothingElse) {
  int rendered = 0;
  auto page = HttpPage::Serve("127.0.0.1:0", "/metrics", [&] {
    return absl::StrCat("count ", ++rendered, "\n");
  });
  ASSERT_TRUE(page.ok()) << page.status();
  const int port = (*page)->port();
  const std::string first = Ask(port, "GET /metrics HTTP/1.1\r\n\r\n");
  EXPECT_THAT(first, StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(first, HasSubstr("Content-Length: 8\r\n"));
  EXPECT_THAT(first, HasSubstr("\r\n\r\ncount 1\n"));
  EXPECT_THAT(Ask(port, "GET /metrics?x=1 HTTP/1.0\r\n\r\n"),
              HasSubstr("count 2"));
  EXPECT_THAT(Ask(port, "GET /metricsx HTTP/1.1\r\n\r\n"), HasSubstr("404"));
  EXPECT_THAT(Ask(port, "POST /metrics HTTP/1.1\r\n\r\n"), HasSubstr("404"));
  EXPECT_EQ(Ask(port, "GET /metrics"), "");
  EXPECT_EQ(Ask(port, std::string(20000, 'x')).find("200"), std::string::npos);
  EXPECT_THAT(Ask(port, "GET /metrics HTTP/1.1\r\n\r\n"), HasSubstr("count 3"));
}

TEST(HttpPageTest, NamesAnAddressThatIsTakenOrMalformed) {
  auto page = HttpPage::Serve("127.0.0.1:0", "/", [] { return ""; });
  ASSERT_TRUE(page.ok()) << page.status();
  const std::string taken = absl::StrCat("127.0.0.1:", (*page)->port());
  auto second = HttpPage::Serve(taken, "/", [] { return ""; });
  EXPECT_TRUE(absl::IsUnavailable(second.status()));
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(taken));
  for (const char* bad : {"127.0.0.1:", "127.0.0.1:http", "", "no.host.:1:2"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(
        HttpPage::Serve(bad, "/", [] { return ""; }).status()))
        << bad;
  }
}

}  // namespace
}  // namespace bitwright
