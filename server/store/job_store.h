// Where the coordinator keeps its truth: jobs, tasks, workers, action results
// and checkpoints, as records that are read and changed inside transactions.
// The rules of what may follow what are the scheduler's; a store only keeps
// records, checks conditions, and never loses what it committed.
//
//   BW_ASSIGN_OR_RETURN(auto store, OpenSqliteJobStore("/var/lib/bw/jobs.db"));
//   absl::Status status = store->Write([&](JobTransaction* t) -> absl::Status {
//     BW_ASSIGN_OR_RETURN(auto job, t->FindJob("3f9a0c44d21b"));
//     if (!job) return absl::NotFoundError("...");   // Rolls back.
//     job->state = v1::JOB_STATE_CANCELLED;
//     return t->UpdateJob(*job);                     // Commits if OK.
//   });
//
// Every implementation passes tests/contract/job_store_contract.h.
//
// Errors, in every call: UNAVAILABLE, the store is locked or cannot be reached
// (try again); RESOURCE_EXHAUSTED, the disk is full; DATA_LOSS, the store is
// corrupt; PERMISSION_DENIED, it cannot be written; INTERNAL, the rest. Each
// names the store. A failed transaction has changed nothing.
#ifndef BITWRIGHT_SERVER_STORE_JOB_STORE_H_
#define BITWRIGHT_SERVER_STORE_JOB_STORE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "bitwright/v1/checkpoint.pb.h"
#include "bitwright/v1/job.pb.h"
#include "bitwright/v1/worker.pb.h"
#include "common/base/digest.h"

namespace bitwright {

// A time that is not set is absl::InfinitePast(). Times have microseconds.

struct JobRecord {
  int64_t number = 0;      // Given by InsertJob; grows, never used twice.
  std::string id;          // Unique.
  std::string request_id;  // Unique unless empty.
  std::string asked;       // Digest of the spec that CreateJob was called with.
  v1::JobSpec spec;        // Written by InsertJob and SetJobSpec only.
  v1::JobState state = v1::JOB_STATE_PENDING;
  absl::Time create_time = absl::InfinitePast();
  absl::Time start_time = absl::InfinitePast();
  absl::Time end_time = absl::InfinitePast();
  v1::Error error;
  v1::JobResult result;
  int64_t sequence = 1;
};

struct TaskRecord {
  int64_t job = 0;   // The job's number.
  int position = 0;  // In graph order, from 0; with `job`, the primary key.
  std::string key;   // Unique in the job.
  v1::TaskKind kind = v1::TASK_KIND_UNSPECIFIED;
  v1::TaskState state = v1::TASK_STATE_WAITING;
  int stage = 0;  // Grows in graph order wherever the kind changes.
  std::string affinity;
  int pending = 0;  // Source tasks that are not done yet.
  int attempts = 0;
  int64_t epoch = 0;
  std::string session;  // Of the lease; empty unless RUNNING.
  std::string worker;   // Of the current or last lease.
  absl::Time lease_deadline = absl::InfinitePast();
  std::string action_digest;  // Once all inputs are known.
  absl::Time start_time = absl::InfinitePast();
  absl::Time end_time = absl::InfinitePast();
  // Of the current or last lease, as of its last heartbeat.
  double fraction_done = 0;
  std::string note;
};

// Where one input of a task comes from.
struct TaskInput {
  std::string name;           // Unique in the task.
  std::optional<int> source;  // Position of an earlier task...
  std::string output;         // ... and the name of its output,
  Digest blob;                // or else a blob.
};

struct TaskEdge {
  int source = 0, consumer = 0;  // Positions.
};

struct TaskCount {
  v1::TaskKind kind = v1::TASK_KIND_UNSPECIFIED;
  v1::TaskState state = v1::TASK_STATE_UNSPECIFIED;
  int64_t count = 0;
};

struct NamedDigest {
  std::string name;
  Digest digest;
  bool operator==(const NamedDigest& other) const {
    return name == other.name && digest == other.digest;
  }
};

struct ResultRecord {
  std::string action_digest;
  std::vector<NamedDigest> outputs;  // Sorted by name.
  v1::TaskSummary summary;
};

struct WorkerRecord {
  std::string name;
  std::string device, version;
  std::string session;  // Empty: no session. Unique otherwise.
  absl::Time last_seen = absl::InfinitePast();
  int64_t completed = 0;
  std::vector<std::string> affinities;  // Of its last tasks, newest first.
};

struct CheckpointRecord {
  int64_t job = 0;  // Number of the job that made it, and goes with it.
  std::string job_id;
  v1::CheckpointManifest manifest;
  absl::Time create_time = absl::InfinitePast();
};

// What can be done inside a transaction. Valid during the call of the body
// only.
class JobTransaction {
 public:
  virtual ~JobTransaction() = default;

