// Seeded random runs: workers that crash, stall and come back late, a clock
// that jumps, coordinators that restart or are upgraded, calls whose answers
// are lost. Whatever
// the order, the job ends SUCCEEDED, each action has one result, and the
// checkpoint is the same. BITWRIGHT_SEED runs one seed.
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "tests/unit/server/scheduler/service.h"

namespace bitwright {
namespace {

class RandomRun {
 public:
  explicit RandomRun(int seed) : random_(seed) {
    service_.options.max_attempts = 1000000;
    service_.Restart();
  }

  void Run() {
    jobs_ = {
        service_.Submit(service_.Spec(3)),
        ValueOf(service_.scheduler->CreateJob(service_.Spec(4), "")).name()};
    for (int step = 0; step < 20000; ++step) {
      Step();
      if (::testing::Test::HasFailure()) return;
      if (step % 16 == 0 && AllSucceeded()) return Check();
    }
    ADD_FAILURE() << "the jobs have not ended after 20000 steps";
  }

 private:
  struct Held {
    std::string session;
    v1::LeasedTask task;
  };

  int Pick(int n) { return static_cast<int>(random_() % n); }

  void Step() {
    switch (Pick(16)) {
      case 0:
        sessions_[absl::StrCat("w", Pick(3))] =
            service_.OpenSession(absl::StrCat("w", Pick(3)));
        return;
      case 1:
        service_.clock.Advance(absl::Seconds(Pick(50)));
        EXPECT_OK(service_.scheduler->Reap());
        return;
      case 2:
        if (Pick(4) == 0) service_.Restart();
        return PlanAsSomeBuild();
      case 3:
        return CancelOrRetry();
      case 4:
        if (Pick(4) == 0 && !sessions_.empty()) {
          Tolerate(service_.scheduler->CloseSession(AnySession()),
                   {absl::StatusCode::kNotFound});
        }
        return;
      case 5:
      case 6:
        return Renew();
      case 7:
      case 8:
      case 9:
      case 10:
        return Lease();
      case 11:
        return FailOrRelease();
      default:
        return Complete();
    }
  }

  // Plans what is to be planned; some builds have another version of one kind.
  void PlanAsSomeBuild() {
    const int other = Pick(3) > 0 ? 0 : 1 + Pick(v1::TaskKind_MAX);
    service_.PlanAll([&](Plan* plan) {
      for (PlannedTask& task : plan->tasks) {
        if (task.action.kind() == other) task.action.set_algorithm_version(99);
      }
    });
  }

  std::string AnySession() {
    auto session = sessions_.begin();
    std::advance(session, Pick(static_cast<int>(sessions_.size())));
    return session->second;
  }

  // OK, or one of the codes that a worker must live with.
  void Tolerate(const absl::Status& status, std::set<absl::StatusCode> codes) {
    if (!status.ok() && codes.count(status.code()) == 0)
      ADD_FAILURE() << status;
  }

  void Lease() {
    if (sessions_.empty()) return;
    const std::string session = AnySession();
    absl::StatusOr<std::vector<v1::LeasedTask>> tasks =
        service_.scheduler->LeaseTasks(session, 1 + Pick(3));
    Tolerate(tasks.status(), {absl::StatusCode::kNotFound});
    if (!tasks.ok() || Pick(10) == 0) return;  // The answer was lost.
    for (v1::LeasedTask& task : *tasks)
      held_.push_back({session, std::move(task)});
  }

  // Completes a held task, of a live lease or an old one; sometimes it stays
  // held, to be completed again later.
  void Complete() {
    if (held_.empty()) return;
    const int i = Pick(static_cast<int>(held_.size()));
    Tolerate(service_.Complete(held_[i].session, held_[i].task),
             {absl::StatusCode::kAborted});
    if (Pick(4) > 0) held_.erase(held_.begin() + i);
  }

  void FailOrRelease() {
    if (held_.empty()) return;
    const int i = Pick(static_cast<int>(held_.size()));
    const Held held = held_[i];
    held_.erase(held_.begin() + i);
    if (Pick(2) == 0) {
      Tolerate(service_.Fail(held.session, held.task, /*retryable=*/true),
               {absl::StatusCode::kAborted});
      return;
    }
    v1::ReleaseLeasesRequest release;
    release.set_session(held.session);
    release.add_leases()->set_task(held.task.task());
    release.mutable_leases(0)->set_lease_epoch(held.task.lease_epoch());
    Tolerate(service_.scheduler->ReleaseLeases(release),
             {absl::StatusCode::kAborted});
  }

