#include <algorithm>

#include "absl/strings/str_cat.h"
#include "server/store/sqlite/sqlite_transaction.h"

namespace bitwright {

#define BW_TASK_COLUMNS                                                   \
  "SELECT job, position, key, kind, state, affinity, pending, attempts, " \
  "epoch, session, "                                                      \
  "worker, lease_deadline, action_digest, start_time, end_time, stage, "  \
  "fraction_done, note FROM tasks "

// The SQL below spells these numbers out.
static_assert(v1::TASK_STATE_WAITING == 1 && v1::TASK_STATE_READY == 2 &&
              v1::TASK_STATE_RUNNING == 3 && v1::TASK_STATE_CANCELLED == 7);
static_assert(v1::JOB_STATE_SUCCEEDED == 5 && v1::JOB_STATE_FAILED == 6 &&
              v1::JOB_STATE_CANCELLED == 8);

namespace {

absl::StatusOr<std::vector<TaskRecord>> ReadTasks(absl::StatusOr<Query> query) {
  BW_RETURN_IF_ERROR(query.status());
  std::vector<TaskRecord> tasks;
  for (;;) {
    BW_ASSIGN_OR_RETURN(bool row, query->Next());
    if (!row) return tasks;
    TaskRecord task;
    task.job = query->Int(0);
    task.position = static_cast<int>(query->Int(1));
    task.key = query->Text(2);
    task.kind = static_cast<v1::TaskKind>(query->Int(3));
    task.state = static_cast<v1::TaskState>(query->Int(4));
    task.affinity = query->Text(5);
    task.pending = static_cast<int>(query->Int(6));
    task.attempts = static_cast<int>(query->Int(7));
    task.epoch = query->Int(8);
    task.session = query->Text(9);
    task.worker = query->Text(10);
    task.lease_deadline = query->Time(11);
    task.action_digest = query->Text(12);
    task.start_time = query->Time(13);
    task.end_time = query->Time(14);
    task.stage = static_cast<int>(query->Int(15));
    task.fraction_done = query->Real(16);
    task.note = query->Text(17);
    tasks.push_back(std::move(task));
  }
}

absl::StatusOr<std::optional<TaskRecord>> ReadTask(
    absl::StatusOr<Query> query) {
  BW_ASSIGN_OR_RETURN(std::vector<TaskRecord> tasks,
                      ReadTasks(std::move(query)));
  if (tasks.empty()) return std::nullopt;
  return std::move(tasks.front());
}

}  // namespace

absl::Status SqliteTransaction::NoTask(int64_t job, int position) const {
  return absl::NotFoundError(absl::StrCat("job store ", db_->path(), ": job ",
                                          job, " has no task ", position));
}

absl::Status SqliteTransaction::InsertTask(const TaskRecord& task,
                                           const v1::Action& planned,
                                           absl::Span<const TaskInput> inputs) {
  constexpr char kInsertTask[] =
      "INSERT INTO tasks (job, position, key, kind, state, affinity, pending, "
      "attempts, epoch, "
      "session, worker, lease_deadline, action_digest, start_time, end_time, "
      "stage, fraction_done, note) "
      "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
  BW_RETURN_IF_ERROR(
      db_->Change(kInsertTask, task.job, task.position, task.key,
                  static_cast<int>(task.kind), static_cast<int>(task.state),
                  task.affinity, task.pending, task.attempts, task.epoch,
                  task.session, task.worker, task.lease_deadline,
                  task.action_digest, task.start_time, task.end_time,
                  task.stage, task.fraction_done, task.note)
          .status());
  BW_RETURN_IF_ERROR(db_->Change("INSERT INTO task_actions (job, position, "
                                 "planned) VALUES (?, ?, ?)",
                                 task.job, task.position,
                                 SqlBlob{planned.SerializeAsString()})
                         .status());
  constexpr char kFromTask[] =
      "INSERT INTO task_inputs (job, position, name, source, output, sha256, "
      "size) "
      "VALUES (?, ?, ?, ?, ?, '', 0)";
  constexpr char kFromBlob[] =
      "INSERT INTO task_inputs (job, position, name, source, output, sha256, "
      "size) "
      "VALUES (?, ?, ?, NULL, '', ?, ?)";
  for (const TaskInput& input : inputs) {
    BW_RETURN_IF_ERROR(
        (input.source
             ? db_->Change(kFromTask, task.job, task.position, input.name,
                           *input.source, input.output)
             : db_->Change(kFromBlob, task.job, task.position, input.name,
                           input.blob.sha256, input.blob.size))
            .status());
  }
  return absl::OkStatus();
}

absl::Status SqliteTransaction::DeleteTasks(int64_t job) {
  for (const char* sql : {"DELETE FROM task_errors WHERE job = ?",
                          "DELETE FROM task_inputs WHERE job = ?",
                          "DELETE FROM task_actions WHERE job = ?",
                          "DELETE FROM tasks WHERE job = ?"}) {
    BW_RETURN_IF_ERROR(db_->Change(sql, job).status());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::optional<TaskRecord>> SqliteTransaction::FindTask(
    int64_t job, absl::string_view key) {
  return ReadTask(
      db_->Run(BW_TASK_COLUMNS "WHERE job = ? AND key = ?", job, key));
}

absl::StatusOr<std::optional<TaskRecord>> SqliteTransaction::TaskAt(
    int64_t job, int position) {
  return ReadTask(db_->Run(BW_TASK_COLUMNS "WHERE job = ? AND position = ?",
                           job, position));
}

absl::StatusOr<std::vector<TaskRecord>> SqliteTransaction::ListTasks(
    int64_t job, int first, int limit) {
  return ReadTasks(
      db_->Run(BW_TASK_COLUMNS
               "WHERE job = ? AND position >= ? ORDER BY position LIMIT ?",
               job, first, limit));
}

absl::StatusOr<bool> SqliteTransaction::UpdateTask(const TaskRecord& task,
                                                   v1::TaskState if_state,
                                                   int64_t if_epoch) {
  constexpr char kUpdate[] =
      "UPDATE tasks SET state = ?, pending = ?, attempts = ?, epoch = ?, "
      "session = ?, worker = ?, "
      "lease_deadline = ?, action_digest = ?, start_time = ?, end_time = ?, "
      "fraction_done = ?, note = ? "
      "WHERE job = ? AND position = ? AND state = ? AND epoch = ?";
  BW_ASSIGN_OR_RETURN(
      int64_t changed,
      db_->Change(kUpdate, static_cast<int>(task.state), task.pending,
                  task.attempts, task.epoch, task.session, task.worker,
                  task.lease_deadline, task.action_digest, task.start_time,
                  task.end_time, task.fraction_done, task.note, task.job,
                  task.position, static_cast<int>(if_state), if_epoch));
  return changed == 1;
}

absl::Status SqliteTransaction::CancelTasks(int64_t job, bool running,
                                            absl::Time now) {
  constexpr char kUpdate[] =
      "UPDATE tasks SET state = 7, session = '', lease_deadline = NULL, "
      "end_time = ? "
      "WHERE job = ? AND (state IN (1, 2) OR (? AND state = 3))";
  return db_->Change(kUpdate, now, job, running ? 1 : 0).status();
}

absl::StatusOr<std::vector<TaskRecord>> SqliteTransaction::ReadyTasks(
    int limit) {
  return ReadTasks(db_->Run(
      BW_TASK_COLUMNS "WHERE state = 2 ORDER BY job, position LIMIT ?", limit));
}

absl::StatusOr<std::vector<TaskRecord>> SqliteTransaction::LeasesOf(
    absl::string_view session) {
  return ReadTasks(db_->Run(
      BW_TASK_COLUMNS "WHERE state = 3 AND session = ? ORDER BY job, position",
      session));
}

absl::StatusOr<std::vector<TaskRecord>> SqliteTransaction::LeasesUntil(
    absl::Time deadline) {
  return ReadTasks(
      db_->Run(BW_TASK_COLUMNS
               "WHERE state = 3 AND lease_deadline <= ? ORDER BY job, position",
               deadline));
}

absl::StatusOr<std::vector<TaskRecord>> SqliteTransaction::RunningTasks(
    int64_t job) {
  return ReadTasks(db_->Run(
      BW_TASK_COLUMNS "WHERE job = ? AND state = 3 ORDER BY position", job));
}

absl::StatusOr<std::vector<TaskCount>> SqliteTransaction::CountTasks(
    int64_t job) {
  BW_ASSIGN_OR_RETURN(Query query,
                      db_->Run("SELECT kind, state, count(*) FROM tasks WHERE "
                               "job = ? GROUP BY kind, state",
                               job));
  std::vector<TaskCount> counts;
  for (;;) {
    BW_ASSIGN_OR_RETURN(bool row, query.Next());
    if (!row) return counts;
    counts.push_back({static_cast<v1::TaskKind>(query.Int(0)),
                      static_cast<v1::TaskState>(query.Int(1)), query.Int(2)});
  }
}

absl::StatusOr<std::vector<TaskCount>> SqliteTransaction::CountOpenTasks() {
  constexpr char kCount[] =
      "SELECT tasks.state, count(*) FROM jobs JOIN tasks ON job = number "
      "WHERE jobs.state NOT IN (5, 6, 8) GROUP BY tasks.state ORDER BY "
      "tasks.state";
  BW_ASSIGN_OR_RETURN(Query query, db_->Run(kCount));
  std::vector<TaskCount> counts;
  for (;;) {
    BW_ASSIGN_OR_RETURN(bool row, query.Next());
    if (!row) return counts;
    counts.push_back({v1::TASK_KIND_UNSPECIFIED,
                      static_cast<v1::TaskState>(query.Int(0)), query.Int(1)});
  }
}

absl::Status SqliteTransaction::AddTaskError(int64_t job, int position,
                                             const v1::Error& error) {
  return db_
      ->Change(
          "INSERT INTO task_errors (job, position, error) VALUES (?, ?, ?)",
          job, position, SqlBlob{error.SerializeAsString()})
      .status();
}

absl::StatusOr<std::vector<v1::Error>> SqliteTransaction::TaskErrors(
    int64_t job, int position) {
  BW_ASSIGN_OR_RETURN(Query query,
                      db_->Run("SELECT error FROM task_errors WHERE job = ? "
                               "AND position = ? ORDER BY number",
                               job, position));
  std::vector<v1::Error> errors;
  for (;;) {
    BW_ASSIGN_OR_RETURN(bool row, query.Next());
    if (!row) return errors;
    BW_ASSIGN_OR_RETURN(v1::Error error,
                        Parse<v1::Error>(query.Text(0), "a task's error"));
    errors.push_back(std::move(error));
  }
}

}  // namespace bitwright
