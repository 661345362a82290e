#include "server/store/sqlite/schema.h"

#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"

namespace bitwright {
namespace {

constexpr int64_t kApplicationId = 0x42574a53;  // "BWJS"
constexpr int64_t kVersion = 2;

// States and kinds are the numbers of job.proto. Times are microseconds since
// 1970, NULL if not set. Serialized protos are BLOBs.
constexpr char kTables[] = R"sql(
CREATE TABLE jobs (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  request_id TEXT UNIQUE,
  asked TEXT NOT NULL,
  state INTEGER NOT NULL,
  create_time INTEGER,
  start_time INTEGER,
  end_time INTEGER,
  error BLOB NOT NULL,
  result BLOB NOT NULL,
  sequence INTEGER NOT NULL);
CREATE INDEX jobs_unplanned ON jobs (number) WHERE state IN (1, 2);

CREATE TABLE job_specs (
  job INTEGER PRIMARY KEY,
  spec BLOB NOT NULL);

CREATE TABLE job_blobs (
  job INTEGER NOT NULL,
  sha256 TEXT NOT NULL,
  size INTEGER NOT NULL,
  PRIMARY KEY (job, sha256, size)) WITHOUT ROWID;
CREATE INDEX job_blobs_by_digest ON job_blobs (sha256, size);

CREATE TABLE tasks (
  job INTEGER NOT NULL,
  position INTEGER NOT NULL,
  key TEXT NOT NULL,
  kind INTEGER NOT NULL,
  state INTEGER NOT NULL,
  stage INTEGER NOT NULL,
  affinity TEXT NOT NULL,
  pending INTEGER NOT NULL,
  attempts INTEGER NOT NULL,
  epoch INTEGER NOT NULL,
  session TEXT NOT NULL,
  worker TEXT NOT NULL,
  lease_deadline INTEGER,
  action_digest TEXT NOT NULL,
  start_time INTEGER,
  end_time INTEGER,
  fraction_done REAL NOT NULL DEFAULT 0,
  note TEXT NOT NULL DEFAULT '',
  PRIMARY KEY (job, position),
  UNIQUE (job, key)) WITHOUT ROWID;
CREATE INDEX tasks_ready ON tasks (job, position) WHERE state = 2;
CREATE INDEX tasks_running ON tasks (job, position) WHERE state = 3;
CREATE INDEX tasks_by_deadline ON tasks (lease_deadline) WHERE state = 3;
CREATE INDEX tasks_by_session ON tasks (session) WHERE state = 3;
CREATE INDEX tasks_by_state ON tasks (job, kind, state);
CREATE INDEX tasks_by_action ON tasks (action_digest);

CREATE TABLE task_actions (
  job INTEGER NOT NULL,
  position INTEGER NOT NULL,
  planned BLOB NOT NULL,
  resolved BLOB,
  PRIMARY KEY (job, position));

CREATE TABLE task_inputs (
  job INTEGER NOT NULL,
  position INTEGER NOT NULL,
  name TEXT NOT NULL,
  source INTEGER,
  output TEXT NOT NULL,
  sha256 TEXT NOT NULL,
  size INTEGER NOT NULL,
  PRIMARY KEY (job, position, name)) WITHOUT ROWID;
CREATE INDEX task_inputs_by_source ON task_inputs (job, source, position);

CREATE TABLE task_errors (
  number INTEGER PRIMARY KEY,
  job INTEGER NOT NULL,
  position INTEGER NOT NULL,
  error BLOB NOT NULL);
CREATE INDEX task_errors_by_task ON task_errors (job, position);

CREATE TABLE results (
  action_digest TEXT PRIMARY KEY,
  summary BLOB NOT NULL) WITHOUT ROWID;

CREATE TABLE result_outputs (
  action_digest TEXT NOT NULL,
  name TEXT NOT NULL,
  sha256 TEXT NOT NULL,
  size INTEGER NOT NULL,
  PRIMARY KEY (action_digest, name)) WITHOUT ROWID;
CREATE INDEX result_outputs_by_digest ON result_outputs (sha256, size);

CREATE TABLE workers (
  name TEXT PRIMARY KEY,
  device TEXT NOT NULL,
  version TEXT NOT NULL,
  session TEXT UNIQUE,
  last_seen INTEGER,
  completed INTEGER NOT NULL,
  affinities TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE checkpoints (
  job INTEGER PRIMARY KEY,
  job_id TEXT NOT NULL UNIQUE,
  manifest BLOB NOT NULL,
  create_time INTEGER);

PRAGMA application_id = 1113016915;
PRAGMA user_version = 2;
)sql";

// What a file of version 1 lacks.
constexpr char kUpgradeFrom1[] = R"sql(
ALTER TABLE tasks ADD COLUMN fraction_done REAL NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN note TEXT NOT NULL DEFAULT '';
CREATE INDEX tasks_running ON tasks (job, position) WHERE state = 3;
PRAGMA user_version = 2;
)sql";
static_assert(kApplicationId == 1113016915 && kVersion == 2,
              "kTables and kUpgradeFrom1 spell these numbers out");

absl::StatusOr<int64_t> ReadNumber(Database* database, const char* sql) {
  BW_ASSIGN_OR_RETURN(Query query, database->Run(sql));
  BW_ASSIGN_OR_RETURN(bool row, query.Next());
  return row ? query.Int(0) : 0;
}

absl::Status CheckIntegrity(Database* database) {
  BW_ASSIGN_OR_RETURN(Query query, database->Run("PRAGMA quick_check(1)"));
  BW_ASSIGN_OR_RETURN(bool row, query.Next());
  const std::string verdict = row ? query.Text(0) : "ok";
  if (verdict == "ok") return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(
      "job store ", database->path(),
      ": the file is corrupt; restore it, or move it away to start afresh: ",
      verdict));
}

}  // namespace

absl::Status PrepareSchema(Database* database) {
  BW_ASSIGN_OR_RETURN(int64_t application,
                      ReadNumber(database, "PRAGMA application_id"));
  BW_ASSIGN_OR_RETURN(int64_t version,
                      ReadNumber(database, "PRAGMA user_version"));
  BW_ASSIGN_OR_RETURN(
      int64_t tables,
      ReadNumber(database, "SELECT count(*) FROM sqlite_schema"));
  if (application == 0 && version == 0 && tables == 0)
    return database->Exec(kTables);
  if (application != kApplicationId) {
    return absl::FailedPreconditionError(absl::StrCat(
        "job store ", database->path(),
        ": this SQLite file belongs to another program; choose another path"));
  }
  if (version == 1) {
    BW_RETURN_IF_ERROR(CheckIntegrity(database));
    return database->Exec(kUpgradeFrom1);
  }
  if (version != kVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("job store ", database->path(), ": its version is ",
                     version, ", this program reads ", kVersion,
                     "; use the program that wrote it, or another path"));
  }
  return CheckIntegrity(database);
}

}  // namespace bitwright