  // --- Jobs -----------------------------------------------------------------
  // Returns the number. ALREADY_EXISTS: id or request_id are taken.
  virtual absl::StatusOr<int64_t> InsertJob(const JobRecord& job) = 0;
  virtual absl::StatusOr<std::optional<JobRecord>> FindJob(
      absl::string_view id) = 0;
  virtual absl::StatusOr<std::optional<JobRecord>> JobByNumber(
      int64_t number) = 0;
  virtual absl::StatusOr<std::optional<JobRecord>> JobByRequest(
      absl::string_view request_id) = 0;
  // The oldest job that is PENDING or PLANNING.
  virtual absl::StatusOr<std::optional<JobRecord>> OldestUnplanned() = 0;
  // Numbers below `before`, descending.
  virtual absl::StatusOr<std::vector<JobRecord>> JobsBefore(int64_t before,
                                                            int limit) = 0;
  // State, times, error, result and sequence. NOT_FOUND.
  virtual absl::Status UpdateJob(const JobRecord& job) = 0;
  virtual absl::Status SetJobSpec(int64_t job, const v1::JobSpec& spec) = 0;
  // Blobs that the job refers to beside its tasks' outputs: what it was given,
  // and its checkpoint's files. Adding one twice is fine.
  virtual absl::Status AddJobBlobs(int64_t job,
                                   absl::Span<const Digest> blobs) = 0;
  // With its tasks, blobs and checkpoint; results stay (see DropUnusedResults).
  virtual absl::Status DeleteJob(int64_t job) = 0;

  // --- Tasks ----------------------------------------------------------------
  // `planned` is the action without inputs.
  virtual absl::Status InsertTask(const TaskRecord& task,
                                  const v1::Action& planned,
                                  absl::Span<const TaskInput> inputs) = 0;
  virtual absl::StatusOr<std::optional<TaskRecord>> FindTask(
      int64_t job, absl::string_view key) = 0;
  virtual absl::StatusOr<std::optional<TaskRecord>> TaskAt(int64_t job,
                                                           int position) = 0;
  // All of the job, with their actions, inputs and errors; results stay.
  virtual absl::Status DeleteTasks(int64_t job) = 0;
  // From position `first` on.
  virtual absl::StatusOr<std::vector<TaskRecord>> ListTasks(int64_t job,
                                                            int first,
                                                            int limit) = 0;
  // Everything but key, kind, stage and affinity, if the stored task has still
  // state `if_state` and epoch `if_epoch`; false, and nothing changes,
  // otherwise.
  virtual absl::StatusOr<bool> UpdateTask(const TaskRecord& task,
                                          v1::TaskState if_state,
                                          int64_t if_epoch) = 0;
  // All tasks of the job that are WAITING or READY, and those RUNNING if
  // `running` is set, become CANCELLED and lose their leases.
  virtual absl::Status CancelTasks(int64_t job, bool running,
                                   absl::Time now) = 0;
  // One less pending for every task that has an input from `source`. Returns
  // the positions of those that have none left, ascending.
  virtual absl::StatusOr<std::vector<int>> Unblock(int64_t job, int source) = 0;
  // Without duplicates, by consumer.
  virtual absl::StatusOr<std::vector<TaskEdge>> Edges(int64_t job) = 0;
  // The planned action with its inputs, sorted by name. FAILED_PRECONDITION
  // names an input whose source has no such output on record.
  virtual absl::StatusOr<v1::Action> ResolveAction(int64_t job,
                                                   int position) = 0;
  // The resolved action, kept for LeaseTasks.
  virtual absl::Status SetAction(int64_t job, int position,
                                 const v1::Action& action) = 0;
  virtual absl::StatusOr<v1::Action> GetAction(int64_t job, int position) = 0;
  // READY ones of all jobs, by job number and position. An implementation with
  // several writers at once skips those that another transaction holds.
  virtual absl::StatusOr<std::vector<TaskRecord>> ReadyTasks(int limit) = 0;
  // RUNNING ones, by job and position.
  virtual absl::StatusOr<std::vector<TaskRecord>> LeasesOf(
      absl::string_view session) = 0;
  virtual absl::StatusOr<std::vector<TaskRecord>> LeasesUntil(
      absl::Time deadline) = 0;
  // The job's RUNNING ones, by position.
  virtual absl::StatusOr<std::vector<TaskRecord>> RunningTasks(int64_t job) = 0;
  virtual absl::StatusOr<std::vector<TaskCount>> CountTasks(int64_t job) = 0;
  // Over all jobs that are not terminal, by state; `kind` is left out.
  virtual absl::StatusOr<std::vector<TaskCount>> CountOpenTasks() = 0;
  virtual absl::Status AddTaskError(int64_t job, int position,
                                    const v1::Error& error) = 0;
  // In the order they were added.
  virtual absl::StatusOr<std::vector<v1::Error>> TaskErrors(int64_t job,
                                                            int position) = 0;

