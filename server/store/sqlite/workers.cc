#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "server/store/sqlite/sqlite_transaction.h"

namespace bitwright {

#define BW_WORKER_COLUMNS                                                    \
  "SELECT name, device, version, session, last_seen, completed, affinities " \
  "FROM workers "

namespace {

absl::StatusOr<std::vector<WorkerRecord>> ReadWorkers(
    absl::StatusOr<Query> query) {
  BW_RETURN_IF_ERROR(query.status());
  std::vector<WorkerRecord> workers;
  for (;;) {
    BW_ASSIGN_OR_RETURN(bool row, query->Next());
    if (!row) return workers;
    WorkerRecord worker;
    worker.name = query->Text(0);
    worker.device = query->Text(1);
    worker.version = query->Text(2);
    worker.session = query->Text(3);
    worker.last_seen = query->Time(4);
    worker.completed = query->Int(5);
    worker.affinities = absl::StrSplit(query->Text(6), '\n', absl::SkipEmpty());
    workers.push_back(std::move(worker));
  }
}

absl::StatusOr<std::optional<WorkerRecord>> ReadWorker(
    absl::StatusOr<Query> query) {
  BW_ASSIGN_OR_RETURN(std::vector<WorkerRecord> workers,
                      ReadWorkers(std::move(query)));
  if (workers.empty()) return std::nullopt;
  return std::move(workers.front());
}

}  // namespace

absl::Status SqliteTransaction::PutWorker(const WorkerRecord& worker) {
  constexpr char kPut[] =
      "INSERT INTO workers (name, device, version, session, last_seen, "
      "completed, affinities) "
      "VALUES (?, ?, ?, nullif(?, ''), ?, ?, ?) ON CONFLICT (name) DO UPDATE "
      "SET "
      "device = excluded.device, version = excluded.version, session = "
      "excluded.session, "
      "last_seen = excluded.last_seen, completed = excluded.completed, "
      "affinities = excluded.affinities";
  return db_
      ->Change(kPut, worker.name, worker.device, worker.version, worker.session,
               worker.last_seen, worker.completed,
               absl::StrJoin(worker.affinities, "\n"))
      .status();
}

absl::StatusOr<std::optional<WorkerRecord>> SqliteTransaction::FindWorker(
    absl::string_view name) {
  return ReadWorker(db_->Run(BW_WORKER_COLUMNS "WHERE name = ?", name));
}

absl::StatusOr<std::optional<WorkerRecord>> SqliteTransaction::WorkerOf(
    absl::string_view session) {
  return ReadWorker(db_->Run(BW_WORKER_COLUMNS "WHERE session = ?", session));
}

absl::StatusOr<std::vector<WorkerRecord>> SqliteTransaction::ListWorkers() {
  return ReadWorkers(db_->Run(BW_WORKER_COLUMNS "ORDER BY name"));
}

absl::Status SqliteTransaction::DeleteWorker(absl::string_view name) {
  return db_->Change("DELETE FROM workers WHERE name = ?", name).status();
}

}  // namespace bitwright
