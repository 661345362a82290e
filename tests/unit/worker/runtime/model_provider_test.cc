// Fetching blobs and models, and running a task on what was fetched.
#include "worker/runtime/model_provider.h"

#include <filesystem>
#include <memory>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "proto/algorithm_version.h"
#include "tests/unit/worker/runtime/fake_server.h"
#include "tests/unit/worker/runtime/task_test_util.h"
#include "worker/runtime/task_runner.h"

namespace bitwright {
namespace {

namespace fs = std::filesystem;

class FetchTest : public testing::Test {
 protected:
  FetchTest()
      : cache_(*BlobCache::Open(directory_.path() + "/cache", 1 << 20)),
        source_(Source(FixtureModel("llama_plain"))) {}

  void UploadModel() {
    for (const char* name : {"config.json", "model.safetensors"}) {
      ASSERT_TRUE(
          server_.UploadFile(absl::StrCat(source_.path(), "/", name)).ok());
    }
  }

  TempDirectory directory_ = *TempDirectory::Create("fetch-");
  FakeServer server_;
  WorkerMetrics metrics_;
  Patience patience_{absl::InfiniteDuration(), absl::Milliseconds(1)};
  std::unique_ptr<BlobCache> cache_;
  BlobFetcher fetcher_{&server_, cache_.get(), &patience_, &metrics_};
  v1::ModelSource source_;
};

TEST_F(FetchTest, FetchesOnceAndThenFromTheCache) {
  server_.blobs[DigestOf("x").sha256] = "x";
  for (int i = 0; i < 3; ++i) {
    auto blob = fetcher_.Fetch(DigestOf("x"));
    ASSERT_TRUE(blob.ok()) << blob.status();
    EXPECT_EQ(*ReadFile(blob->path()), "x");
  }
  EXPECT_EQ(server_.downloads, 1);
}

TEST_F(FetchTest, ABlobThatTheServerLostMayBeRetried) {
  const absl::Status status = fetcher_.Fetch(DigestOf("x")).status();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_TRUE(IsRetryable(status));
}

TEST_F(FetchTest, OpensAModelInPlaceAndKeepsIt) {
  ModelProvider models(&fetcher_, "cpu");
  auto first = models.Get(source_, "d");
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ((*first)->directory().path(), source_.path());
  EXPECT_EQ(first->get(), models.Get(source_, "d")->get());
  EXPECT_EQ(server_.downloads, 0);
  EXPECT_NE(first->get(), models.Get(source_, "e")->get());
}

TEST_F(FetchTest, FetchesAModelThatIsNotHere) {
  UploadModel();
  source_.set_path("/nowhere/at/all");
  ModelProvider models(&fetcher_, "cpu");
  auto model = models.Get(source_, "d");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->config().hidden_size, 24);
  EXPECT_TRUE((*model)->Decoder().ok());
  EXPECT_EQ(model->get(), models.Get(source_, "d")->get());
  EXPECT_EQ(server_.downloads, 2);
}

TEST_F(FetchTest, FetchesAModelWhoseFileHereHasAnotherSize) {
  UploadModel();
  const std::string copy = directory_.path() + "/copy";
  fs::copy(source_.path(), copy);
  fs::resize_file(copy + "/config.json", 3);
  source_.set_path(copy);
  ModelProvider models(&fetcher_, "cpu");
  auto model = models.Get(source_, "d");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_NE((*model)->directory().path(), copy);
}

TEST_F(FetchTest, RefusesNamesThatLeaveTheDirectory) {
  ModelProvider models(&fetcher_, "cpu");
  for (const char* name :
       {"../config.json", "/etc/passwd", "a//b", "a/../b", "", "."}) {
    source_.mutable_files(0)->set_name(name);
    EXPECT_EQ(models.Get(source_, "d").status().code(),
              absl::StatusCode::kInvalidArgument)
        << name;
  }
}

TEST_F(FetchTest, ATaskRunsOnFetchedInputsAndItsOutputsStayInTheCache) {
  ModelProvider models(&fetcher_, "cpu");
  auto runner = MakeTaskRunner(&fetcher_, &models, &metrics_);
  const std::string tokens = TokensBlob({4, 10}, 67);
  server_.blobs[DigestOf(tokens).sha256] = tokens;
  v1::LeasedTask task;
  *task.mutable_model() = source_;
  task.mutable_action()->set_kind(v1::TASK_KIND_FORWARD);
  task.mutable_action()->set_algorithm_version(
      AlgorithmVersion(v1::TASK_KIND_FORWARD));
  task.mutable_action()->mutable_forward()->set_shards(2);
  v1::BlobDigest digest;
  digest.set_sha256(DigestOf(tokens).sha256);
  digest.set_size_bytes(tokens.size());
  AddInput(task.mutable_action(), "windows", digest);

  TaskControl control;
  runner->Prefetch(task);
  EXPECT_EQ(server_.downloads, 1);
  auto computed = runner->Compute(task, &control);
  ASSERT_TRUE(computed.ok()) << computed.status();
  EXPECT_EQ(server_.downloads, 1);
  auto uploaded = runner->Upload(*computed);
  ASSERT_TRUE(uploaded.ok()) << uploaded.status();
  ASSERT_EQ(uploaded->size(), 2u);
  for (const v1::NamedBlob& output : *uploaded) {
    EXPECT_EQ(server_.blobs.count(output.digest().sha256()), 1u);
    EXPECT_TRUE(
        cache_
            ->Find({output.digest().sha256(),
                    static_cast<uint64_t>(output.digest().size_bytes())})
            .has_value());
  }
  EXPECT_TRUE(fs::is_empty(cache_->scratch()));

  server_.blobs[(*uploaded)[0].digest().sha256()].clear();
  task.mutable_action()->mutable_inputs(0)->set_name("other");
  EXPECT_TRUE(absl::IsNotFound(runner->Compute(task, &control).status()));
}

}  // namespace
}  // namespace bitwright
