#include "worker/runtime/worker.h"

#include <atomic>
#include <functional>
#include <memory>
#include <thread>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/worker/runtime/fake_server.h"

namespace bitwright {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Does whatever the test says.
class FakeRunner : public TaskRunner {
 public:
  std::function<absl::Status(const v1::LeasedTask&, TaskControl*)> compute;
  std::atomic<int> computed = 0, prefetched = 0;

  absl::StatusOr<ComputedTask> Compute(const v1::LeasedTask& task,
                                       TaskControl* control) override {
    ++computed;
    if (compute) {
      if (absl::Status s = compute(task, control); !s.ok()) return s;
    }
    ComputedTask result;
    result.summary.mutable_quantize()->set_loss(2.5);
    return result;
  }
  absl::StatusOr<std::vector<v1::NamedBlob>> Upload(
      const ComputedTask&) override {
    v1::NamedBlob blob;
    blob.set_name("linear");
    return std::vector<v1::NamedBlob>{blob};
  }
  void Prefetch(const v1::LeasedTask&) override { ++prefetched; }
};

class WorkerTest : public testing::Test {
 protected:
  ~WorkerTest() override { Finish(); }

  void Start(WorkerOptions options = {}) {
    options.name = "w";
    options.lease_wait = absl::Milliseconds(20);
    worker_ = std::make_unique<Worker>(&server_, &runner_, &patience_,
                                       &metrics_, std::move(options));
    thread_ = std::thread([this] { status_ = worker_->Run(); });
  }
  void Finish(absl::Duration timeout = absl::Seconds(10)) {
    if (!thread_.joinable()) return;
    worker_->Drain(timeout);
    thread_.join();
  }
  template <typename F>
  void Locked(F f) {
    absl::MutexLock lock(&server_.mutex);
    f();
  }

