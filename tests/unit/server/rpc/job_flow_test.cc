// Jobs through the real server and the real client: create, plan, lease,
// complete, watch, delete.
#include <atomic>
#include <thread>

#include "absl/time/clock.h"
#include "proto/algorithm_version.h"
#include "proto/status_conversion.h"
#include "tests/unit/server/rpc/rpc_test_util.h"

namespace bitwright {
namespace {

using ::testing::HasSubstr;

class JobFlowTest : public ServerTest {
 protected:
  void SetUp() override {
    ServerTest::SetUp();
    client_ = Connect();
  }

  v1::Session OpenSession(const std::string& worker) {
    v1::OpenSessionRequest request;
    request.set_worker(worker);
    request.set_device("cpu");
    return client_->OpenSession(request).value();
  }
  // Does what tasks come with invented results, until none comes for a second.
  void Work(const v1::Session& session) {
    while (true) {
      v1::LeaseTasksRequest lease;
      lease.set_session(session.name());
      lease.set_algorithms(AlgorithmVersions());
      lease.set_max_tasks(2);
      lease.mutable_wait()->set_seconds(2);
      auto leased = client_->LeaseTasks(lease);
      ASSERT_TRUE(leased.ok()) << leased.status();
      if (leased->tasks().empty()) return;
      for (const v1::LeasedTask& task : leased->tasks()) {
        ASSERT_TRUE(Complete(session, task).ok());
      }
    }
  }
  absl::Status Complete(const v1::Session& session,
                        const v1::LeasedTask& task) {
    v1::CompleteTaskRequest request;
    request.set_session(session.name());
    request.mutable_lease()->set_task(task.task());
    request.mutable_lease()->set_lease_epoch(task.lease_epoch());
    v1::NamedBlob* output = request.add_outputs();
    output->set_name(task.action().has_prepare() ? "windows" : "nll");
    *output->mutable_digest() =
        ToProto(client_->UploadBytes("result of " + task.task()).value());
    if (task.action().has_evaluate()) {
      v1::EvaluateSummary* summary =
          request.mutable_summary()->mutable_evaluate();
      summary->set_nll(20);
      summary->set_tokens(10);
      summary->set_windows(1);
      summary->set_seqlen(11);
    }
    return client_->CompleteTask(request);
  }

