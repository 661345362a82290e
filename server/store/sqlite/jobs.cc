#include "absl/strings/str_cat.h"
#include "server/store/sqlite/sqlite_transaction.h"

namespace bitwright {

#define BW_JOB_COLUMNS                                                   \
  "SELECT number, id, request_id, asked, spec, state, create_time, "     \
  "start_time, "                                                         \
  "end_time, error, result, sequence FROM jobs JOIN job_specs ON job = " \
  "number "

absl::Status SqliteTransaction::Unparsable(absl::string_view what) const {
  return absl::DataLossError(absl::StrCat(
      "job store ", db_->path(), ": the record of ", what, " cannot be read"));
}

absl::StatusOr<std::vector<JobRecord>> SqliteTransaction::ReadJobs(
    Query query) const {
  std::vector<JobRecord> jobs;
  for (;;) {
    BW_ASSIGN_OR_RETURN(bool row, query.Next());
    if (!row) return jobs;
    JobRecord job;
    job.number = query.Int(0);
    job.id = query.Text(1);
    job.request_id = query.Text(2);
    job.asked = query.Text(3);
    const std::string what = absl::StrCat("job ", job.id);
    BW_ASSIGN_OR_RETURN(job.spec, Parse<v1::JobSpec>(query.Text(4), what));
    job.state = static_cast<v1::JobState>(query.Int(5));
    job.create_time = query.Time(6);
    job.start_time = query.Time(7);
    job.end_time = query.Time(8);
    BW_ASSIGN_OR_RETURN(job.error, Parse<v1::Error>(query.Text(9), what));
    BW_ASSIGN_OR_RETURN(job.result, Parse<v1::JobResult>(query.Text(10), what));
    job.sequence = query.Int(11);
    jobs.push_back(std::move(job));
  }
}

absl::StatusOr<std::optional<JobRecord>> SqliteTransaction::ReadJob(
    absl::StatusOr<Query> query) const {
  BW_RETURN_IF_ERROR(query.status());
  BW_ASSIGN_OR_RETURN(std::vector<JobRecord> jobs, ReadJobs(*std::move(query)));
  if (jobs.empty()) return std::nullopt;
  return std::move(jobs.front());
}

absl::StatusOr<int64_t> SqliteTransaction::InsertJob(const JobRecord& job) {
  constexpr char kInsert[] =
      "INSERT INTO jobs (id, request_id, asked, state, create_time, "
      "start_time, end_time, error, "
      "result, sequence) VALUES (?, nullif(?, ''), ?, ?, ?, ?, ?, ?, ?, ?)";
  BW_RETURN_IF_ERROR(
      db_->Change(kInsert, job.id, job.request_id, job.asked,
                  static_cast<int>(job.state), job.create_time, job.start_time,
                  job.end_time, SqlBlob{job.error.SerializeAsString()},
                  SqlBlob{job.result.SerializeAsString()}, job.sequence)
          .status());
  const int64_t number = db_->last_insert_rowid();
  BW_RETURN_IF_ERROR(
      db_->Change("INSERT INTO job_specs (job, spec) VALUES (?, ?)", number,
                  SqlBlob{job.spec.SerializeAsString()})
          .status());
  return number;
}

absl::StatusOr<std::optional<JobRecord>> SqliteTransaction::FindJob(
    absl::string_view id) {
  return ReadJob(db_->Run(BW_JOB_COLUMNS "WHERE id = ?", id));
}

absl::StatusOr<std::optional<JobRecord>> SqliteTransaction::JobByNumber(
    int64_t number) {
  return ReadJob(db_->Run(BW_JOB_COLUMNS "WHERE number = ?", number));
}

absl::StatusOr<std::optional<JobRecord>> SqliteTransaction::JobByRequest(
    absl::string_view request_id) {
  return ReadJob(db_->Run(BW_JOB_COLUMNS "WHERE request_id = ?", request_id));
}

absl::StatusOr<std::optional<JobRecord>> SqliteTransaction::OldestUnplanned() {
  static_assert(v1::JOB_STATE_PENDING == 1 && v1::JOB_STATE_PLANNING == 2);
  return ReadJob(
      db_->Run(BW_JOB_COLUMNS "WHERE state IN (1, 2) ORDER BY number LIMIT 1"));
}

absl::StatusOr<std::vector<JobRecord>> SqliteTransaction::JobsBefore(
    int64_t before, int limit) {
  BW_ASSIGN_OR_RETURN(
      Query query,
      db_->Run(BW_JOB_COLUMNS "WHERE number < ? ORDER BY number DESC LIMIT ?",
               before, limit));
  return ReadJobs(std::move(query));
}

absl::Status SqliteTransaction::UpdateJob(const JobRecord& job) {
  constexpr char kUpdate[] =
      "UPDATE jobs SET state = ?, start_time = ?, end_time = ?, error = ?, "
      "result = ?, "
      "sequence = ? WHERE number = ?";
  BW_ASSIGN_OR_RETURN(
      int64_t changed,
      db_->Change(kUpdate, static_cast<int>(job.state), job.start_time,
                  job.end_time, SqlBlob{job.error.SerializeAsString()},
                  SqlBlob{job.result.SerializeAsString()}, job.sequence,
                  job.number));
  if (changed == 1) return absl::OkStatus();
  return absl::NotFoundError(
      absl::StrCat("job store ", db_->path(), ": no job ", job.number));
}

absl::Status SqliteTransaction::SetJobSpec(int64_t job,
                                           const v1::JobSpec& spec) {
  BW_ASSIGN_OR_RETURN(int64_t changed,
                      db_->Change("UPDATE job_specs SET spec = ? WHERE job = ?",
                                  SqlBlob{spec.SerializeAsString()}, job));
  if (changed == 1) return absl::OkStatus();
  return absl::NotFoundError(
      absl::StrCat("job store ", db_->path(), ": no job ", job));
}

absl::Status SqliteTransaction::AddJobBlobs(int64_t job,
                                            absl::Span<const Digest> blobs) {
  for (const Digest& blob : blobs) {
    BW_RETURN_IF_ERROR(db_->Change("INSERT OR IGNORE INTO job_blobs (job, "
                                   "sha256, size) VALUES (?, ?, ?)",
                                   job, blob.sha256, blob.size)
                           .status());
  }
  return absl::OkStatus();
}

absl::Status SqliteTransaction::DeleteJob(int64_t job) {
  BW_RETURN_IF_ERROR(DeleteTasks(job));
  for (const char* sql : {"DELETE FROM checkpoints WHERE job = ?",
                          "DELETE FROM job_blobs WHERE job = ?",
                          "DELETE FROM job_specs WHERE job = ?",
                          "DELETE FROM jobs WHERE number = ?"}) {
    BW_RETURN_IF_ERROR(db_->Change(sql, job).status());
  }
  return absl::OkStatus();
}

}  // namespace bitwright
