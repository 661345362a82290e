#include "absl/strings/str_cat.h"
#include "server/store/sqlite/sqlite_transaction.h"

namespace bitwright {

absl::StatusOr<std::vector<int>> SqliteTransaction::Unblock(int64_t job,
                                                            int source) {
  std::vector<int> consumers, unblocked;
  {
    BW_ASSIGN_OR_RETURN(
        Query query, db_->Run("SELECT DISTINCT position FROM task_inputs "
                              "WHERE job = ? AND source = ? ORDER BY position",
                              job, source));
    for (;;) {
      BW_ASSIGN_OR_RETURN(bool row, query.Next());
      if (!row) break;
      consumers.push_back(static_cast<int>(query.Int(0)));
    }
  }
  for (int consumer : consumers) {
    BW_ASSIGN_OR_RETURN(
        Query query, db_->Run("UPDATE tasks SET pending = pending - 1 "
                              "WHERE job = ? AND position = ? AND pending > 0 "
                              "RETURNING pending",
                              job, consumer));
    BW_ASSIGN_OR_RETURN(bool row, query.Next());
    if (row && query.Int(0) == 0) unblocked.push_back(consumer);
  }
  return unblocked;
}

absl::StatusOr<std::vector<TaskEdge>> SqliteTransaction::Edges(int64_t job) {
  BW_ASSIGN_OR_RETURN(
      Query query,
      db_->Run("SELECT DISTINCT source, position FROM task_inputs "
               "WHERE job = ? AND source IS NOT NULL ORDER BY position, source",
               job));
  std::vector<TaskEdge> edges;
  for (;;) {
    BW_ASSIGN_OR_RETURN(bool row, query.Next());
    if (!row) return edges;
    edges.push_back(
        {static_cast<int>(query.Int(0)), static_cast<int>(query.Int(1))});
  }
}

absl::StatusOr<v1::Action> SqliteTransaction::ResolveAction(int64_t job,
                                                            int position) {
  v1::Action action;
  {
    BW_ASSIGN_OR_RETURN(
        Query query,
        db_->Run(
            "SELECT planned FROM task_actions WHERE job = ? AND position = ?",
            job, position));
    BW_ASSIGN_OR_RETURN(bool row, query.Next());
    if (!row) return NoTask(job, position);
    BW_ASSIGN_OR_RETURN(action,
                        Parse<v1::Action>(query.Text(0), "a planned task"));
  }
  // BINARY collation: names sort by bytes.
  constexpr char kInputs[] =
      "SELECT i.name, i.source, i.output, i.sha256, i.size, t.key, o.sha256, "
      "o.size "
      "FROM task_inputs i "
      "LEFT JOIN tasks t ON t.job = i.job AND t.position = i.source "
      "LEFT JOIN result_outputs o ON o.action_digest = t.action_digest AND "
      "o.name = i.output "
      "WHERE i.job = ? AND i.position = ? ORDER BY i.name";
  BW_ASSIGN_OR_RETURN(Query query, db_->Run(kInputs, job, position));
  for (;;) {
    BW_ASSIGN_OR_RETURN(bool row, query.Next());
    if (!row) return action;
    const bool from_task = !query.IsNull(1);
    if (from_task && query.IsNull(6)) {
      return absl::FailedPreconditionError(
          absl::StrCat("input \"", query.Text(0), "\": task ", query.Text(5),
                       " has no output \"", query.Text(2), "\" on record"));
    }
    v1::NamedBlob* input = action.add_inputs();
    input->set_name(query.Text(0));
    input->mutable_digest()->set_sha256(query.Text(from_task ? 6 : 3));
    input->mutable_digest()->set_size_bytes(query.Int(from_task ? 7 : 4));
  }
}

absl::Status SqliteTransaction::SetAction(int64_t job, int position,
                                          const v1::Action& action) {
  BW_ASSIGN_OR_RETURN(
      int64_t changed,
      db_->Change(
          "UPDATE task_actions SET resolved = ? WHERE job = ? AND position = ?",
          SqlBlob{action.SerializeAsString()}, job, position));
  return changed == 1 ? absl::OkStatus() : NoTask(job, position);
}

absl::StatusOr<v1::Action> SqliteTransaction::GetAction(int64_t job,
                                                        int position) {
  BW_ASSIGN_OR_RETURN(
      Query query,
      db_->Run("SELECT resolved FROM task_actions "
               "WHERE job = ? AND position = ? AND resolved IS NOT NULL",
               job, position));
  BW_ASSIGN_OR_RETURN(bool row, query.Next());
  if (!row) return NoTask(job, position);
  return Parse<v1::Action>(query.Text(0), "a task's action");
}

}  // namespace bitwright
