// Nothing is kept in memory: a new scheduler on the same file goes on.
#include "common/base/file.h"
#include "tests/unit/server/scheduler/service.h"

namespace bitwright {
namespace {

TEST(Restart, AtEveryStepOfARun) {
  const TempDirectory directory = ValueOf(TempDirectory::Create("scheduler"));
  Service s(directory.path() + "/jobs.db");
  const std::string job = ValueOf(s.scheduler->CreateJob(s.Spec(), "r")).name();
  s.Restart();
  EXPECT_EQ(ValueOf(s.scheduler->CreateJob(s.Spec(), "r")).name(), job);
  s.Restart();
  s.PlanAll();
  s.Restart();
  const std::string session = s.OpenSession("w");
  int steps = 0;
  for (;; ++steps) {
    s.Restart();
    const v1::LeasedTask task = s.Lease(session);
    if (task.task().empty()) break;
    s.Restart();
    ASSERT_OK(s.Complete(session, task));
    s.Restart();
    ASSERT_OK(s.Complete(session, task));  // The answer was lost.
  }
  EXPECT_EQ(steps, 29);
  EXPECT_EQ(s.State(job), v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(ValueOf(s.scheduler->ListWorkers()).workers(0).completed_tasks(),
            29);
}

TEST(Restart, TwoSchedulersOnOneFile) {
  const TempDirectory directory = ValueOf(TempDirectory::Create("scheduler"));
  Service s(directory.path() + "/jobs.db");
  const std::unique_ptr<JobStore> other_store =
      ValueOf(OpenSqliteJobStore(s.path));
  Scheduler other(other_store.get(), &s.blobs, &s.clock, {}, nullptr);
  const std::string job = s.Submit(s.Spec());
  const std::string a = s.OpenSession("a");
  v1::OpenSessionRequest open;
  open.set_worker("b");
  const std::string b = ValueOf(other.OpenSession(open)).name();
  int by_a = 0, by_b = 0;
  for (;;) {
    const v1::LeasedTask of_a = s.Lease(a);
    std::vector<v1::LeasedTask> of_b = ValueOf(other.LeaseTasks(b, 1));
    if (of_a.task().empty() && of_b.empty()) break;
    if (!of_b.empty()) {
      EXPECT_NE(of_b[0].task(), of_a.task());
      EXPECT_OK(s.scheduler->CompleteTask(
          s.Result(b, of_b[0])));  // By the other door.
      ++by_b;
    }
    if (!of_a.task().empty()) {
      EXPECT_OK(other.CompleteTask(s.Result(a, of_a)));
      ++by_a;
    }
  }
  EXPECT_EQ(by_a + by_b, 29);
  EXPECT_GT(by_b, 8);
  EXPECT_EQ(ValueOf(other.GetJob(job)).state(), v1::JOB_STATE_SUCCEEDED);
}

}  // namespace
}  // namespace bitwright
