// Reuse by action digest.
#include "absl/strings/match.h"
#include "tests/unit/server/scheduler/service.h"

namespace bitwright {
namespace {

int Cached(const v1::Job& job) {
  int cached = 0;
  for (const v1::PhaseProgress& phase : job.phases()) cached += phase.cached();
  return cached;
}

TEST(Cache, ASecondJobOfTheSameSpecRunsNothing) {
  Service s;
  const std::string first = s.Submit(s.Spec());
  s.WorkUntilIdle(s.OpenSession("a"));
  const std::string second = s.Submit(s.Spec());
  const v1::Job done = ValueOf(s.scheduler->GetJob(second));
  EXPECT_EQ(done.state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(Cached(done), 29);
  EXPECT_EQ(s.scheduler->stats().tasks_cached, 29);
  const v1::Checkpoint
      a = ValueOf(s.scheduler->GetCheckpoint(
          ValueOf(s.scheduler->GetJob(first)).result().checkpoint())),
      b = ValueOf(s.scheduler->GetCheckpoint(done.result().checkpoint()));
  EXPECT_EQ(a.manifest().SerializeAsString(), b.manifest().SerializeAsString());
  EXPECT_DOUBLE_EQ(done.result().perplexity_after().perplexity(),
                   ValueOf(s.scheduler->GetJob(first))
                       .result()
                       .perplexity_after()
                       .perplexity());
}

TEST(Cache, AnotherBudgetReusesCalibrationAndTheFirstBlocksHessians) {
  Service s;
  const std::string a = s.OpenSession("a");
  s.Submit(s.Spec(3));
  s.WorkUntilIdle(a);
  const std::string second = s.Submit(s.Spec(4));
  s.WorkUntilIdle(a);
  // prepare x 2, forward(0, s) x 2, evaluate-before x 4.
  EXPECT_EQ(Cached(ValueOf(s.scheduler->GetJob(second))), 8);
}

TEST(Cache, WithoutEvaluationTheCheckpointIsTheSameTask) {
  Service s;
  s.Submit(s.Spec());
  s.WorkUntilIdle(s.OpenSession("a"));
  v1::JobSpec spec = s.Spec();
  spec.clear_evaluation();
  spec.mutable_model()->set_path("/elsewhere");
  EXPECT_EQ(s.State(s.Submit(spec)), v1::JOB_STATE_SUCCEEDED);
}

TEST(Cache, ResultsWhoseBlobsAreGoneRunAgain) {
  Service s;
  const std::string a = s.OpenSession("a");
  const std::string first = s.Submit(s.Spec());
  const v1::LeasedTask prepare = s.Lease(a);
  const v1::CompleteTaskRequest result = s.Result(a, prepare);
  ASSERT_OK(s.scheduler->CompleteTask(result));
  s.WorkUntilIdle(a);
  ASSERT_OK(s.blobs.Delete(ToDigest(result.outputs(0).digest())));
  const std::string second = s.Submit(s.Spec());
  EXPECT_EQ(s.GetTask(second + "/tasks/prepare").state(), v1::TASK_STATE_READY);
  EXPECT_EQ(s.GetTask(second + "/tasks/prepare-evaluation").state(),
            v1::TASK_STATE_CACHED);
  EXPECT_EQ(s.WorkUntilIdle(a), 1);  // The rest follows from the cache.
  EXPECT_EQ(s.State(second), v1::JOB_STATE_SUCCEEDED);
}

TEST(Cache, ALostResultMayBeReplacedByAnother) {
  Service s;
  const std::string a = s.OpenSession("a");
  s.Submit(s.Spec());
  const v1::CompleteTaskRequest lost = s.Result(a, s.Lease(a));
  ASSERT_OK(s.scheduler->CompleteTask(lost));
  ASSERT_OK(s.blobs.Delete(ToDigest(lost.outputs(0).digest())));
  s.Submit(s.Spec());
  v1::LeasedTask task;
  for (const v1::LeasedTask& leased : ValueOf(s.scheduler->LeaseTasks(a, 64))) {
    if (absl::EndsWith(leased.task(), "/prepare")) task = leased;
  }
  v1::CompleteTaskRequest other = s.Result(a, task);
  ASSERT_OK(s.blobs.Delete(ToDigest(lost.outputs(0).digest())));
  *other.mutable_outputs(0)->mutable_digest() =
      s.blobs.Put("from another kind of device");
  EXPECT_OK(s.scheduler->CompleteTask(other));
}

TEST(Cache, ATaskThatAnotherJobFinishedIsNotLeased) {
  Service s;
  const std::string a = s.OpenSession("a");
  s.Submit(s.Spec(3));
  const std::string second = s.Submit(s.Spec(4));
  EXPECT_EQ(s.GetTask(second + "/tasks/prepare").state(), v1::TASK_STATE_READY);
  s.WorkUntilIdle(a);
  EXPECT_EQ(s.GetTask(second + "/tasks/prepare").state(),
            v1::TASK_STATE_CACHED);
  EXPECT_EQ(s.scheduler->stats().tasks_completed, 29 + 29 - 8);
}

}  // namespace
}  // namespace bitwright
