// One file in WAL mode with synchronous=FULL: what a transaction committed is
// on the disk. Writers take turns with BEGIN IMMEDIATE, so that none fails
// half-way through; readers have a connection of their own and see a snapshot.
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "server/store/job_store.h"
#include "server/store/sqlite/database.h"
#include "server/store/sqlite/schema.h"
#include "server/store/sqlite/sqlite_transaction.h"

namespace bitwright {
namespace {

constexpr char kMemory[] = ":memory:";

absl::Status RunTransaction(Database* database, const char* begin,
                            JobStore::Body body) {
  BW_RETURN_IF_ERROR(database->Exec(begin));
  absl::Status status;
  {
    SqliteTransaction transaction(database);
    status = body(&transaction);
  }
  if (status.ok()) status = database->Exec("COMMIT");
  // After some errors SQLite has rolled back by itself, and this one fails.
  if (!status.ok()) (void)database->Exec("ROLLBACK");
  return status;
}

class SqliteJobStore final : public JobStore {
 public:
  SqliteJobStore(std::unique_ptr<Database> writer,
                 std::unique_ptr<Database> reader)
      : writer_(std::move(writer)), reader_(std::move(reader)) {}

  absl::Status Write(Body body) override ABSL_LOCKS_EXCLUDED(write_mutex_) {
    absl::MutexLock lock(&write_mutex_);
    return RunTransaction(writer_.get(), "BEGIN IMMEDIATE", body);
  }

  absl::Status Read(Body body) override
      ABSL_LOCKS_EXCLUDED(write_mutex_, read_mutex_) {
    if (reader_ != nullptr) {
      absl::MutexLock lock(&read_mutex_);
      return RunTransaction(reader_.get(), "BEGIN", body);
    }
    absl::MutexLock lock(&write_mutex_);
    BW_RETURN_IF_ERROR(writer_->Exec("PRAGMA query_only = ON"));
    absl::Status status = RunTransaction(writer_.get(), "BEGIN", body);
    absl::Status reset = writer_->Exec("PRAGMA query_only = OFF");
    return status.ok() ? reset : status;
  }

 private:
  absl::Mutex write_mutex_, read_mutex_;
  const std::unique_ptr<Database> writer_ ABSL_PT_GUARDED_BY(write_mutex_);
  // Null for a database in memory, which only one connection can see.
  const std::unique_ptr<Database> reader_ ABSL_PT_GUARDED_BY(read_mutex_);
};

}  // namespace

absl::StatusOr<std::unique_ptr<JobStore>> OpenSqliteJobStore(
    const std::string& path, absl::Duration busy_timeout) {
  BW_ASSIGN_OR_RETURN(std::unique_ptr<Database> writer,
                      Database::Open(path, busy_timeout));
  BW_RETURN_IF_ERROR(writer->Exec("PRAGMA journal_mode = WAL"));
  BW_RETURN_IF_ERROR(writer->Exec("PRAGMA synchronous = FULL"));
  BW_RETURN_IF_ERROR(writer->Exec("BEGIN IMMEDIATE"));
  absl::Status prepared = PrepareSchema(writer.get());
  if (prepared.ok()) prepared = writer->Exec("COMMIT");
  BW_RETURN_IF_ERROR(prepared);
  std::unique_ptr<Database> reader;
  if (path != kMemory) {
    BW_ASSIGN_OR_RETURN(reader, Database::Open(path, busy_timeout));
    BW_RETURN_IF_ERROR(reader->Exec("PRAGMA query_only = ON"));
  }
  return std::make_unique<SqliteJobStore>(std::move(writer), std::move(reader));
}

}  // namespace bitwright
