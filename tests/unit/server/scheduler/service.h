// A scheduler with a clock that stands still, a store in memory (or in a file)
// and workers that compute nothing, for tests.
#ifndef BITWRIGHT_TESTS_UNIT_SERVER_SCHEDULER_SERVICE_H_
#define BITWRIGHT_TESTS_UNIT_SERVER_SCHEDULER_SERVICE_H_

#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "common/base/clock.h"
#include "server/planner/planner.h"
#include "server/scheduler/scheduler.h"
#include "server/store/blob_store.h"
#include "server/store/job_store.h"

namespace bitwright {

#define ASSERT_OK(expr)                                     \
  do {                                                      \
    const absl::Status assert_ok_status = (expr);           \
    ASSERT_TRUE(assert_ok_status.ok()) << assert_ok_status; \
  } while (false)
#define EXPECT_OK(expr)                                     \
  do {                                                      \
    const absl::Status expect_ok_status = (expr);           \
    EXPECT_TRUE(expect_ok_status.ok()) << expect_ok_status; \
  } while (false)

// Dies with the status's message if there is no value.
template <typename T>
T ValueOf(absl::StatusOr<T> value, const char* file = __builtin_FILE(),
          int line = __builtin_LINE()) {
  if (!value.ok()) {
    ADD_FAILURE_AT(file, line) << value.status();
    std::abort();
  }
  return *std::move(value);
}

// Blobs in a map. Thread-safe.
class MemoryBlobStore : public BlobStore {
 public:
  v1::BlobDigest Put(absl::string_view bytes);
  size_t size();

  absl::StatusOr<bool> Has(const Digest& digest) override;
  absl::StatusOr<std::string> Read(const Digest& digest, uint64_t offset,
                                   uint64_t limit) override;
  absl::StatusOr<std::unique_ptr<BlobWriter>> BeginWrite(
      const Digest& digest) override;
  absl::Status AddExternal(const Digest& digest,
                           const std::string& path) override;
  absl::Status Delete(const Digest& digest) override;
  absl::Status ForEach(
      const std::function<void(const Digest&)>& visit) override;

 private:
  absl::Mutex mutex_;
  std::map<Digest, std::string> blobs_ ABSL_GUARDED_BY(mutex_);
};

Digest ToDigest(const v1::BlobDigest& digest);

// A Llama of `layers` blocks, each with seven linears.
ModelConfig SmallModel(int layers);

struct Service {
  explicit Service(const std::string& path = ":memory:",
                   SchedulerOptions options = {});

  // Everything that was in memory is gone; the stores are opened again.
  void Restart();

  // BAQ, two shards, an evaluation text.
  v1::JobSpec Spec(double bits = 3);
  // Created, planned and RUNNING. Returns its name.
  std::string Submit(const v1::JobSpec& spec,
                     const std::string& request_id = "");
  // Plans whatever is to be planned; `edit`, if any, changes the plans.
  void PlanAll(const std::function<void(Plan*)>& edit = nullptr);

  std::string OpenSession(const std::string& worker);
  // The one task that `session` gets; none: an empty task name.
  v1::LeasedTask Lease(const std::string& session);
  // What a worker answers: outputs in the blob store, a pure function of the
  // action.
  v1::CompleteTaskRequest Result(const std::string& session,
                                 const v1::LeasedTask& task);
  absl::Status Complete(const std::string& session, const v1::LeasedTask& task);
  absl::Status Fail(const std::string& session, const v1::LeasedTask& task,
                    bool retryable,
                    absl::StatusCode code = absl::StatusCode::kInternal);
  // Leases and completes until there is nothing to lease; returns how many.
  int WorkUntilIdle(const std::string& session);
  v1::Task GetTask(const std::string& name);
  std::vector<v1::Task> Tasks(const std::string& job);
  v1::JobState State(const std::string& job);

  std::string path;
  SchedulerOptions options;
  FakeClock clock{absl::FromUnixSeconds(1'700'000'000)};
  MemoryBlobStore blobs;
  ModelConfig config = SmallModel(2);
  int changes = 0;
  std::unique_ptr<JobStore> store;
  std::unique_ptr<Scheduler> scheduler;
};

}  // namespace bitwright

#endif  // BITWRIGHT_TESTS_UNIT_SERVER_SCHEDULER_SERVICE_H_
