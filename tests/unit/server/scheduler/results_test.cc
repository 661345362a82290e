// Results: fencing, replay, conflicts, missing blobs.
#include "absl/strings/match.h"
#include "tests/unit/server/scheduler/service.h"

namespace bitwright {
namespace {

TEST(Results, LateOnesChangeNothing) {
  Service s;
  const std::string job = s.Submit(s.Spec());
  const std::string slow = s.OpenSession("slow"),
                    quick = s.OpenSession("quick");
  const v1::LeasedTask old = s.Lease(slow);
  s.clock.Advance(absl::Seconds(31));
  ASSERT_OK(s.scheduler->Reap());
  EXPECT_EQ(s.Complete(slow, old).code(),
            absl::StatusCode::kAborted);  // Not leased.
  const v1::LeasedTask fresh = s.Lease(quick);
  ASSERT_EQ(fresh.task(), old.task());
  const v1::Job before = ValueOf(s.scheduler->GetJob(job));
  EXPECT_EQ(s.Complete(slow, old).code(),
            absl::StatusCode::kAborted);  // Leased to another.
  EXPECT_EQ(s.Fail(slow, old, true).code(), absl::StatusCode::kAborted);
  EXPECT_EQ(ValueOf(s.scheduler->GetJob(job)).SerializeAsString(),
            before.SerializeAsString());
  EXPECT_EQ(s.GetTask(old.task()).worker(), "quick");
  ASSERT_OK(s.Complete(quick, fresh));
  EXPECT_EQ(s.Complete(slow, old).code(),
            absl::StatusCode::kAborted);  // Done by another.
  EXPECT_EQ(s.scheduler->stats().stale_results, 3);
}

TEST(Results, ExpiredButNotYetRetakenStillCounts) {
  Service s;
  s.Submit(s.Spec());
  const std::string a = s.OpenSession("a");
  const v1::LeasedTask task = s.Lease(a);
  s.clock.Advance(absl::Seconds(31));
  EXPECT_OK(s.Complete(a, task));
}

TEST(Results, EpochAloneIsNotEnoughToHoldALease) {
  Service s;
  s.Submit(s.Spec());
  const v1::LeasedTask task = s.Lease(s.OpenSession("a"));
  EXPECT_EQ(s.Complete(s.OpenSession("b"), task).code(),
            absl::StatusCode::kAborted);
}

TEST(Results, TheSameTwiceIsFineAndRecordedOnce) {
  Service s;
  const std::string job = s.Submit(s.Spec());
  const std::string a = s.OpenSession("a");
  const v1::LeasedTask task = s.Lease(a);
  ASSERT_OK(s.Complete(a, task));
  const int64_t sequence = ValueOf(s.scheduler->GetJob(job)).sequence();
  ASSERT_OK(s.Complete(a, task));
  EXPECT_EQ(ValueOf(s.scheduler->GetJob(job)).sequence(), sequence);
  EXPECT_EQ(s.scheduler->stats().tasks_completed, 1);
  EXPECT_EQ(ValueOf(s.scheduler->ListWorkers()).workers(0).completed_tasks(),
            1);
  s.WorkUntilIdle(a);
  ASSERT_OK(s.Complete(a, task));
  EXPECT_EQ(s.State(job), v1::JOB_STATE_SUCCEEDED);
}

TEST(Results, AnotherResultForAReplayIsDataLoss) {
  Service s;
  s.Submit(s.Spec());
  const std::string a = s.OpenSession("a");
  const v1::LeasedTask task = s.Lease(a);
  v1::CompleteTaskRequest result = s.Result(a, task);
  ASSERT_OK(s.scheduler->CompleteTask(result));
  *result.mutable_outputs(0)->mutable_digest() = s.blobs.Put("something else");
  EXPECT_EQ(s.scheduler->CompleteTask(result).code(),
            absl::StatusCode::kDataLoss);
  EXPECT_EQ(s.scheduler->stats().conflicting_results, 1);
}

TEST(Results, ConflictWithAnotherJobsResultIsReportedAndTheRecordStays) {
  Service s;
  const std::string first = s.Submit(s.Spec(3)), second = s.Submit(s.Spec(4));
  const std::string a = s.OpenSession("a"), b = s.OpenSession("b");
  const std::vector<v1::LeasedTask> tasks =
      ValueOf(s.scheduler->LeaseTasks(a, 3));
  ASSERT_EQ(tasks[0].action_digest(), tasks[2].action_digest());
  const v1::CompleteTaskRequest good = s.Result(a, tasks[0]);
  ASSERT_OK(s.scheduler->CompleteTask(good));
  v1::CompleteTaskRequest bad = s.Result(a, tasks[2]);
  *bad.mutable_outputs(0)->mutable_digest() = s.blobs.Put("a cosmic ray");
  const absl::Status status = s.scheduler->CompleteTask(bad);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(absl::StrContains(status.message(), tasks[2].task())) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), tasks[2].action_digest()))
      << status;
  EXPECT_EQ(s.scheduler->stats().conflicting_results, 1);
  const v1::Task task = s.GetTask(tasks[2].task());
  EXPECT_EQ(task.state(), v1::TASK_STATE_CACHED);
  EXPECT_EQ(task.errors_size(), 1);
  s.WorkUntilIdle(
      b);  // Uses the record's windows: Result checks that all inputs exist.
  ASSERT_OK(
      s.scheduler->CloseSession(a));  // It still held the evaluation's windows.
  s.WorkUntilIdle(b);
  EXPECT_EQ(s.State(first), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(s.State(second), v1::JOB_STATE_SUCCEEDED);
}

