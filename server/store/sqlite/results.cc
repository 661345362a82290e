#include "absl/strings/str_cat.h"
#include "server/store/sqlite/sqlite_transaction.h"

namespace bitwright {
namespace {

absl::StatusOr<std::vector<Digest>> ReadDigests(absl::StatusOr<Query> query) {
  BW_RETURN_IF_ERROR(query.status());
  std::vector<Digest> digests;
  for (;;) {
    BW_ASSIGN_OR_RETURN(bool row, query->Next());
    if (!row) return digests;
    digests.push_back({query->Text(0), static_cast<uint64_t>(query->Int(1))});
  }
}

}  // namespace

absl::StatusOr<std::optional<ResultRecord>> SqliteTransaction::FindResult(
    absl::string_view action) {
  ResultRecord result;
  {
    BW_ASSIGN_OR_RETURN(
        Query query,
        db_->Run("SELECT summary FROM results WHERE action_digest = ?",
                 action));
    BW_ASSIGN_OR_RETURN(bool row, query.Next());
    if (!row) return std::nullopt;
    BW_ASSIGN_OR_RETURN(
        result.summary,
        Parse<v1::TaskSummary>(query.Text(0), absl::StrCat("result ", action)));
  }
  result.action_digest = std::string(action);
  BW_ASSIGN_OR_RETURN(Query query,
                      db_->Run("SELECT name, sha256, size FROM result_outputs "
                               "WHERE action_digest = ? ORDER BY name",
                               action));
  for (;;) {
    BW_ASSIGN_OR_RETURN(bool row, query.Next());
    if (!row) return result;
    result.outputs.push_back(
        {query.Text(0), {query.Text(1), static_cast<uint64_t>(query.Int(2))}});
  }
}

absl::Status SqliteTransaction::PutResult(const ResultRecord& result) {
  BW_RETURN_IF_ERROR(db_->Change("INSERT OR REPLACE INTO results "
                                 "(action_digest, summary) VALUES (?, ?)",
                                 result.action_digest,
                                 SqlBlob{result.summary.SerializeAsString()})
                         .status());
  BW_RETURN_IF_ERROR(
      db_->Change("DELETE FROM result_outputs WHERE action_digest = ?",
                  result.action_digest)
          .status());
  for (const NamedDigest& output : result.outputs) {
    BW_RETURN_IF_ERROR(
        db_->Change(
               "INSERT INTO result_outputs (action_digest, name, sha256, size) "
               "VALUES (?, ?, ?, ?)",
               result.action_digest, output.name, output.digest.sha256,
               output.digest.size)
            .status());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::pair<std::string, v1::TaskSummary>>>
SqliteTransaction::Summaries(int64_t job) {
  BW_ASSIGN_OR_RETURN(
      Query query,
      db_->Run(
          "SELECT key, summary FROM tasks JOIN results USING (action_digest) "
          "WHERE job = ? ORDER BY position",
          job));
  std::vector<std::pair<std::string, v1::TaskSummary>> summaries;
  for (;;) {
    BW_ASSIGN_OR_RETURN(bool row, query.Next());
    if (!row) return summaries;
    BW_ASSIGN_OR_RETURN(
        v1::TaskSummary summary,
        Parse<v1::TaskSummary>(query.Text(1), "a task's summary"));
    summaries.emplace_back(query.Text(0), std::move(summary));
  }
}

absl::StatusOr<std::vector<Digest>> SqliteTransaction::BlobsOf(int64_t job) {
  return ReadDigests(
      db_->Run("SELECT sha256, size FROM job_blobs WHERE job = ?1 "
               "UNION SELECT sha256, size FROM tasks JOIN result_outputs USING "
               "(action_digest) "
               "WHERE job = ?1 ORDER BY 1, 2",
               job));
}

absl::StatusOr<std::vector<Digest>> SqliteTransaction::DropUnusedResults() {
  BW_RETURN_IF_ERROR(db_->Change("DELETE FROM results WHERE NOT EXISTS "
                                 "(SELECT 1 FROM tasks WHERE "
                                 "tasks.action_digest = results.action_digest)")
                         .status());
  return ReadDigests(db_->Run(
      "DELETE FROM result_outputs WHERE NOT EXISTS (SELECT 1 FROM results "
      "WHERE results.action_digest = result_outputs.action_digest) "
      "RETURNING sha256, size"));
}

absl::StatusOr<std::vector<Digest>> SqliteTransaction::Unreferenced(
    absl::Span<const Digest> blobs) {
  constexpr char kReferenced[] =
      "SELECT EXISTS (SELECT 1 FROM job_blobs WHERE sha256 = ?1 AND size = ?2) "
      "OR EXISTS (SELECT 1 FROM result_outputs WHERE sha256 = ?1 AND size = "
      "?2)";
  std::vector<Digest> unreferenced;
  for (const Digest& blob : blobs) {
    BW_ASSIGN_OR_RETURN(Query query,
                        db_->Run(kReferenced, blob.sha256, blob.size));
    BW_ASSIGN_OR_RETURN(bool row, query.Next());
    if (row && query.Int(0) == 0) unreferenced.push_back(blob);
  }
  return unreferenced;
}

absl::Status SqliteTransaction::PutCheckpoint(
    const CheckpointRecord& checkpoint) {
  return db_
      ->Change(
          "INSERT OR REPLACE INTO checkpoints (job, job_id, manifest, "
          "create_time) "
          "VALUES (?, ?, ?, ?)",
          checkpoint.job, checkpoint.job_id,
          SqlBlob{checkpoint.manifest.SerializeAsString()},
          checkpoint.create_time)
      .status();
}

absl::StatusOr<std::vector<CheckpointRecord>>
SqliteTransaction::ReadCheckpoints(absl::StatusOr<Query> query) const {
  BW_RETURN_IF_ERROR(query.status());
  std::vector<CheckpointRecord> checkpoints;
  for (;;) {
    BW_ASSIGN_OR_RETURN(bool row, query->Next());
    if (!row) return checkpoints;
    CheckpointRecord checkpoint;
    checkpoint.job = query->Int(0);
    checkpoint.job_id = query->Text(1);
    BW_ASSIGN_OR_RETURN(
        checkpoint.manifest,
        Parse<v1::CheckpointManifest>(
            query->Text(2), absl::StrCat("checkpoint ", checkpoint.job_id)));
    checkpoint.create_time = query->Time(3);
    checkpoints.push_back(std::move(checkpoint));
  }
}

absl::StatusOr<std::optional<CheckpointRecord>>
SqliteTransaction::FindCheckpoint(absl::string_view job_id) {
  BW_ASSIGN_OR_RETURN(
      std::vector<CheckpointRecord> found,
      ReadCheckpoints(db_->Run("SELECT job, job_id, manifest, create_time FROM "
                               "checkpoints WHERE job_id = ?",
                               job_id)));
  if (found.empty()) return std::nullopt;
  return std::move(found.front());
}

absl::StatusOr<std::vector<CheckpointRecord>>
SqliteTransaction::CheckpointsBefore(int64_t before, int limit) {
  return ReadCheckpoints(
      db_->Run("SELECT job, job_id, manifest, create_time FROM checkpoints "
               "WHERE job < ? ORDER BY job DESC LIMIT ?",
               before, limit));
}

}  // namespace bitwright
