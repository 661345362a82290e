#include "server/store/sqlite/database.h"

#include "absl/strings/str_cat.h"

namespace bitwright {

Query::Query(Query&& other) noexcept
    : database_(other.database_),
      statement_(std::exchange(other.statement_, nullptr)) {}

Query::~Query() {
  if (statement_ == nullptr) return;
  sqlite3_reset(statement_);
  sqlite3_clear_bindings(statement_);
  database_->idle_[sqlite3_sql(statement_)].push_back(statement_);
}

absl::StatusOr<bool> Query::Next() {
  const int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  return database_->Error(code, sqlite3_sql(statement_));
}

std::string Query::Text(int column) const {
  const void* bytes = sqlite3_column_blob(statement_, column);
  const int size = sqlite3_column_bytes(statement_, column);
  return std::string(static_cast<const char*>(bytes),
                     bytes == nullptr ? 0 : size);
}

absl::Time Query::Time(int column) const {
  if (IsNull(column)) return absl::InfinitePast();
  return absl::FromUnixMicros(Int(column));
}

int Query::Bind(int index, absl::string_view text) {
  // A null pointer would bind NULL.
  return sqlite3_bind_text64(statement_, index,
                             text.data() == nullptr ? "" : text.data(),
                             text.size(), SQLITE_TRANSIENT, SQLITE_UTF8);
}

int Query::Bind(int index, SqlBlob blob) {
  return sqlite3_bind_blob64(
      statement_, index, blob.bytes.data() == nullptr ? "" : blob.bytes.data(),
      blob.bytes.size(), SQLITE_TRANSIENT);
}

int Query::Bind(int index, absl::Time time) {
  if (time == absl::InfinitePast()) return sqlite3_bind_null(statement_, index);
  return sqlite3_bind_int64(statement_, index, absl::ToUnixMicros(time));
}

absl::StatusOr<std::unique_ptr<Database>> Database::Open(
    const std::string& path, absl::Duration busy_timeout) {
  sqlite3* connection = nullptr;
  const int code =
      sqlite3_open_v2(path.c_str(), &connection,
                      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE |
                          SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE,
                      nullptr);
  if (connection == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("job store ", path, ": out of memory"));
  }
  std::unique_ptr<Database> database(new Database(path, connection));
  if (code != SQLITE_OK) return database->Error(code, "open");
  sqlite3_busy_timeout(
      connection, static_cast<int>(absl::ToInt64Milliseconds(busy_timeout)));
  return database;
}

Database::~Database() {
  for (const auto& [sql, statements] : idle_) {
    for (sqlite3_stmt* statement : statements) sqlite3_finalize(statement);
  }
  sqlite3_close_v2(connection_);
}

absl::Status Database::Exec(const char* sql) {
  const int code = sqlite3_exec(connection_, sql, nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? absl::OkStatus() : Error(code, sql);
}

absl::StatusOr<Query> Database::Prepare(const char* sql) {
  auto idle = idle_.find(sql);
  if (idle != idle_.end() && !idle->second.empty()) {
    sqlite3_stmt* statement = idle->second.back();
    idle->second.pop_back();
    return Query(this, statement);
  }
  sqlite3_stmt* statement = nullptr;
  const int code = sqlite3_prepare_v3(
      connection_, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, nullptr);
  if (code != SQLITE_OK) return Error(code, sql);
  return Query(this, statement);
}

absl::Status Database::Error(int code, absl::string_view action) const {
  const std::string where = absl::StrCat("job store ", path_, ": ");
  const std::string cause =
      absl::StrCat(sqlite3_errmsg(connection_), " (SQLite code ", code, ")");
  switch (code & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return absl::UnavailableError(absl::StrCat(
          where,
          "locked by another process; try again, or stop what holds it: ",
          cause));
    case SQLITE_FULL:
      return absl::ResourceExhaustedError(
          absl::StrCat(where, "the disk is full; free some space: ", cause));
    case SQLITE_CORRUPT:
      return absl::DataLossError(absl::StrCat(
          where,
          "the file is corrupt; restore it, or move it away to start afresh: ",
          cause));
    case SQLITE_NOTADB:
      return absl::DataLossError(
          absl::StrCat(where,
                       "the file is not a database; restore it, or move it "
                       "away to start afresh: ",
                       cause));
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH:
      return absl::PermissionDeniedError(absl::StrCat(
          where,
          "cannot be written; check the file's and its directory's owner and "
          "permissions: ",
          cause));
    case SQLITE_CANTOPEN:
      return absl::FailedPreconditionError(absl::StrCat(
          where,
          "cannot be opened; check that its directory exists and can be "
          "written: ",
          cause));
    case SQLITE_CONSTRAINT:
      return absl::AlreadyExistsError(
          absl::StrCat(where, cause, " in: ", action));
    case SQLITE_NOMEM:
      return absl::ResourceExhaustedError(absl::StrCat(where, cause));
    default:
      return absl::InternalError(absl::StrCat(where, cause, " in: ", action));
  }
}

}  // namespace bitwright