  // --- Results
  // ----------------------------------------------------------------
  virtual absl::StatusOr<std::optional<ResultRecord>> FindResult(
      absl::string_view action) = 0;
  // Inserts it, or replaces the one with the same action digest.
  virtual absl::Status PutResult(const ResultRecord& result) = 0;
  // Keys and summaries of the job's tasks that have a result, in graph order.
  virtual absl::StatusOr<std::vector<std::pair<std::string, v1::TaskSummary>>>
  Summaries(int64_t job) = 0;
  // Every blob of AddJobBlobs and of its tasks' results. Sorted, unique.
  virtual absl::StatusOr<std::vector<Digest>> BlobsOf(int64_t job) = 0;
  // Forgets results whose action no task has any more; returns their outputs.
  virtual absl::StatusOr<std::vector<Digest>> DropUnusedResults() = 0;
  // Those of `blobs` that no job and no result refers to.
  virtual absl::StatusOr<std::vector<Digest>> Unreferenced(
      absl::Span<const Digest> blobs) = 0;

  // --- Workers
  // ----------------------------------------------------------------
  virtual absl::Status PutWorker(const WorkerRecord& worker) = 0;  // By name.
  virtual absl::StatusOr<std::optional<WorkerRecord>> FindWorker(
      absl::string_view name) = 0;
  virtual absl::StatusOr<std::optional<WorkerRecord>> WorkerOf(
      absl::string_view session) = 0;
  virtual absl::StatusOr<std::vector<WorkerRecord>>
  ListWorkers() = 0;  // By name.
  virtual absl::Status DeleteWorker(absl::string_view name) = 0;

  // --- Checkpoints
  // ------------------------------------------------------------ Inserts, or
  // replaces that of the same job.
  virtual absl::Status PutCheckpoint(const CheckpointRecord& checkpoint) = 0;
  virtual absl::StatusOr<std::optional<CheckpointRecord>> FindCheckpoint(
      absl::string_view job_id) = 0;
  // Of jobs with numbers below `before`, descending.
  virtual absl::StatusOr<std::vector<CheckpointRecord>> CheckpointsBefore(
      int64_t before, int limit) = 0;
};

// Thread-safe. Transactions are serializable; each sees all that was committed
// before it began.
class JobStore {
 public:
  using Body = absl::FunctionRef<absl::Status(JobTransaction*)>;
  virtual ~JobStore() = default;

  // Commits if `body` returns OK, else rolls back and returns its status.
  // `body` may be run again from the start if the store had to give way to
  // another writer: it must not change anything but through the transaction, or
  // reset that first. It must not start another transaction.
  virtual absl::Status Write(Body body) = 0;
  // A snapshot; changes nothing.
  virtual absl::Status Read(Body body) = 0;
};

// One file (and its -wal and -shm), made if absent; ":memory:" keeps nothing.
// Several stores, in one process or several, may be open on one file; a writer
// waits up to `busy_timeout` for the others. FAILED_PRECONDITION: not a
// Bitwright job store, of a newer version, or its directory is not there.
absl::StatusOr<std::unique_ptr<JobStore>> OpenSqliteJobStore(
    const std::string& path, absl::Duration busy_timeout = absl::Seconds(20));

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_STORE_JOB_STORE_H_
