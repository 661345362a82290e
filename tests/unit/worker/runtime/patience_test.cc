#include "worker/runtime/patience.h"

#include <thread>

#include "absl/time/clock.h"
#include "gtest/gtest.h"

namespace bitwright {
namespace {

TEST(PatienceTest, RepeatsWhileTheServerIsAway) {
  Patience patience(absl::InfiniteDuration(), absl::Milliseconds(1));
  int calls = 0;
  EXPECT_TRUE(patience
                  .Retry("test",
                         [&] {
                           return ++calls < 4 ? absl::UnavailableError("away")
                                              : absl::OkStatus();
                         })
                  .ok());
  EXPECT_EQ(calls, 4);
}

TEST(PatienceTest, OtherErrorsComeBackAtOnce) {
  Patience patience(absl::InfiniteDuration(), absl::Milliseconds(1));
  int calls = 0;
  EXPECT_TRUE(absl::IsAborted(patience.Retry("test", [&] {
    ++calls;
    return absl::AbortedError("stale");
  })));
  EXPECT_EQ(calls, 1);
}

TEST(PatienceTest, GivesUp) {
  Patience patience(absl::Milliseconds(20), absl::Milliseconds(1));
  EXPECT_TRUE(absl::IsUnavailable(
      patience.Retry("test", [] { return absl::UnavailableError("away"); })));
}

TEST(PatienceTest, StopsInTheMiddleOfAPause) {
  Patience patience(absl::InfiniteDuration(), absl::Hours(1));
  std::thread stopper([&] {
    absl::SleepFor(absl::Milliseconds(20));
    patience.StopAt(absl::Now() + absl::Milliseconds(20));
  });
  EXPECT_TRUE(absl::IsUnavailable(
      patience.Retry("test", [] { return absl::UnavailableError("away"); })));
  stopper.join();
}

}  // namespace
}  // namespace bitwright
