// Leases: order, affinity, renewal, expiry, sessions.
#include <cmath>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/unit/server/scheduler/service.h"

namespace bitwright {
namespace {

v1::RenewLeasesRequest Renewal(const std::string& session,
                               const v1::LeasedTask& task) {
  v1::RenewLeasesRequest request;
  request.set_session(session);
  request.add_leases()->set_task(task.task());
  request.mutable_leases(0)->set_lease_epoch(task.lease_epoch());
  return request;
}

v1::ReleaseLeasesRequest Release(const std::string& session,
                                 const v1::LeasedTask& task) {
  v1::ReleaseLeasesRequest request;
  request.set_session(session);
  request.add_leases()->set_task(task.task());
  request.mutable_leases(0)->set_lease_epoch(task.lease_epoch());
  return request;
}

std::string Key(const v1::LeasedTask& task) {
  return task.task().substr(task.task().rfind('/') + 1);
}

TEST(Leases, OlderJobsFirstThenGraphOrder) {
  Service s;
  const std::string first = s.Submit(s.Spec(3));
  s.Submit(s.Spec(4));
  const std::string session = s.OpenSession("w1");
  const std::vector<v1::LeasedTask> tasks =
      ValueOf(s.scheduler->LeaseTasks(session, 3));
  ASSERT_EQ(tasks.size(), 3u);
  EXPECT_EQ(tasks[0].task(), first + "/tasks/prepare");
  EXPECT_EQ(tasks[1].task(), first + "/tasks/prepare-evaluation");
  EXPECT_FALSE(absl::StartsWith(tasks[2].task(), first));
  EXPECT_EQ(tasks[0].model().path(), "/models/small");
  EXPECT_EQ(tasks[0].model().files_size(), 2);
  EXPECT_EQ(tasks[0].attempt(), 1);
}

TEST(Leases, PreferTheWorkerThatHasTheShard) {
  Service s;
  s.Submit(s.Spec());
  const std::string a = s.OpenSession("a"), b = s.OpenSession("b");
  ASSERT_OK(s.Complete(a, s.Lease(a)));
  ASSERT_OK(s.Complete(a, s.Lease(a)));
  const v1::LeasedTask of_a = s.Lease(a), of_b = s.Lease(b);
  EXPECT_EQ(Key(of_a), "forward-0-0");
  EXPECT_EQ(Key(of_b), "forward-0-1");
  ASSERT_OK(s.Complete(a, of_a));
  ASSERT_OK(s.Complete(b, of_b));
  for (;;) {  // All of block 0.
    const v1::LeasedTask task = s.Lease(a);
    if (task.action().kind() != v1::TASK_KIND_QUANTIZE) {
      ASSERT_OK(s.scheduler->ReleaseLeases(Release(a, task)));
      break;
    }
    ASSERT_OK(s.Complete(a, task));
  }
  EXPECT_EQ(Key(s.Lease(b)), "forward-1-1");
  EXPECT_EQ(Key(s.Lease(a)), "forward-1-0");
}

TEST(Leases, AffinityNeverOvertakesAnEarlierStage) {
  Service s;
  v1::JobSpec spec = s.Spec();
  spec.set_pipeline(v1::PIPELINE_PARALLEL);
  s.Submit(spec);
  const std::string a = s.OpenSession("a");
  std::vector<std::string> order;
  for (;;) {
    const v1::LeasedTask task = s.Lease(a);
    if (task.task().empty()) break;
    order.push_back(Key(task));
    ASSERT_OK(s.Complete(a, task));
  }
  std::vector<std::string> planned;
  for (const PlannedTask& task : PlanJob(spec, s.config).tasks)
    planned.push_back(task.key);
  EXPECT_EQ(order, planned);
}

TEST(Leases, RenewedLeasesLiveOnAndOthersExpire) {
  Service s;
  const std::string job = s.Submit(s.Spec());
  const std::string a = s.OpenSession("a"), b = s.OpenSession("b");
  const v1::LeasedTask kept = s.Lease(a), lost = s.Lease(b);
  for (int i = 0; i < 4; ++i) {
    s.clock.Advance(absl::Seconds(10));
    EXPECT_EQ(ValueOf(s.scheduler->RenewLeases(Renewal(a, kept))).lost_size(),
              0);
    ASSERT_OK(s.scheduler->Reap());
  }
  EXPECT_EQ(s.GetTask(kept.task()).state(), v1::TASK_STATE_RUNNING);
  const v1::Task expired = s.GetTask(lost.task());
  EXPECT_EQ(expired.state(), v1::TASK_STATE_READY);
  EXPECT_EQ(expired.attempts(), 1);
  ASSERT_EQ(expired.errors_size(), 1);
  EXPECT_TRUE(absl::StrContains(expired.errors(0).message(),
                                "lease expired (worker b"));
  EXPECT_EQ(ValueOf(s.scheduler->RenewLeases(Renewal(b, lost))).lost_size(), 1);
  EXPECT_EQ(s.scheduler->stats().leases_expired, 1);
}

TEST(Leases, RenewalsTellHowFarTasksAre) {
  Service s;
  const std::string job = s.Submit(s.Spec());
  const std::string a = s.OpenSession("a");
  const v1::LeasedTask task = s.Lease(a);
  const auto renew = [&](double fraction, const std::string& note) {
    v1::RenewLeasesRequest request = Renewal(a, task);
    request.mutable_leases(0)->set_fraction_done(fraction);
    request.mutable_leases(0)->set_note(note);
    EXPECT_EQ(ValueOf(s.scheduler->RenewLeases(request)).lost_size(), 0);
    return ValueOf(s.scheduler->GetJob(job));
  };
  const v1::Job told = renew(0.25, "loss 3");
  ASSERT_EQ(told.phases(0).running(), 1);
  EXPECT_EQ(told.phases(0).running_done(), 0.25);
  EXPECT_EQ(told.phases(0).note(), "loss 3");
  EXPECT_EQ(s.GetTask(task.task()).fraction_done(), 0.25);
  EXPECT_EQ(s.GetTask(task.task()).note(), "loss 3");
  // Watchers are woken by what is new only.
  EXPECT_EQ(renew(0.25, "loss 3").sequence(), told.sequence());
  EXPECT_GT(renew(0.5, "loss 3").sequence(), told.sequence());
  // Nonsense changes nothing, and nothing that a terminal obeys comes through.
  EXPECT_EQ(renew(std::nan(""), "").phases(0).running_done(), 0.5);
  EXPECT_EQ(renew(7, "\x1b[2J\nx").phases(0).running_done(), 0.5);
  EXPECT_EQ(s.GetTask(task.task()).note(), "?[2J?x");
  EXPECT_EQ(renew(0.5, std::string(9999, 'x')).phases(0).note().size(), 200u);
  // The next lease starts from nothing.
  ASSERT_OK(s.scheduler->ReleaseLeases(Release(a, task)));
  EXPECT_EQ(s.GetTask(task.task()).note(), "");
  EXPECT_EQ(s.Lease(a).task(), task.task());
  EXPECT_EQ(s.GetTask(task.task()).fraction_done(), 0);
  EXPECT_EQ(s.GetTask(task.task()).note(), "");
}

TEST(Leases, NothingExpiresRightAfterAStart) {
  Service s;
  s.Submit(s.Spec());
  const std::string a = s.OpenSession("a");
  const v1::LeasedTask task = s.Lease(a);
  s.clock.Advance(absl::Hours(1));  // No coordinator was there to renew with.
  s.Restart();
  ASSERT_OK(s.scheduler->Reap());
  EXPECT_EQ(ValueOf(s.scheduler->RenewLeases(Renewal(a, task))).lost_size(), 0);
  s.clock.Advance(absl::Seconds(29));
  ASSERT_OK(s.scheduler->Reap());
  ASSERT_OK(s.Complete(a, task));
}

TEST(Leases, ReleaseChargesNoAttempt) {
  Service s;
  s.Submit(s.Spec());
  const std::string a = s.OpenSession("a");
  const v1::LeasedTask task = s.Lease(a);
  ASSERT_OK(s.scheduler->ReleaseLeases(Release(a, task)));
  EXPECT_EQ(s.GetTask(task.task()).attempts(), 0);
  EXPECT_EQ(s.GetTask(task.task()).errors_size(), 0);
  EXPECT_EQ(s.scheduler->ReleaseLeases(Release(a, task)).code(),
            absl::StatusCode::kAborted);
  const v1::LeasedTask again = s.Lease(a);
  EXPECT_EQ(again.task(), task.task());
  EXPECT_EQ(again.lease_epoch(), task.lease_epoch() + 1);
  EXPECT_EQ(again.attempt(), 1);
}

TEST(Leases, MaxAttemptsFailTheJobWithEveryError) {
  Service s;
  const std::string job = s.Submit(s.Spec());
  const std::string a = s.OpenSession("a");
  std::string poison;
  for (int attempt = 1; attempt <= 5; ++attempt) {
    EXPECT_EQ(s.State(job), v1::JOB_STATE_RUNNING);
    const v1::LeasedTask task = s.Lease(a);
    EXPECT_EQ(task.attempt(), attempt);
    poison = task.task();
    if (attempt == 2) {
      s.clock.Advance(absl::Seconds(31));
      ASSERT_OK(s.scheduler->Reap());
    } else {
      ASSERT_OK(s.Fail(a, task, /*retryable=*/true,
                       absl::StatusCode::kResourceExhausted));
    }
  }
  const v1::Job failed = ValueOf(s.scheduler->GetJob(job));
  EXPECT_EQ(failed.state(), v1::JOB_STATE_FAILED);
  EXPECT_EQ(failed.error().code(),
            static_cast<int>(absl::StatusCode::kResourceExhausted));
  EXPECT_TRUE(absl::StrContains(failed.error().message(), "5 attempts"))
      << failed.error().message();
  const v1::Task task = s.GetTask(poison);
  EXPECT_EQ(task.state(), v1::TASK_STATE_FAILED);
  ASSERT_EQ(task.errors_size(), 5);
  EXPECT_TRUE(absl::StrContains(task.errors(1).message(), "lease expired"));
  EXPECT_EQ(task.errors(0).task(), poison);
}

TEST(Sessions, ASecondOneUnderTheSameNameEndsTheFirst) {
  Service s;
  s.Submit(s.Spec());
  const std::string first = s.OpenSession("a");
  const v1::LeasedTask task = s.Lease(first);
  const std::string second = s.OpenSession("a");
  EXPECT_EQ(s.GetTask(task.task()).state(), v1::TASK_STATE_READY);
  EXPECT_EQ(s.GetTask(task.task()).attempts(), 1);
  EXPECT_EQ(s.scheduler->LeaseTasks(first, 1).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(s.scheduler->RenewLeases(Renewal(first, task)).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(s.Complete(first, task).code(), absl::StatusCode::kAborted);
  EXPECT_EQ(s.Lease(second).task(), task.task());
}

TEST(Sessions, ClosingGivesBackWithoutCharge) {
  Service s;
  s.Submit(s.Spec());
  const std::string a = s.OpenSession("a");
  const v1::LeasedTask task = s.Lease(a);
  ASSERT_OK(s.scheduler->CloseSession(a));
  EXPECT_EQ(s.GetTask(task.task()).state(), v1::TASK_STATE_READY);
  EXPECT_EQ(s.GetTask(task.task()).attempts(), 0);
  EXPECT_EQ(s.scheduler->CloseSession(a).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(s.scheduler->LeaseTasks("", 1).status().code(),
            absl::StatusCode::kNotFound);
}

TEST(Sessions, SilentWorkersAreGoneAndLaterForgotten) {
  Service s;
  const std::string silent = s.OpenSession("silent"),
                    idle = s.OpenSession("idle");
  for (int i = 0; i < 10; ++i) {
    s.clock.Advance(absl::Seconds(10));
    EXPECT_TRUE(s.Lease(idle).task().empty());  // An idle worker asks for work.
  }
  ASSERT_OK(s.scheduler->Reap());
  EXPECT_EQ(s.scheduler->LeaseTasks(silent, 1).status().code(),
            absl::StatusCode::kNotFound);
  const v1::ListWorkersResponse workers = ValueOf(s.scheduler->ListWorkers());
  ASSERT_EQ(workers.workers_size(), 2);
  EXPECT_EQ(workers.workers(0).name(), "idle");
  EXPECT_TRUE(workers.workers(0).alive());
  EXPECT_FALSE(workers.workers(1).alive());
  s.clock.Advance(absl::Hours(25));
  ASSERT_OK(s.scheduler->Reap());
  EXPECT_EQ(ValueOf(s.scheduler->ListWorkers()).workers_size(), 1);
  EXPECT_FALSE(ValueOf(s.scheduler->ListWorkers())
                   .workers(0)
                   .alive());  // "idle", gone too.
}

TEST(Sessions, AreCountedAndListed) {
  Service s;
  s.Submit(s.Spec());
  const std::string a = s.OpenSession("a");
  ASSERT_OK(s.Complete(a, s.Lease(a)));
  s.Lease(a);
  const v1::ListWorkersResponse workers = ValueOf(s.scheduler->ListWorkers());
  ASSERT_EQ(workers.workers_size(), 1);
  EXPECT_EQ(workers.workers(0).completed_tasks(), 1);
  EXPECT_EQ(workers.workers(0).running_tasks(), 1);
  EXPECT_EQ(workers.workers(0).device(), "cpu");
  const auto counts = ValueOf(s.scheduler->CountTasks());
  int64_t total = 0;
  for (const auto& [state, count] : counts) total += count;
  EXPECT_EQ(total, 29);
}

TEST(Sessions, IdlePollsDoNotWrite) {
  Service s;
  const std::string a = s.OpenSession("a");
  const int changes = s.changes;
  s.clock.Advance(absl::Seconds(10));
  EXPECT_TRUE(s.Lease(a).task().empty());
  EXPECT_EQ(s.changes, changes);
  EXPECT_EQ(
      ValueOf(s.scheduler->ListWorkers()).workers(0).last_seen_time().seconds(),
      1'700'000'000);
}

}  // namespace
}  // namespace bitwright
