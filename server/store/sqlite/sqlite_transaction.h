// The operations of job_store.h as SQL on one connection. Whoever makes one
// holds the connection and has begun a transaction on it.
#ifndef BITWRIGHT_SERVER_STORE_SQLITE_SQLITE_TRANSACTION_H_
#define BITWRIGHT_SERVER_STORE_SQLITE_SQLITE_TRANSACTION_H_

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "server/store/job_store.h"
#include "server/store/sqlite/database.h"

namespace bitwright {

class SqliteTransaction final : public JobTransaction {
 public:
  explicit SqliteTransaction(Database* database) : db_(database) {}

  // jobs.cc
  absl::StatusOr<int64_t> InsertJob(const JobRecord& job) override;
  absl::StatusOr<std::optional<JobRecord>> FindJob(
      absl::string_view id) override;
  absl::StatusOr<std::optional<JobRecord>> JobByNumber(int64_t number) override;
  absl::StatusOr<std::optional<JobRecord>> JobByRequest(
      absl::string_view request_id) override;
  absl::StatusOr<std::optional<JobRecord>> OldestUnplanned() override;
  absl::StatusOr<std::vector<JobRecord>> JobsBefore(int64_t before,
                                                    int limit) override;
  absl::Status UpdateJob(const JobRecord& job) override;
  absl::Status SetJobSpec(int64_t job, const v1::JobSpec& spec) override;
  absl::Status AddJobBlobs(int64_t job,
                           absl::Span<const Digest> blobs) override;
  absl::Status DeleteJob(int64_t job) override;

  // tasks.cc
  absl::Status InsertTask(const TaskRecord& task, const v1::Action& planned,
                          absl::Span<const TaskInput> inputs) override;
  absl::StatusOr<std::optional<TaskRecord>> FindTask(
      int64_t job, absl::string_view key) override;
  absl::StatusOr<std::optional<TaskRecord>> TaskAt(int64_t job,
                                                   int position) override;
  absl::Status DeleteTasks(int64_t job) override;
  absl::StatusOr<std::vector<TaskRecord>> ListTasks(int64_t job, int first,
                                                    int limit) override;
  absl::StatusOr<bool> UpdateTask(const TaskRecord& task,
                                  v1::TaskState if_state,
                                  int64_t if_epoch) override;
  absl::Status CancelTasks(int64_t job, bool running, absl::Time now) override;
  absl::StatusOr<std::vector<TaskRecord>> ReadyTasks(int limit) override;
  absl::StatusOr<std::vector<TaskRecord>> LeasesOf(
      absl::string_view session) override;
  absl::StatusOr<std::vector<TaskRecord>> LeasesUntil(
      absl::Time deadline) override;
  absl::StatusOr<std::vector<TaskRecord>> RunningTasks(int64_t job) override;
  absl::StatusOr<std::vector<TaskCount>> CountTasks(int64_t job) override;
  absl::StatusOr<std::vector<TaskCount>> CountOpenTasks() override;
  absl::Status AddTaskError(int64_t job, int position,
                            const v1::Error& error) override;
  absl::StatusOr<std::vector<v1::Error>> TaskErrors(int64_t job,
                                                    int position) override;

  // graph.cc
  absl::StatusOr<std::vector<int>> Unblock(int64_t job, int source) override;
  absl::StatusOr<std::vector<TaskEdge>> Edges(int64_t job) override;
  absl::StatusOr<v1::Action> ResolveAction(int64_t job, int position) override;
  absl::Status SetAction(int64_t job, int position,
                         const v1::Action& action) override;
  absl::StatusOr<v1::Action> GetAction(int64_t job, int position) override;

  // results.cc
  absl::StatusOr<std::optional<ResultRecord>> FindResult(
      absl::string_view action) override;
  absl::Status PutResult(const ResultRecord& result) override;
  absl::StatusOr<std::vector<std::pair<std::string, v1::TaskSummary>>>
  Summaries(int64_t job) override;
  absl::StatusOr<std::vector<Digest>> BlobsOf(int64_t job) override;
  absl::StatusOr<std::vector<Digest>> DropUnusedResults() override;
  absl::StatusOr<std::vector<Digest>> Unreferenced(
      absl::Span<const Digest> blobs) override;
  absl::Status PutCheckpoint(const CheckpointRecord& checkpoint) override;
  absl::StatusOr<std::optional<CheckpointRecord>> FindCheckpoint(
      absl::string_view job_id) override;
  absl::StatusOr<std::vector<CheckpointRecord>> CheckpointsBefore(
      int64_t before, int limit) override;

  // workers.cc
  absl::Status PutWorker(const WorkerRecord& worker) override;
  absl::StatusOr<std::optional<WorkerRecord>> FindWorker(
      absl::string_view name) override;
  absl::StatusOr<std::optional<WorkerRecord>> WorkerOf(
      absl::string_view session) override;
  absl::StatusOr<std::vector<WorkerRecord>> ListWorkers() override;
  absl::Status DeleteWorker(absl::string_view name) override;

 private:
  // NOT_FOUND, naming the task, for a row that must be there.
  absl::Status NoTask(int64_t job, int position) const;
  // DATA_LOSS unless `bytes` parses.
  template <typename Proto>
  absl::StatusOr<Proto> Parse(const std::string& bytes,
                              absl::string_view what) const {
    Proto proto;
    if (!proto.ParseFromString(bytes)) return Unparsable(what);
    return proto;
  }
  absl::Status Unparsable(absl::string_view what) const;
  absl::StatusOr<std::vector<JobRecord>> ReadJobs(Query query) const;
  absl::StatusOr<std::optional<JobRecord>> ReadJob(
      absl::StatusOr<Query> query) const;
  absl::StatusOr<std::vector<CheckpointRecord>> ReadCheckpoints(
      absl::StatusOr<Query> query) const;

  Database* db_;
};

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_STORE_SQLITE_SQLITE_TRANSACTION_H_
