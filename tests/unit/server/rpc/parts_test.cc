// The small parts of server/rpc by themselves.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>

#include "absl/time/clock.h"
#include "common/base/file.h"
#include "server/rpc/digest_cache.h"
#include "server/rpc/listen_address.h"
#include "server/rpc/server_options.h"
#include "server/rpc/wakeable_loop.h"

namespace bitwright {
namespace {

TEST(ListenAddressTest, Parses) {
  struct Case {
    const char* text;
    bool local;
  };
  for (const Case& c :
       {Case{"127.0.0.1:80", true}, Case{"localhost:0", true},
        Case{"[::1]:80", true}, Case{"unix:/run/bw.sock", true},
        Case{"127.8.9.1:80", true}, Case{"10.0.0.1:80", false},
        Case{"[::]:80", false}, Case{"127.evil.org.x:80", false},
        Case{"host:65535", false}}) {
    auto address = ListenAddress::Parse(c.text);
    ASSERT_TRUE(address.ok()) << c.text;
    EXPECT_EQ(address->is_local(), c.local) << c.text;
    EXPECT_EQ(address->ToString(), c.text);
  }
  EXPECT_EQ(ListenAddress::Parse("unix:///run/bw.sock")->ToString(),
            "unix:/run/bw.sock");
  for (const char* bad :
       {"", "host", ":80", "host:", "host:x", "host:70000", "host:-1",
        "unix:", "::1:80", "dns:host:80", "unix-abstract:x"}) {
    EXPECT_FALSE(ListenAddress::Parse(bad).ok()) << bad;
  }
  EXPECT_FALSE(ListenAddress::Parse("unix:/" + std::string(120, 'x')).ok());
}

TEST(DigestCacheTest, RemembersUntilTheFileChanges) {
  TempDirectory directory = TempDirectory::Create("digests").value();
  const std::string file = directory.path() + "/file";
  ASSERT_TRUE(WriteFileAtomically(file, "one").ok());
  DigestCache cache = DigestCache::Open(directory.path() + "/cache").value();
  auto never = [] { return false; };
  auto always = [] { return true; };
  EXPECT_EQ(cache.DigestOf(file, always).status().code(),
            absl::StatusCode::kCancelled);
  EXPECT_EQ(cache.DigestOf(file, never).value(), DigestOf("one"));
  // Known: not read again, so there is nothing to stop.
  DigestCache again = DigestCache::Open(directory.path() + "/cache").value();
  EXPECT_EQ(again.DigestOf(file, always).value(), DigestOf("one"));
  ASSERT_TRUE(WriteFileAtomically(file, "two").ok());
  EXPECT_EQ(again.DigestOf(file, never).value(), DigestOf("two"));
  EXPECT_EQ(cache.DigestOf(directory.path() + "/none", never).status().code(),
            absl::StatusCode::kNotFound);
}

TEST(WakeableLoopTest, RunsAtOnceWhenWokenAndAfterAWhile) {
  std::atomic<int> runs{0};
  WakeableLoop loop([&] {
    ++runs;
    return WakeableLoop::Next{.latest = absl::Hours(1)};
  });
  auto await = [&](int n) {
    for (int i = 0; i < 500 && runs < n; ++i) {
      absl::SleepFor(absl::Milliseconds(10));
    }
    return runs.load();
  };
  EXPECT_EQ(await(1), 1);
  loop.Wake();
  EXPECT_EQ(await(2), 2);
  loop.Stop();
  loop.Wake();
  EXPECT_EQ(runs, 2);
  std::atomic<int> ticks{0};
  WakeableLoop periodic([&] {
    ++ticks;
    return WakeableLoop::Next{.latest = absl::Milliseconds(10)};
  });
  for (int i = 0; i < 500 && ticks < 3; ++i) {
    absl::SleepFor(absl::Milliseconds(10));
  }
  EXPECT_GE(ticks, 3);
}

TEST(WakeableLoopTest, WakingDoesNotOutrunThePause) {
  std::atomic<int> runs{0};
  WakeableLoop loop([&] {
    ++runs;
    return WakeableLoop::Next{.earliest = absl::Milliseconds(200),
                              .latest = absl::Hours(1)};
  });
  const absl::Time end = absl::Now() + absl::Milliseconds(500);
  while (absl::Now() < end) {
    loop.Wake();
    absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_LE(runs, 4);
  EXPECT_GE(runs, 1);
}

TEST(ServerOptionsTest, FlagsAndEnvironment) {
  setenv("BITWRIGHT_MAX_ATTEMPTS", "7", 1);
  setenv("BITWRIGHT_LEASE_DURATION", "10s", 1);
  ServerOptions options;
  const char* argv[] = {
      "bitwright-server", "--listen", "unix:/a",     "--listen", "[::1]:5",
      "--lease-duration", "1m",       "--state-dir", "/s"};
  EXPECT_EQ(ParseServerOptions(9, argv, &options), std::nullopt);
  EXPECT_THAT(options.listen, ::testing::ElementsAre("unix:/a", "[::1]:5"));
  EXPECT_EQ(options.scheduler.max_attempts, 7);
  EXPECT_EQ(options.scheduler.lease_duration, absl::Minutes(1));
  EXPECT_TRUE(options.model_roots.empty());
  unsetenv("BITWRIGHT_MAX_ATTEMPTS");
  unsetenv("BITWRIGHT_LEASE_DURATION");
  for (const char* bad : {"--nonsense", "--lease-duration=x",
                          "--max-attempts=0", "--log-level=loud"}) {
    const char* bad_argv[] = {"bitwright-server", bad};
    ServerOptions unused;
    EXPECT_EQ(ParseServerOptions(2, bad_argv, &unused), 3) << bad;
  }
}

TEST(ServerOptionsTest, AnnouncesWhenReady) {
  TempDirectory directory = TempDirectory::Create("ready").value();
  ServerOptions options;
  options.ready_file = directory.path() + "/ready";
  int pipe_fds[2];
  ASSERT_EQ(pipe(pipe_fds), 0);
  options.ready_fd = pipe_fds[1];
  ASSERT_TRUE(AnnounceReady(options, {"a:1", "b:2"}).ok());
  char buffer[100];
  EXPECT_EQ(std::string(buffer, read(pipe_fds[0], buffer, 100)), "a:1\nb:2\n");
  EXPECT_EQ(ReadFile(options.ready_file).value(), "a:1\nb:2\n");
  close(pipe_fds[0]);
}

}  // namespace
}  // namespace bitwright