  FakeServer server_;
  FakeRunner runner_;
  WorkerMetrics metrics_;
  Patience patience_{absl::InfiniteDuration(), absl::Milliseconds(1)};
  std::unique_ptr<Worker> worker_;
  std::thread thread_;
  absl::Status status_;
};

// A task that computes until it is told to stop.
absl::Status UntilCancelled(const v1::LeasedTask&, TaskControl* control) {
  while (!control->cancelled()) absl::SleepFor(absl::Milliseconds(1));
  return control->Check();
}

TEST_F(WorkerTest, ComputesAndReportsAllTasks) {
  for (const char* name : {"a", "b", "c"}) server_.AddTask(name);
  Start();
  EXPECT_TRUE(server_.WaitFor([&] { return server_.completed.size() == 3; }));
  Finish();
  EXPECT_TRUE(status_.ok()) << status_;
  EXPECT_EQ(server_.completed[0].lease().task(), "a");
  EXPECT_EQ(server_.completed[0].lease().lease_epoch(), 1);
  EXPECT_EQ(server_.completed[0].outputs(0).name(), "linear");
  EXPECT_EQ(server_.completed[0].summary().quantize().loss(), 2.5);
  EXPECT_EQ(server_.closed, 1);
  EXPECT_THAT(metrics_.Render(),
              HasSubstr("bitwright_worker_tasks_total{kind=\"quantize\","
                        "outcome=\"succeeded\"} 3"));
}

TEST_F(WorkerTest, FailuresAreToldWithWhetherARetryMayHelp) {
  runner_.compute = [](const v1::LeasedTask& task, TaskControl*) {
    return task.task() == "a" ? absl::InvalidArgumentError("bad text")
                              : absl::ResourceExhaustedError("disk full");
  };
  server_.AddTask("a");
  server_.AddTask("b");
  Start();
  EXPECT_TRUE(server_.WaitFor([&] { return server_.failed.size() == 2; }));
  Finish();
  EXPECT_FALSE(server_.failed[0].retryable());
  EXPECT_EQ(server_.failed[0].error().message(), "bad text");
  EXPECT_EQ(server_.failed[0].error().code(), 3);
  EXPECT_TRUE(server_.failed[1].retryable());
}

TEST_F(WorkerTest, ARefusedResultIsRetryable) {
  server_.complete_status = absl::FailedPreconditionError("blob is missing");
  server_.AddTask("a");
  Start();
  EXPECT_TRUE(server_.WaitFor([&] { return server_.failed.size() == 1; }));
  EXPECT_TRUE(server_.failed[0].retryable());
}

TEST_F(WorkerTest, AFencedResultIsDroppedSilently) {
  server_.complete_status = absl::AbortedError("stale epoch");
  server_.AddTask("a");
  server_.AddTask("b");
  Start();
  EXPECT_TRUE(server_.WaitFor([&] { return server_.renewals > 3; }));
  Finish();
  EXPECT_TRUE(server_.failed.empty());
  EXPECT_TRUE(server_.released.empty());
}

TEST_F(WorkerTest, ALostLeaseStopsTheTaskAndTheNextOneRuns) {
  runner_.compute = [](const v1::LeasedTask& task, TaskControl* control) {
    return task.task() == "a" ? UntilCancelled(task, control)
                              : absl::OkStatus();
  };
  server_.lose = {"a"};
  server_.AddTask("a");
  server_.AddTask("b");
  Start();
  EXPECT_TRUE(server_.WaitFor([&] { return server_.completed.size() == 1; }));
  Finish();
  EXPECT_EQ(server_.completed[0].lease().task(), "b");
  EXPECT_TRUE(server_.failed.empty());
}

TEST_F(WorkerTest, AForgottenSessionIsOpenedAgain) {
  runner_.compute = [](const v1::LeasedTask& task, TaskControl* control) {
    return task.task() == "a" ? UntilCancelled(task, control)
                              : absl::OkStatus();
  };
  server_.AddTask("a");
  Start();
  EXPECT_TRUE(server_.WaitFor([&] { return server_.renewals > 0; }));
  Locked([&] { server_.forget_session = true; });
  server_.AddTask("b");
  EXPECT_TRUE(server_.WaitFor([&] { return server_.completed.size() == 1; }));
  EXPECT_EQ(server_.completed[0].lease().task(), "b");
}

TEST_F(WorkerTest, WaitsForAServerThatIsAway) {
  server_.away = true;
  server_.AddTask("a");
  Start();
  absl::SleepFor(absl::Milliseconds(30));
  Locked([&] { server_.away = false; });
  EXPECT_TRUE(server_.WaitFor([&] { return server_.completed.size() == 1; }));
}

TEST_F(WorkerTest, GivesUpWhenTold) {
  server_.away = true;
  WorkerOptions options;
  options.give_up_after = absl::Milliseconds(30);
  Start(options);
  thread_.join();
  EXPECT_TRUE(absl::IsUnavailable(status_));
}

TEST_F(WorkerTest, ReportsAResultOnceTheServerIsBack) {
  runner_.compute = [this](const v1::LeasedTask&, TaskControl*) {
    Locked([&] { server_.away = true; });
    return absl::OkStatus();
  };
  server_.AddTask("a");
  Start();
  EXPECT_TRUE(server_.WaitFor([&] { return server_.away; }));
  absl::SleepFor(absl::Milliseconds(20));
  Locked([&] { server_.away = false; });
  EXPECT_TRUE(server_.WaitFor([&] { return server_.completed.size() == 1; }));
}

TEST_F(WorkerTest, DrainFinishesTheRunningTaskAndGivesBackTheRest) {
  std::atomic<bool> go = false;
  runner_.compute = [&](const v1::LeasedTask&, TaskControl*) {
    while (!go) absl::SleepFor(absl::Milliseconds(1));
    return absl::OkStatus();
  };
  server_.AddTask("a");
  server_.AddTask("b");
  WorkerOptions options;
  options.lease_ahead = 1;
  Start(options);
  EXPECT_TRUE(server_.WaitFor([&] { return server_.renewals > 0; }));
  while (runner_.computed == 0) absl::SleepFor(absl::Milliseconds(1));
  worker_->Drain(absl::Seconds(20));
  go = true;
  Finish();
  EXPECT_TRUE(status_.ok()) << status_;
  ASSERT_EQ(server_.completed.size(), 1u);
  EXPECT_EQ(server_.completed[0].lease().task(), "a");
  EXPECT_THAT(server_.released, ElementsAre("b"));
  EXPECT_EQ(runner_.prefetched, 1);
}

TEST_F(WorkerTest, DrainGivesBackATaskThatTakesTooLong) {
  runner_.compute = UntilCancelled;
  server_.AddTask("a");
  std::atomic<bool> expired = false;
  WorkerOptions options;
  options.on_drain_expired = [&] { expired = true; };
  Start(options);
  EXPECT_TRUE(server_.WaitFor([&] { return server_.renewals > 0; }));
  Finish(absl::Milliseconds(30));
  EXPECT_TRUE(status_.ok()) << status_;
  EXPECT_TRUE(expired);
  EXPECT_TRUE(server_.failed.empty());
  ASSERT_FALSE(server_.released.empty());
  EXPECT_EQ(server_.released[0], "a");
}

TEST_F(WorkerTest, DrainDoesNotWaitForAServerThatIsAway) {
  server_.away = true;
  Start();
  absl::SleepFor(absl::Milliseconds(20));
  Finish(absl::Seconds(60));
  EXPECT_TRUE(status_.ok()) << status_;
}

}  // namespace
}  // namespace bitwright
