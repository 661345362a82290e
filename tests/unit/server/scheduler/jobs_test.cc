// Jobs as people see them: create, plan, run, cancel, retry, delete, list.
#include <algorithm>
#include <cmath>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/unit/server/scheduler/service.h"

namespace bitwright {
namespace {

TEST(Jobs, RunsFromStartToEnd) {
  Service s;
  const std::string job = s.Submit(s.Spec(), "request-1");
  EXPECT_EQ(s.State(job), v1::JOB_STATE_RUNNING);
  const std::string session = s.OpenSession("w1");
  // prepare x 2, then per block 2 forwards and 7 linears, finalize, 8
  // evaluations.
  EXPECT_EQ(s.WorkUntilIdle(session), 2 + 2 * (2 + 7) + 1 + 8);
  const v1::Job done = ValueOf(s.scheduler->GetJob(job));
  EXPECT_EQ(done.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(done.request_id(), "request-1");
  EXPECT_TRUE(done.has_start_time() && done.has_end_time());
  ASSERT_EQ(done.phases_size(), 5);
  EXPECT_EQ(done.phases(1).kind(), v1::TASK_KIND_FORWARD);
  EXPECT_EQ(done.phases(1).total(), 4);
  EXPECT_EQ(done.phases(2).total(), 14);
  for (const v1::PhaseProgress& phase : done.phases()) {
    EXPECT_EQ(phase.done(), phase.total());
    EXPECT_EQ(phase.cached(), 0);
    EXPECT_EQ(phase.running(), 0);
  }
  EXPECT_DOUBLE_EQ(done.result().file_bits_per_weight(), 3.25);
  EXPECT_DOUBLE_EQ(done.result().perplexity_before().perplexity(),
                   std::exp(2.0));
  EXPECT_EQ(done.result().perplexity_after().tokens(), 4 * 63);
  EXPECT_EQ(done.result().perplexity_after().windows(), 4);
  EXPECT_EQ(done.result().perplexity_after().seqlen(), 64);

  const v1::Checkpoint checkpoint =
      ValueOf(s.scheduler->GetCheckpoint(done.result().checkpoint()));
  EXPECT_EQ(checkpoint.job(), job);
  ASSERT_EQ(checkpoint.manifest().files_size(), 2);
  EXPECT_EQ(checkpoint.manifest().files(0).path(), "config.json");
  EXPECT_EQ(checkpoint.manifest().files(1).path(), "model.safetensors");
  EXPECT_EQ(checkpoint.manifest().format(), v1::FORMAT_NATIVE);
  EXPECT_TRUE(*s.blobs.Has(ToDigest(checkpoint.manifest().files(1).digest())));
  EXPECT_EQ(ValueOf(s.scheduler->ListCheckpoints({})).checkpoints_size(), 1);
  EXPECT_EQ(s.scheduler->stats().damping_retries, 14);
}

TEST(Jobs, FinalizingBeginsWhenOnlyFinalizeAndEvaluationAreLeft) {
  Service s;
  const std::string job = s.Submit(s.Spec());
  const std::string session = s.OpenSession("w1");
  for (;;) {
    const v1::LeasedTask task = s.Lease(session);
    ASSERT_FALSE(task.task().empty());
    if (task.action().kind() == v1::TASK_KIND_FINALIZE) break;
    EXPECT_EQ(s.State(job), v1::JOB_STATE_RUNNING);
    ASSERT_OK(s.Complete(session, task));
  }
  EXPECT_EQ(s.State(job), v1::JOB_STATE_FINALIZING);
}

TEST(Jobs, SequenceGrowsWithEveryChangeAndOnChangeIsCalled) {
  Service s;
  const std::string job = s.Submit(s.Spec());
  const std::string session = s.OpenSession("w1");
  int64_t sequence = ValueOf(s.scheduler->GetJob(job)).sequence();
  for (int i = 0; i < 5; ++i) {
    int changes = s.changes;
    const v1::LeasedTask task = s.Lease(session);
    EXPECT_GT(s.changes, changes);
    EXPECT_GT(ValueOf(s.scheduler->GetJob(job)).sequence(), sequence);
    sequence = ValueOf(s.scheduler->GetJob(job)).sequence();
    changes = s.changes;
    ASSERT_OK(s.Complete(session, task));
    EXPECT_GT(s.changes, changes);
    EXPECT_GT(ValueOf(s.scheduler->GetJob(job)).sequence(), sequence);
    sequence = ValueOf(s.scheduler->GetJob(job)).sequence();
  }
}

TEST(Jobs, CreateIsIdempotentByRequestId) {
  Service s;
  const v1::Job first = ValueOf(s.scheduler->CreateJob(s.Spec(), "r"));
  EXPECT_EQ(ValueOf(s.scheduler->CreateJob(s.Spec(), "r")).name(),
            first.name());
  s.PlanAll();  // The stored spec now has files; the request is still the same.
  EXPECT_EQ(ValueOf(s.scheduler->CreateJob(s.Spec(), "r")).name(),
            first.name());
  const absl::Status other = s.scheduler->CreateJob(s.Spec(4), "r").status();
  EXPECT_EQ(other.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(absl::StrContains(other.message(), first.name())) << other;
  EXPECT_NE(ValueOf(s.scheduler->CreateJob(s.Spec(), "")).name(), first.name());
  EXPECT_EQ(ValueOf(s.scheduler->ListJobs({})).jobs_size(), 2);
}

TEST(Jobs, PlanningIsHandedOutOldestFirstAndAgainAfterARestart) {
  Service s;
  const std::string first =
      ValueOf(s.scheduler->CreateJob(s.Spec(3), "")).name();
  ValueOf(s.scheduler->CreateJob(s.Spec(4), ""));
  std::optional<v1::Job> next = ValueOf(s.scheduler->NextToPlan());
  ASSERT_TRUE(next);
  EXPECT_EQ(next->name(), first);
  EXPECT_EQ(next->state(), v1::JOB_STATE_PLANNING);
  s.Restart();
  EXPECT_EQ(ValueOf(s.scheduler->NextToPlan())->name(), first);
  const Plan plan = PlanJob(next->spec(), s.config);
  ASSERT_OK(s.scheduler->AcceptPlan(first, next->spec(), plan));
  const int64_t sequence = ValueOf(s.scheduler->GetJob(first)).sequence();
  ASSERT_OK(
      s.scheduler->AcceptPlan(first, next->spec(), plan));  // A second planner.
  ASSERT_OK(s.scheduler->RejectPlan(first, absl::NotFoundError("late")));
  EXPECT_EQ(ValueOf(s.scheduler->GetJob(first)).sequence(), sequence);
  EXPECT_NE(ValueOf(s.scheduler->NextToPlan())->name(), first);
}

TEST(Jobs, RejectedPlanFailsTheJobAndRetryPlansItAgain) {
  Service s;
  const std::string job = ValueOf(s.scheduler->CreateJob(s.Spec(), "")).name();
  ValueOf(s.scheduler->NextToPlan());
  ASSERT_OK(s.scheduler->RejectPlan(
      job, absl::DataLossError("model.safetensors: truncated")));
  const v1::Job failed = ValueOf(s.scheduler->GetJob(job));
  EXPECT_EQ(failed.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(failed.error().code(),
            static_cast<int>(absl::StatusCode::kDataLoss));
  EXPECT_TRUE(absl::StrContains(failed.error().message(),
                                "model.safetensors: truncated"));
  EXPECT_EQ(ValueOf(s.scheduler->RetryJob(job)).state(), v1::JOB_STATE_PENDING);
  s.PlanAll();
  s.WorkUntilIdle(s.OpenSession("w1"));
  EXPECT_EQ(s.State(job), v1::JOB_STATE_SUCCEEDED);
}

// As an earlier build would have planned it: other versions, and fewer tasks.
void AsBefore(Plan* plan) {
  std::vector<PlannedTask> kept;
  for (PlannedTask& task : plan->tasks) {
    if (absl::StartsWith(task.key, "evaluate-before")) continue;
    if (task.action.kind() == v1::TASK_KIND_QUANTIZE) {
      task.action.set_algorithm_version(task.action.algorithm_version() - 1);
    }
    kept.push_back(std::move(task));
  }
  plan->tasks = std::move(kept);
}

// A server that was upgraded in the middle of a job.
class UpgradeTest : public testing::Test {
 protected:
  // The job is at the first task of another version; `held` is leased.
  void SetUp() override {
    job_ = ValueOf(s_.scheduler->CreateJob(s_.Spec(), "")).name();
    s_.PlanAll(AsBefore);
    session_ = s_.OpenSession("w1");
    ASSERT_OK(s_.Complete(session_, s_.Lease(session_)));
    held_ = s_.Lease(session_);
    ASSERT_EQ(held_.task(), job_ + "/tasks/prepare-evaluation");
    for (int shard = 0; shard < 2; ++shard) {
      const v1::LeasedTask task = s_.Lease(session_);
      ASSERT_EQ(task.action().kind(), v1::TASK_KIND_FORWARD);
      ASSERT_OK(s_.Complete(session_, task));
    }
  }

  void ComesToTheTask() {
    EXPECT_EQ(s_.State(job_), v1::JOB_STATE_RUNNING);
    EXPECT_TRUE(s_.Lease(session_).task().empty());
    EXPECT_EQ(s_.State(job_), v1::JOB_STATE_PENDING);
    EXPECT_EQ(ValueOf(s_.scheduler->GetJob(job_)).phases_size(), 0);
    EXPECT_EQ(s_.Complete(session_, held_).code(), absl::StatusCode::kAborted);
  }

  void EndsWithTheNewPlan() {
    s_.PlanAll();
    EXPECT_EQ(s_.Tasks(job_).size(), 29u);
    EXPECT_EQ(s_.GetTask(job_ + "/tasks/forward-0-1").state(),
              v1::TASK_STATE_CACHED);
    const v1::LeasedTask again = s_.Lease(session_);
    EXPECT_EQ(again.task(), held_.task());
    EXPECT_GT(again.lease_epoch(), held_.lease_epoch());
    EXPECT_EQ(s_.Complete(session_, held_).code(), absl::StatusCode::kAborted);
    ASSERT_OK(s_.Complete(session_, again));
    EXPECT_EQ(s_.WorkUntilIdle(session_), 29 - 4);
    EXPECT_EQ(s_.State(job_), v1::JOB_STATE_SUCCEEDED);
  }

  Service s_;
  std::string job_, session_;
  v1::LeasedTask held_;
};

TEST_F(UpgradeTest, TheJobIsPlannedAnew) {
  ComesToTheTask();
  s_.Restart();
  EndsWithTheNewPlan();
}

TEST_F(UpgradeTest, ACancelledJobIsPlannedAnewByItsRetry) {
  ComesToTheTask();
  EXPECT_EQ(ValueOf(s_.scheduler->CancelJob(job_)).state(),
            v1::JOB_STATE_CANCELLED);
  ValueOf(s_.scheduler->RetryJob(job_));
  held_ = s_.Lease(session_);
  ComesToTheTask();
  EndsWithTheNewPlan();
}

TEST_F(UpgradeTest, AnotherModelIsRefusedAndTheFirstOneTakenUpAgain) {
  ComesToTheTask();
  v1::JobSpec spec = ValueOf(s_.scheduler->NextToPlan())->spec();
  *spec.mutable_model()->mutable_files(0)->mutable_digest() =
      s_.blobs.Put("another config.json");
  const absl::Status refused =
      s_.scheduler->AcceptPlan(job_, spec, PlanJob(spec, s_.config));
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(absl::StrContains(refused.message(), "submit a new job"));
  ASSERT_OK(s_.scheduler->RejectPlan(job_, refused));
  EXPECT_EQ(s_.State(job_), v1::JOB_STATE_FAILED);
  ValueOf(s_.scheduler->RetryJob(job_));
  held_ = s_.Lease(session_);
  ComesToTheTask();
  EndsWithTheNewPlan();
}

TEST_F(UpgradeTest, OtherJobsGoOn) {
  const std::string other = s_.Submit(s_.Spec(4));
  // One of the first job's tasks that is of this build, then one that is not.
  ASSERT_OK(s_.scheduler->CloseSession(session_));
  session_ = s_.OpenSession("w2");
  const std::vector<v1::LeasedTask> leased =
      ValueOf(s_.scheduler->LeaseTasks(session_, 3));
  ASSERT_FALSE(leased.empty());
  for (const v1::LeasedTask& task : leased) {
    EXPECT_TRUE(absl::StartsWith(task.task(), other)) << task.task();
  }
  EXPECT_EQ(s_.State(job_), v1::JOB_STATE_PENDING);
  EXPECT_EQ(s_.State(other), v1::JOB_STATE_RUNNING);
}

TEST(Jobs, PlanWithAMissingSourceIsRefusedWhole) {
  Service s;
  const v1::Job job = ValueOf(s.scheduler->CreateJob(s.Spec(), ""));
  Plan plan = PlanJob(job.spec(), s.config);
  std::swap(plan.tasks.front(), plan.tasks.back());
  EXPECT_EQ(s.scheduler->AcceptPlan(job.name(), job.spec(), plan).code(),
            absl::StatusCode::kInternal);
  EXPECT_TRUE(s.Tasks(job.name()).empty());
  EXPECT_EQ(s.State(job.name()), v1::JOB_STATE_PENDING);
}

TEST(Jobs, CancelWaitsForRunningTasksToBeAcknowledged) {
  Service s;
  const std::string job = s.Submit(s.Spec());
  const std::string session = s.OpenSession("w1");
  const v1::LeasedTask task = s.Lease(session);
  EXPECT_EQ(ValueOf(s.scheduler->CancelJob(job)).state(),
            v1::JOB_STATE_CANCELLING);
  EXPECT_EQ(ValueOf(s.scheduler->CancelJob(job)).state(),
            v1::JOB_STATE_CANCELLING);
  EXPECT_TRUE(s.Lease(session).task().empty());
  v1::RenewLeasesRequest renew;
  renew.set_session(session);
  renew.add_leases()->set_task(task.task());
  renew.mutable_leases(0)->set_lease_epoch(task.lease_epoch());
  EXPECT_EQ(ValueOf(s.scheduler->RenewLeases(renew)).lost_size(), 1);
  EXPECT_EQ(s.State(job), v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(s.Complete(session, task).code(), absl::StatusCode::kAborted);
  for (const v1::Task& t : s.Tasks(job))
    EXPECT_EQ(t.state(), v1::TASK_STATE_CANCELLED);
}

TEST(Jobs, CancelEndsWhenTheLeaseExpires) {
  Service s;
  const std::string job = s.Submit(s.Spec());
  s.Lease(s.OpenSession("w1"));
  ValueOf(s.scheduler->CancelJob(job));
  s.clock.Advance(absl::Seconds(31));
  ASSERT_OK(s.scheduler->Reap());
  EXPECT_EQ(s.State(job), v1::JOB_STATE_CANCELLED);
}

TEST(Jobs, ResultThatComesWhileCancellingIsKeptForARetry) {
  Service s;
  const std::string job = s.Submit(s.Spec());
  const std::string session = s.OpenSession("w1");
  const v1::LeasedTask task = s.Lease(session);
  ValueOf(s.scheduler->CancelJob(job));
  ASSERT_OK(s.Complete(session, task));
  EXPECT_EQ(s.State(job), v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(s.GetTask(task.task()).state(), v1::TASK_STATE_SUCCEEDED);
  EXPECT_EQ(ValueOf(s.scheduler->RetryJob(job)).state(), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(s.GetTask(task.task()).state(), v1::TASK_STATE_SUCCEEDED);
  EXPECT_EQ(s.WorkUntilIdle(session), 28);  // 29 in all.
  EXPECT_EQ(s.State(job), v1::JOB_STATE_SUCCEEDED);
}

TEST(Jobs, CancelBeforePlanningIsAtOnce) {
  Service s;
  const std::string job = ValueOf(s.scheduler->CreateJob(s.Spec(), "")).name();
  EXPECT_EQ(ValueOf(s.scheduler->CancelJob(job)).state(),
            v1::JOB_STATE_CANCELLED);
  EXPECT_FALSE(ValueOf(s.scheduler->NextToPlan()));
}

TEST(Jobs, StatesThatAllowNoCancelRetryOrDelete) {
  Service s;
  const std::string job = s.Submit(s.Spec());
  EXPECT_EQ(s.scheduler->DeleteJob(job).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ValueOf(s.scheduler->RetryJob(job)).state(), v1::JOB_STATE_RUNNING);
  s.WorkUntilIdle(s.OpenSession("w1"));
  EXPECT_EQ(s.scheduler->CancelJob(job).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(s.scheduler->RetryJob(job).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(s.scheduler->GetJob("jobs/none").status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(s.scheduler->GetJob("none").status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(s.scheduler->GetCheckpoint("checkpoints/none").status().code(),
            absl::StatusCode::kNotFound);
}

TEST(Jobs, NonRetryableFailureFailsTheJobAtOnceAndRetryTakesItUp) {
  Service s;
  const std::string job = s.Submit(s.Spec());
  const std::string a = s.OpenSession("a"), b = s.OpenSession("b");
  const v1::LeasedTask first = s.Lease(a), second = s.Lease(b);
  ASSERT_OK(s.Fail(a, first, /*retryable=*/false,
                   absl::StatusCode::kInvalidArgument));
  const v1::Job failed = ValueOf(s.scheduler->GetJob(job));
  EXPECT_EQ(failed.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(failed.error().code(),
            static_cast<int>(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(failed.error().task(), first.task());
  EXPECT_TRUE(
      absl::StrContains(failed.error().message(), "the matrix is on fire"));
  EXPECT_TRUE(absl::StrContains(failed.error().message(), first.task()));
  EXPECT_EQ(s.GetTask(first.task()).state(), v1::TASK_STATE_FAILED);
  EXPECT_EQ(s.GetTask(first.task()).errors_size(), 1);
  EXPECT_EQ(s.GetTask(second.task()).state(), v1::TASK_STATE_CANCELLED);
  EXPECT_EQ(s.Complete(b, second).code(), absl::StatusCode::kAborted);
  EXPECT_TRUE(s.Lease(b).task().empty());

  ValueOf(s.scheduler->RetryJob(job));
  EXPECT_EQ(s.GetTask(first.task()).attempts(), 0);
  EXPECT_EQ(s.GetTask(first.task()).errors_size(), 1);
  EXPECT_EQ(s.WorkUntilIdle(a), 29);
  EXPECT_EQ(s.State(job), v1::JOB_STATE_SUCCEEDED);
  EXPECT_FALSE(ValueOf(s.scheduler->GetJob(job)).has_error());
}

TEST(Jobs, RetryRunsFinishedTasksAgainWhoseNeededBlobsAreGone) {
  Service s;
  const std::string job = s.Submit(s.Spec());
  const std::string session = s.OpenSession("w1");
  v1::LeasedTask task;
  std::vector<Digest> gone;
  for (;;) {
    task = s.Lease(session);
    if (task.action().kind() == v1::TASK_KIND_QUANTIZE) break;
    const v1::CompleteTaskRequest result = s.Result(session, task);
    ASSERT_OK(s.scheduler->CompleteTask(result));
    // The calibration windows are used up; a Hessian is still needed.
    for (const v1::NamedBlob& output : result.outputs()) {
      if (absl::EndsWith(task.task(), "/prepare") ||
          (absl::EndsWith(task.task(), "/forward-0-1") &&
           output.name() == "hessian")) {
        gone.push_back(ToDigest(output.digest()));
      }
    }
  }
  ASSERT_EQ(gone.size(), 2u);
  for (const Digest& digest : gone) ASSERT_OK(s.blobs.Delete(digest));
  ASSERT_OK(s.Fail(session, task, /*retryable=*/false));
  ValueOf(s.scheduler->RetryJob(job));
  // forward-0-1 needs the windows, so prepare must run again as well.
  EXPECT_EQ(s.GetTask(job + "/tasks/prepare").state(), v1::TASK_STATE_READY);
  EXPECT_EQ(s.GetTask(job + "/tasks/forward-0-0").state(),
            v1::TASK_STATE_SUCCEEDED);
  EXPECT_EQ(s.GetTask(job + "/tasks/forward-0-1").state(),
            v1::TASK_STATE_WAITING);
  EXPECT_EQ(s.WorkUntilIdle(session),
            29 - 2);  // All but prepare-evaluation, forward-0-0.
  EXPECT_EQ(s.State(job), v1::JOB_STATE_SUCCEEDED);
}

TEST(Jobs, DeleteFreesWhatNobodyElseUses) {
  Service s;
  const std::string session = s.OpenSession("w1");
  const std::string first = s.Submit(s.Spec(3));
  s.WorkUntilIdle(session);
  const std::string second = s.Submit(s.Spec(4));
  s.WorkUntilIdle(session);
  const size_t all = s.blobs.size();
  const std::vector<Digest> freed = ValueOf(s.scheduler->DeleteJob(first));
  // The first's linears, block 1's Hessians (they depend on block 0's linears),
  // its manifest and files, and its evaluation after.
  EXPECT_EQ(freed.size(), 14u + 2 + 3 + 4);
  EXPECT_EQ(std::set<Digest>(freed.begin(), freed.end()).size(), freed.size());
  for (const Digest& digest : freed) ASSERT_OK(s.blobs.Delete(digest));
  EXPECT_EQ(s.scheduler->GetJob(first).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(ValueOf(s.scheduler->ListCheckpoints({})).checkpoints_size(), 1);
  // The second one still has all of its blobs: a third finds everything there.
  const std::string third = s.Submit(s.Spec(4));
  EXPECT_EQ(s.State(third), v1::JOB_STATE_SUCCEEDED);
  ValueOf(s.scheduler->DeleteJob(third));
  const std::vector<Digest> rest = ValueOf(s.scheduler->DeleteJob(second));
  EXPECT_EQ(rest.size(), all - freed.size());  // Texts and model files too.
}

TEST(Jobs, ListsNewestFirstInPages) {
  Service s;
  std::vector<std::string> names;
  for (int i = 0; i < 5; ++i)
    names.push_back(ValueOf(s.scheduler->CreateJob(s.Spec(), "")).name());
  v1::ListJobsRequest request;
  request.set_page_size(2);
  std::vector<std::string> listed;
  do {
    const v1::ListJobsResponse page = ValueOf(s.scheduler->ListJobs(request));
    EXPECT_LE(page.jobs_size(), 2);
    for (const v1::Job& job : page.jobs()) listed.push_back(job.name());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  std::reverse(names.begin(), names.end());
  EXPECT_EQ(listed, names);
  request.set_page_token("x");
  EXPECT_EQ(s.scheduler->ListJobs(request).status().code(),
            absl::StatusCode::kInvalidArgument);
  request.clear_page_token();
  request.set_page_size(-1);
  EXPECT_EQ(s.scheduler->ListJobs(request).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(Jobs, EvaluateOnlyEndsWithoutACheckpoint) {
  Service s;
  v1::JobSpec spec = s.Spec();
  spec.set_evaluate_only(true);
  const std::string job = s.Submit(ValueOf(ResolveSpec(spec, s.config)));
  EXPECT_EQ(s.WorkUntilIdle(s.OpenSession("w")), 5);
  const v1::Job done = ValueOf(s.scheduler->GetJob(job));
  EXPECT_EQ(done.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_TRUE(done.result().checkpoint().empty());
  EXPECT_TRUE(done.result().has_perplexity_before());
  EXPECT_FALSE(done.result().has_perplexity_after());
}

}  // namespace
}  // namespace bitwright
