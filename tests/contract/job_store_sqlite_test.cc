#include <sqlite3.h>

#include <fstream>
#include <memory>
#include <string>

#include "absl/strings/match.h"
#include "common/base/file.h"
#include "tests/contract/job_store_contract.h"

namespace bitwright {
namespace {

class SqliteStores {
 public:
  std::unique_ptr<JobStore> Open() {
    absl::StatusOr<std::unique_ptr<JobStore>> store =
        OpenSqliteJobStore(directory_.path() + "/jobs.db");
    EXPECT_TRUE(store.ok()) << store.status();
    return *std::move(store);
  }

 private:
  TempDirectory directory_ = *TempDirectory::Create("job_store");
};

INSTANTIATE_TYPED_TEST_SUITE_P(Sqlite, JobStoreContract, SqliteStores);

class SqliteErrors : public ::testing::Test {
 protected:
  absl::Status OpenStatus() {
    return OpenSqliteJobStore(path_, absl::Milliseconds(50)).status();
  }
  void Execute(const char* sql) {
    sqlite3* connection = nullptr;
    ASSERT_EQ(sqlite3_open(path_.c_str(), &connection), SQLITE_OK);
    EXPECT_EQ(sqlite3_exec(connection, sql, nullptr, nullptr, nullptr),
              SQLITE_OK);
    sqlite3_close(connection);
  }
  void ExpectStatus(const absl::Status& status, absl::StatusCode code,
                    absl::string_view text) {
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), text)) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), path_)) << status;
  }

  TempDirectory directory_ = *TempDirectory::Create("job_store");
  std::string path_ = directory_.path() + "/jobs.db";
};

TEST_F(SqliteErrors, NoDirectory) {
  path_ = directory_.path() + "/none/jobs.db";
  ExpectStatus(OpenStatus(), absl::StatusCode::kFailedPrecondition,
               "directory");
}

TEST_F(SqliteErrors, NotADatabase) {
  std::ofstream(path_) << std::string(5000, 'x');
  ExpectStatus(OpenStatus(), absl::StatusCode::kDataLoss, "not a database");
}

TEST_F(SqliteErrors, AnotherProgramsDatabase) {
  Execute("CREATE TABLE songs (title TEXT)");
  ExpectStatus(OpenStatus(), absl::StatusCode::kFailedPrecondition,
               "another program");
}

TEST_F(SqliteErrors, NewerVersion) {
  ASSERT_TRUE(OpenStatus().ok());
  Execute("PRAGMA user_version = 99");
  ExpectStatus(OpenStatus(), absl::StatusCode::kFailedPrecondition, "99");
}

TEST_F(SqliteErrors, Version1IsUpgraded) {
  ASSERT_TRUE(OpenStatus().ok());
  Execute(
      "INSERT INTO jobs VALUES (1, 'a', NULL, '', 3, 0, 0, 0, '', '', 0);"
      "INSERT INTO job_specs VALUES (1, '');"
      "DROP INDEX tasks_running;"
      "ALTER TABLE tasks DROP COLUMN fraction_done;"
      "ALTER TABLE tasks DROP COLUMN note;"
      "INSERT INTO tasks VALUES (1, 0, 'k', 2, 3, 0, '', 0, 1, 1, 's', 'w', 9, "
      "'', 0, NULL);"
      "PRAGMA user_version = 1");
  for (int opened = 0; opened < 2; ++opened) {
    auto store = OpenSqliteJobStore(path_);
    ASSERT_TRUE(store.ok()) << store.status();
    const absl::Status read =
        (*store)->Read([](JobTransaction* t) -> absl::Status {
          const auto tasks = t->RunningTasks(1);
          if (!tasks.ok()) return tasks.status();
          EXPECT_EQ(tasks->size(), 1u);
          EXPECT_EQ(tasks->at(0).session, "s");
          EXPECT_EQ(tasks->at(0).fraction_done, 0);
          EXPECT_EQ(tasks->at(0).note, "");
          return absl::OkStatus();
        });
    EXPECT_TRUE(read.ok()) << read;
  }
}

TEST_F(SqliteErrors, LockedByAnotherProcess) {
  auto store = *OpenSqliteJobStore(path_, absl::Milliseconds(50));
  sqlite3* connection = nullptr;
  ASSERT_EQ(sqlite3_open(path_.c_str(), &connection), SQLITE_OK);
  ASSERT_EQ(
      sqlite3_exec(connection, "BEGIN IMMEDIATE", nullptr, nullptr, nullptr),
      SQLITE_OK);
  auto nothing = [](JobTransaction*) { return absl::OkStatus(); };
  ExpectStatus(store->Write(nothing), absl::StatusCode::kUnavailable, "locked");
  EXPECT_TRUE(store->Read(nothing).ok());  // Readers go on.
  sqlite3_close(connection);
  EXPECT_TRUE(store->Write(nothing).ok());
}

TEST_F(SqliteErrors, CorruptPages) {
  {
    auto store = *OpenSqliteJobStore(path_);
    ASSERT_TRUE(store
                    ->Write([](JobTransaction* t) -> absl::Status {
                      for (int i = 0; i < 500; ++i) {
                        JobRecord job;
                        job.id = "job-" + std::to_string(i);
                        if (absl::Status s = t->InsertJob(job).status();
                            !s.ok())
                          return s;
                      }
                      return absl::OkStatus();
                    })
                    .ok());
  }
  Execute("PRAGMA wal_checkpoint(TRUNCATE)");
  {
    // All pages but the first: the header stays good.
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(0, std::ios::end);
    const auto size = static_cast<size_t>(file.tellp());
    ASSERT_GT(size, 3 * 4096u);
    file.seekp(4096);
    file << std::string(size - 4096, '\x5a');
  }
  ExpectStatus(OpenStatus(), absl::StatusCode::kDataLoss, "corrupt");
}

}  // namespace
}  // namespace bitwright