  std::unique_ptr<Client> client_;
};

TEST_F(JobFlowTest, WorkersOfAnotherBuildGetNoWork) {
  ASSERT_TRUE(client_->CreateJob(EvaluateRequest(client_.get(), "r1")).ok());
  v1::LeaseTasksRequest lease;
  lease.set_session(OpenSession("w").name());
  lease.set_max_tasks(1);
  for (const std::string& algorithms :
       {std::string(), AlgorithmVersions() + ", DISTILL 1"}) {
    lease.set_algorithms(algorithms);
    const absl::Status refused = client_->LeaseTasks(lease).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(ErrorReason(refused), "OTHER_ALGORITHMS");
    EXPECT_THAT(std::string(refused.message()), HasSubstr("PREPARE 1, "));
  }
}

TEST_F(JobFlowTest, CreateWatchLeaseComplete) {
  auto job = client_->CreateJob(EvaluateRequest(client_.get(), "r1"));
  ASSERT_TRUE(job.ok()) << job.status();
  std::atomic<int> snapshots{0};
  absl::StatusOr<v1::Job> last;
  std::thread watcher([&] {
    last = client_->WatchJob(job->name(), 0, [&](const v1::Job&) {
      ++snapshots;
      return true;
    });
  });
  Work(OpenSession("w"));
  watcher.join();
  ASSERT_TRUE(last.ok()) << last.status();
  EXPECT_EQ(last->state(), v1::JOB_STATE_SUCCEEDED) << last->DebugString();
  EXPECT_NEAR(last->result().perplexity_before().perplexity(), 7.389056, 1e-5);
  EXPECT_GE(snapshots, 1);
  EXPECT_GE(last->spec().model().files_size(), 3);
  EXPECT_GE(client_
                ->ListTasks([&] {
                  v1::ListTasksRequest list;
                  list.set_job(job->name());
                  return list;
                }())
                ->tasks_size(),
            2);
  // The model's files are blobs in place.
  for (const v1::SourceFile& file : last->spec().model().files()) {
    EXPECT_EQ(client_->DownloadBytes(FromProto(file.digest())).value(),
              ReadFile(models() + "/llama/" + file.name()).value());
  }
  // A second job with other request and the same inputs runs no task.
  auto second = client_->CreateJob(EvaluateRequest(client_.get(), "r2"));
  ASSERT_TRUE(second.ok());
  auto done =
      client_->WatchJob(second->name(), 0, [](const v1::Job&) { return true; });
  ASSERT_TRUE(done.ok());
  EXPECT_EQ(done->state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_TRUE(client_->DeleteJob(job->name()).ok());
  EXPECT_EQ(client_->GetJob(job->name()).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_TRUE(std::filesystem::exists(models() + "/llama/config.json"));
}

TEST_F(JobFlowTest, CreateJobIsIdempotentAndCanBeTried) {
  v1::CreateJobRequest request = EvaluateRequest(client_.get(), "same");
  const std::string name = client_->CreateJob(request)->name();
  EXPECT_EQ(client_->CreateJob(request)->name(), name);
  request.set_validate_only(true);
  auto tried = client_->CreateJob(request);
  ASSERT_TRUE(tried.ok()) << tried.status();
  EXPECT_EQ(tried->name(), "");
  EXPECT_GT(tried->spec().evaluation().seqlen(), 0);
  EXPECT_EQ(client_->ListJobs({})->jobs_size(), 1);
  v1::ListJobsRequest negative;
  negative.set_page_size(-1);
  EXPECT_EQ(client_->ListJobs(negative).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(JobFlowTest, TextThatIsNotInTheStoreIsNamed) {
  v1::CreateJobRequest request = EvaluateRequest(client_.get(), "r");
  const Digest missing = DigestOf("never uploaded");
  *request.mutable_spec()
       ->mutable_evaluation()
       ->mutable_source()
       ->mutable_texts(0)
       ->mutable_digest() = ToProto(missing);
  absl::Status status = client_->CreateJob(request).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ErrorReason(status), "BLOB_MISSING");
  EXPECT_THAT(std::string(status.message()), HasSubstr(missing.sha256));
}

TEST_F(JobFlowTest, PathsAreConfinedToTheRoots) {
  namespace fs = std::filesystem;
  const std::string outside = directory_.path() + "/outside";
  fs::copy(models() + "/llama", outside);
  fs::create_directory_symlink(outside, models() + "/link");
  fs::copy(models() + "/llama", models() + "/half");
  fs::remove(models() + "/half/config.json");
  fs::create_symlink(outside + "/config.json", models() + "/half/config.json");
  fs::create_directory(directory_.path() + "/models-not");
  v1::CreateJobRequest request = EvaluateRequest(client_.get(), "r");
  auto create = [&](const std::string& path) {
    request.mutable_spec()->mutable_model()->set_path(path);
    return client_->CreateJob(request).status();
  };
  for (const std::string& path :
       {outside, models() + "/../outside", models() + "/link",
        models() + "/half", directory_.path() + "/models-not",
        models() + "/llama/../../outside",
        directory_.path() + "/does-not-exist", std::string("/"),
        std::string("/etc")}) {
    absl::Status status = create(path);
    EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied)
        << path << ": " << status;
    EXPECT_EQ(ErrorReason(status), "PATH_OUTSIDE_MODEL_ROOTS");
  }
  for (const std::string& path :
       {std::string(), std::string("llama"), models() + "/none",
        models() + "/llama/config.json", models()}) {
    EXPECT_EQ(create(path).code(), absl::StatusCode::kInvalidArgument) << path;
  }
  EXPECT_TRUE(create(models() + "/half/../llama").ok());
}

TEST_F(JobFlowTest, BadModelIsRefusedWhenTheJobIsCreated) {
  const std::string config = models() + "/llama/config.json";
  const std::string weights = models() + "/llama/model.safetensors";
  v1::CreateJobRequest request = EvaluateRequest(client_.get(), "r");
  std::filesystem::resize_file(weights,
                               std::filesystem::file_size(weights) / 2);
  absl::Status status = client_->CreateJob(request).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("model.safetensors"));
  std::filesystem::remove(config);
  status = client_->CreateJob(request).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("config.json"));
}

TEST_F(JobFlowTest, WatchGoesOnAcrossARestart) {
  auto job = client_->CreateJob(EvaluateRequest(client_.get(), "r"));
  ASSERT_TRUE(job.ok()) << job.status();
  absl::StatusOr<v1::Job> last;
  std::thread watcher([&] {
    last =
        client_->WatchJob(job->name(), 0, [](const v1::Job&) { return true; });
  });
  absl::SleepFor(absl::Milliseconds(300));
  const absl::Time start = absl::Now();
  server_->Shutdown();
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
  server_.reset();
  Start();
  Work(OpenSession("w"));
  watcher.join();
  ASSERT_TRUE(last.ok()) << last.status();
  EXPECT_EQ(last->state(), v1::JOB_STATE_SUCCEEDED);
}

TEST_F(JobFlowTest, WatchEndsWhenItsCallerHasSeenEnough) {
  auto job = client_->CreateJob(EvaluateRequest(client_.get(), "r"));
  EXPECT_EQ(
      client_->WatchJob(job->name(), 0, [](const v1::Job&) { return false; })
          .status()
          .code(),
      absl::StatusCode::kCancelled);
  EXPECT_EQ(
      client_->WatchJob("jobs/none", 0, [](const v1::Job&) { return true; })
          .status()
          .code(),
      absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace bitwright
