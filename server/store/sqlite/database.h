// One SQLite connection, with statements that are prepared once and errors as
// absl::Status. Not thread-safe: one user at a time.
//
//   BW_ASSIGN_OR_RETURN(Query q, db->Run("SELECT id FROM jobs WHERE state=?",
//   3)); for (;;) {
//     BW_ASSIGN_OR_RETURN(bool row, q.Next());
//     if (!row) break;
//     ids.push_back(q.Text(0));
//   }
#ifndef BITWRIGHT_SERVER_STORE_SQLITE_DATABASE_H_
#define BITWRIGHT_SERVER_STORE_SQLITE_DATABASE_H_

#include <sqlite3.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/base/status_macros.h"

namespace bitwright {

class Database;

// Bytes rather than text, as a parameter.
struct SqlBlob {
  absl::string_view bytes;
};
// NULL, as a parameter.
struct SqlNull {};

// A statement in use; goes back to its database on destruction, before which
// the database must not be destroyed.
class Query {
 public:
  Query(Query&& other) noexcept;
  Query& operator=(Query&&) = delete;
  ~Query();

  // True: there is a row, to be read with the functions below. False: done.
  absl::StatusOr<bool> Next();

  int64_t Int(int column) const {
    return sqlite3_column_int64(statement_, column);
  }
  double Real(int column) const {
    return sqlite3_column_double(statement_, column);
  }
  bool IsNull(int column) const {
    return sqlite3_column_type(statement_, column) == SQLITE_NULL;
  }
  std::string Text(int column) const;  // Blobs too.
  absl::Time Time(int column) const;   // NULL: InfinitePast.

 private:
  friend class Database;
  Query(Database* database, sqlite3_stmt* statement)
      : database_(database), statement_(statement) {}
  int Bind(int index, int64_t value) {
    return sqlite3_bind_int64(statement_, index, value);
  }
  int Bind(int index, int value) {
    return Bind(index, static_cast<int64_t>(value));
  }
  int Bind(int index, uint64_t value) {
    return Bind(index, static_cast<int64_t>(value));
  }
  int Bind(int index, double value) {
    return sqlite3_bind_double(statement_, index, value);
  }
  int Bind(int index, SqlNull) { return sqlite3_bind_null(statement_, index); }
  int Bind(int index, absl::string_view text);
  int Bind(int index, const std::string& text) {
    return Bind(index, absl::string_view(text));
  }
  int Bind(int index, SqlBlob blob);
  int Bind(int index, absl::Time time);

  Database* database_;
  sqlite3_stmt* statement_;
};

class Database {
 public:
  // Waits up to `busy_timeout` for other connections' locks.
  static absl::StatusOr<std::unique_ptr<Database>> Open(
      const std::string& path, absl::Duration busy_timeout);
  ~Database();
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  // One or more statements without parameters or rows.
  absl::Status Exec(const char* sql);

  // Prepares `sql` unless an idle statement has it. Parameters are copied.
  template <typename... Args>
  absl::StatusOr<Query> Run(const char* sql, const Args&... args) {
    BW_ASSIGN_OR_RETURN(Query query, Prepare(sql));
    int index = 0, code = SQLITE_OK;
    ((code = code == SQLITE_OK ? query.Bind(++index, args) : code), ...);
    if (code != SQLITE_OK) return Error(code, sql);
    return query;
  }
  // For statements that return no rows. Returns the number of rows changed.
  template <typename... Args>
  absl::StatusOr<int64_t> Change(const char* sql, const Args&... args) {
    BW_ASSIGN_OR_RETURN(Query query, Run(sql, args...));
    BW_RETURN_IF_ERROR(query.Next().status());
    return sqlite3_changes64(connection_);
  }

  int64_t last_insert_rowid() const {
    return sqlite3_last_insert_rowid(connection_);
  }
  const std::string& path() const { return path_; }

  // The status of a result code, as job_store.h lists them.
  absl::Status Error(int code, absl::string_view action) const;

 private:
  friend class Query;
  Database(std::string path, sqlite3* connection)
      : path_(std::move(path)), connection_(connection) {}
  absl::StatusOr<Query> Prepare(const char* sql);

  std::string path_;
  sqlite3* connection_;
  absl::flat_hash_map<std::string, std::vector<sqlite3_stmt*>> idle_;
};

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_STORE_SQLITE_DATABASE_H_