  void Renew() {
    if (sessions_.empty()) return;
    v1::RenewLeasesRequest renew;
    renew.set_session(AnySession());
    for (const Held& held : held_) {
      if (held.session != renew.session()) continue;
      renew.add_leases()->set_task(held.task.task());
      renew.mutable_leases()->rbegin()->set_lease_epoch(
          held.task.lease_epoch());
    }
    Tolerate(service_.scheduler->RenewLeases(renew).status(),
             {absl::StatusCode::kNotFound});
  }

  void CancelOrRetry() {
    const std::string& job = jobs_[Pick(2)];
    if (Pick(8) == 0) {
      Tolerate(service_.scheduler->CancelJob(job).status(),
               {absl::StatusCode::kFailedPrecondition});
    } else {
      Tolerate(service_.scheduler->RetryJob(job).status(),
               {absl::StatusCode::kFailedPrecondition});
    }
  }

  bool AllSucceeded() {
    for (const std::string& job : jobs_) {
      if (service_.State(job) != v1::JOB_STATE_SUCCEEDED) return false;
    }
    return true;
  }

  void Check() {
    std::set<std::string> manifests;
    for (const std::string& job : jobs_) {
      const v1::Job done = ValueOf(service_.scheduler->GetJob(job));
      for (const v1::PhaseProgress& phase : done.phases())
        EXPECT_EQ(phase.done(), phase.total());
      EXPECT_EQ(done.result().perplexity_after().tokens(), 4 * 63);
      manifests.insert(
          ValueOf(service_.scheduler->GetCheckpoint(done.result().checkpoint()))
              .manifest()
              .SerializeAsString());
      CheckResults(job);
    }
    EXPECT_EQ(manifests.size(), 2u);  // One for each number of bits.
    EXPECT_EQ(service_.scheduler->stats().conflicting_results, 0);
    // An undisturbed run ends in the same checkpoints.
    static const std::set<std::string>* const undisturbed = [] {
      Service calm;
      auto* result = new std::set<std::string>;
      for (double bits : {3, 4}) {
        const std::string job = calm.Submit(calm.Spec(bits));
        calm.WorkUntilIdle(calm.OpenSession("w"));
        result->insert(
            ValueOf(
                calm.scheduler->GetCheckpoint(
                    ValueOf(calm.scheduler->GetJob(job)).result().checkpoint()))
                .manifest()
                .SerializeAsString());
      }
      return result;
    }();
    EXPECT_EQ(manifests, *undisturbed);
  }

  // Every task is done, and its action has a result with all blobs.
  void CheckResults(const std::string& job) {
    EXPECT_OK(service_.store->Read([&](JobTransaction* t) -> absl::Status {
      for (const TaskRecord& task : TaskRecords(t, job)) {
        EXPECT_TRUE(task.state == v1::TASK_STATE_SUCCEEDED ||
                    task.state == v1::TASK_STATE_CACHED);
        const std::optional<ResultRecord> result =
            ValueOf(t->FindResult(task.action_digest));
        EXPECT_TRUE(result) << task.key;
        if (!result) continue;
        for (const NamedDigest& output : result->outputs) {
          EXPECT_TRUE(*service_.blobs.Has(output.digest));
        }
      }
      return absl::OkStatus();
    }));
  }

  static std::vector<TaskRecord> TaskRecords(JobTransaction* t,
                                             const std::string& job) {
    const std::optional<JobRecord> record =
        ValueOf(t->FindJob(job.substr(strlen("jobs/"))));
    return ValueOf(t->ListTasks(record->number, 0, 1000));
  }

  std::mt19937 random_;
  Service service_;
  std::vector<std::string> jobs_;
  std::map<std::string, std::string> sessions_;
  std::vector<Held> held_;
};

TEST(Interleaving, AnyOrderEndsInTheSameCheckpoints) {
  int first = 0, last = 250;
  if (const char* seed = std::getenv("BITWRIGHT_SEED")) {
    ASSERT_TRUE(absl::SimpleAtoi(seed, &first));
    last = first + 1;
  }
  for (int seed = first; seed < last; ++seed) {
    RandomRun(seed).Run();
    ASSERT_FALSE(HasFailure()) << "BITWRIGHT_SEED=" << seed;
  }
}

}  // namespace
}  // namespace bitwright