TEST(Results, TheSameActionInTwoJobsAtOnceIsFine) {
  Service s;
  s.Submit(s.Spec(3));
  s.Submit(s.Spec(4));
  const std::string a = s.OpenSession("a");
  for (const v1::LeasedTask& task : ValueOf(s.scheduler->LeaseTasks(a, 4))) {
    EXPECT_OK(s.Complete(a, task));
  }
  EXPECT_EQ(s.scheduler->stats().tasks_completed, 4);
  EXPECT_EQ(s.scheduler->stats().conflicting_results, 0);
}

TEST(Results, MissingBlobsAreNamedAndNothingChanges) {
  Service s;
  s.Submit(s.Spec());
  const std::string a = s.OpenSession("a");
  const v1::LeasedTask task = s.Lease(a);
  const v1::CompleteTaskRequest result = s.Result(a, task);
  ASSERT_OK(s.blobs.Delete(ToDigest(result.outputs(0).digest())));
  const absl::Status status = s.scheduler->CompleteTask(result);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(
      absl::StrContains(status.message(), result.outputs(0).digest().sha256()))
      << status;
  EXPECT_TRUE(absl::StrContains(status.message(), task.task())) << status;
  EXPECT_EQ(s.GetTask(task.task()).state(), v1::TASK_STATE_RUNNING);
  EXPECT_OK(s.Complete(a, task));  // Uploads it first.
}

TEST(Results, WithoutAnOutputThatIsNeededTheyAreRefused) {
  Service s;
  s.Submit(s.Spec());
  const std::string a = s.OpenSession("a");
  const v1::LeasedTask task = s.Lease(a);
  v1::CompleteTaskRequest result = s.Result(a, task);
  result.mutable_outputs(0)->set_name("door");
  const absl::Status status = s.scheduler->CompleteTask(result);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(absl::StrContains(status.message(), "\"windows\"")) << status;
  EXPECT_EQ(s.GetTask(task.task()).state(), v1::TASK_STATE_RUNNING);
  EXPECT_OK(s.Complete(a, task));
}

TEST(Results, MalformedOnesAreInvalid) {
  Service s;
  s.Submit(s.Spec());
  const std::string a = s.OpenSession("a");
  const v1::LeasedTask task = s.Lease(a);
  v1::CompleteTaskRequest result = s.Result(a, task);
  *result.add_outputs() = result.outputs(0);
  EXPECT_EQ(s.scheduler->CompleteTask(result).code(),
            absl::StatusCode::kInvalidArgument);
  result.mutable_outputs(1)->mutable_digest()->set_sha256("XYZ");
  EXPECT_EQ(s.scheduler->CompleteTask(result).code(),
            absl::StatusCode::kInvalidArgument);
  result = s.Result(a, task);
  result.mutable_lease()->set_task("prepare");
  EXPECT_EQ(s.scheduler->CompleteTask(result).code(),
            absl::StatusCode::kInvalidArgument);
  result.mutable_lease()->set_task("jobs/none/tasks/prepare");
  EXPECT_EQ(s.scheduler->CompleteTask(result).code(),
            absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace bitwright
