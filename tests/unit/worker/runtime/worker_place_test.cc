#include "worker/runtime/worker_place.h"

#include <optional>
#include <thread>

#include "absl/time/clock.h"
#include "common/base/file.h"
#include "gtest/gtest.h"

namespace bitwright {
namespace {

class WorkerPlaceTest : public testing::Test {
 protected:
  absl::StatusOr<WorkerPlace> Open(absl::Duration handover) {
    return OpenWorkerPlace(directory_.path(), 100, handover, stop_);
  }

  TempDirectory directory_ = *TempDirectory::Create("place-");
  absl::Notification stop_;
};

TEST_F(WorkerPlaceTest, WaitsForAWorkerThatIsLeaving) {
  std::optional<WorkerPlace> before = *Open(absl::ZeroDuration());
  std::thread leaving([&] {
    absl::SleepFor(absl::Milliseconds(200));
    before.reset();
  });
  const auto place = Open(absl::Seconds(60));
  leaving.join();
  ASSERT_TRUE(place.ok()) << place.status();
  EXPECT_FALSE(place->name.empty());
}

TEST_F(WorkerPlaceTest, OneThatStaysIsAnError) {
  const auto before = Open(absl::ZeroDuration());
  ASSERT_TRUE(before.ok());
  EXPECT_TRUE(
      absl::IsFailedPrecondition(Open(absl::Milliseconds(100)).status()));
}

TEST_F(WorkerPlaceTest, WaitingCanBeStopped) {
  const auto before = Open(absl::ZeroDuration());
  ASSERT_TRUE(before.ok());
  std::thread stopping([&] {
    absl::SleepFor(absl::Milliseconds(100));
    stop_.Notify();
  });
  EXPECT_TRUE(
      absl::IsFailedPrecondition(Open(absl::InfiniteDuration()).status()));
  stopping.join();
}

}  // namespace
}  // namespace bitwright
