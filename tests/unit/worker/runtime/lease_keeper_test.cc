#include "worker/runtime/lease_keeper.h"

#include <memory>

#include "gtest/gtest.h"
#include "tests/unit/worker/runtime/fake_server.h"

namespace bitwright {
namespace {

class LeaseKeeperTest : public testing::Test {
 protected:
  v1::Session OpenSession() { return *server_.OpenSession({}); }
  static v1::LeasedTask Task(const std::string& name) {
    v1::LeasedTask task;
    task.set_task(name);
    task.set_lease_epoch(3);
    return task;
  }

  FakeServer server_;
  LeaseKeeper keeper_{&server_};
};

TEST_F(LeaseKeeperTest, RenewsByItselfAndTellsHowFarTasksAre) {
  auto control = std::make_shared<TaskControl>();
  control->SetFraction(0.25);
  control->SetNote("loss 3");
  keeper_.Start(OpenSession());
  keeper_.Add(Task("t"), control);
  EXPECT_TRUE(server_.WaitFor(
      [&] { return server_.renewals >= 3 && server_.fractions["t"] == 0.25; }));
  {
    absl::MutexLock lock(&server_.mutex);
    EXPECT_EQ(server_.notes["t"], "loss 3");
  }
  EXPECT_FALSE(control->cancelled());
}

TEST_F(LeaseKeeperTest, CancelsOnlyTheTaskWhoseLeaseIsLost) {
  auto lost = std::make_shared<TaskControl>();
  auto kept = std::make_shared<TaskControl>();
  server_.lease_duration = absl::Milliseconds(900);
  keeper_.Start(OpenSession());
  keeper_.Add(Task("lost"), lost);
  keeper_.Add(Task("kept"), kept);
  EXPECT_TRUE(keeper_.RenewOnce());
  EXPECT_FALSE(lost->cancelled());
  {
    absl::MutexLock lock(&server_.mutex);
    server_.lose = {"lost"};
  }
  EXPECT_TRUE(keeper_.RenewOnce());
  EXPECT_TRUE(lost->cancelled());
  EXPECT_FALSE(kept->cancelled());
}

TEST_F(LeaseKeeperTest, RemovedTasksAreNotRenewed) {
  server_.lease_duration = absl::Milliseconds(900);
  keeper_.Start(OpenSession());
  keeper_.Add(Task("t"), std::make_shared<TaskControl>());
  keeper_.Remove(Task("t"));
  EXPECT_TRUE(keeper_.RenewOnce());
  absl::MutexLock lock(&server_.mutex);
  EXPECT_TRUE(server_.fractions.empty());
}

TEST_F(LeaseKeeperTest, AServerThatIsAwayCancelsNothing) {
  auto control = std::make_shared<TaskControl>();
  keeper_.Start(OpenSession());
  keeper_.Add(Task("t"), control);
  {
    absl::MutexLock lock(&server_.mutex);
    server_.away = true;
  }
  EXPECT_FALSE(keeper_.RenewOnce());
  EXPECT_FALSE(control->cancelled());
  EXPECT_FALSE(keeper_.session_lost());
}

TEST_F(LeaseKeeperTest, AForgottenSessionCancelsAll) {
  auto control = std::make_shared<TaskControl>();
  server_.lease_duration = absl::Milliseconds(900);
  keeper_.Start(OpenSession());
  keeper_.Add(Task("t"), control);
  {
    absl::MutexLock lock(&server_.mutex);
    server_.forget_session = true;
  }
  keeper_.RenewOnce();
  EXPECT_TRUE(keeper_.session_lost());
  EXPECT_TRUE(control->cancelled());
  auto late = std::make_shared<TaskControl>();
  keeper_.Add(Task("u"), late);
  EXPECT_TRUE(late->cancelled());
}

TEST_F(LeaseKeeperTest, CancelAllReturnsTheLeases) {
  auto control = std::make_shared<TaskControl>();
  keeper_.Start(OpenSession());
  keeper_.Add(Task("t"), control);
  auto leases = keeper_.CancelAll();
  ASSERT_EQ(leases.size(), 1u);
  EXPECT_EQ(leases[0].task(), "t");
  EXPECT_EQ(leases[0].lease_epoch(), 3);
  EXPECT_TRUE(control->cancelled());
}

}  // namespace
}  // namespace bitwright
