// Records as the messages that people see.
#ifndef BITWRIGHT_SERVER_SCHEDULER_VIEWS_H_
#define BITWRIGHT_SERVER_SCHEDULER_VIEWS_H_

#include "absl/status/statusor.h"
#include "bitwright/v1/checkpoint.pb.h"
#include "bitwright/v1/job.pb.h"
#include "server/store/job_store.h"

namespace bitwright::scheduler_internal {

// With its phases, counted in `store`.
absl::StatusOr<v1::Job> ViewJob(JobTransaction* store, const JobRecord& job);
absl::StatusOr<v1::Task> ViewTask(JobTransaction* store,
                                  const std::string& job_id,
                                  const TaskRecord& task);
v1::Checkpoint ViewCheckpoint(const CheckpointRecord& checkpoint);

}  // namespace bitwright::scheduler_internal

#endif  // BITWRIGHT_SERVER_SCHEDULER_VIEWS_H_
