// Resource names, page sizes and the messages' small parts.
#ifndef BITWRIGHT_SERVER_SCHEDULER_NAMES_H_
#define BITWRIGHT_SERVER_SCHEDULER_NAMES_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "bitwright/v1/common.pb.h"
#include "common/base/digest.h"
#include "google/protobuf/timestamp.pb.h"
#include "server/store/job_store.h"

namespace bitwright::scheduler_internal {

std::string JobName(absl::string_view id);  // "jobs/{id}"
std::string TaskName(absl::string_view job_id, absl::string_view key);
std::string CheckpointName(absl::string_view job_id);

// The id in "jobs/{id}" or "checkpoints/{id}". INVALID_ARGUMENT.
absl::StatusOr<std::string> ParseJobName(absl::string_view name);
absl::StatusOr<std::string> ParseCheckpointName(absl::string_view name);

struct TaskPath {
  std::string job_id, key;
};
// "jobs/{id}/tasks/{key}". INVALID_ARGUMENT.
absl::StatusOr<TaskPath> ParseTaskName(absl::string_view name);

absl::Status NoSuchJob(absl::string_view id);

// `digits` random hexadecimal digits.
std::string RandomId(int digits);

// 50 if 0, at most 1000. INVALID_ARGUMENT if negative.
absl::StatusOr<int> PageSize(int asked);
// `first` if empty. INVALID_ARGUMENT unless a number.
absl::StatusOr<int64_t> PageToken(absl::string_view token, int64_t first);

google::protobuf::Timestamp ToTimestamp(absl::Time time);

// INVALID_ARGUMENT unless well-formed.
absl::StatusOr<Digest> ParseDigest(const v1::BlobDigest& digest);
Digest DigestOfBlob(const v1::BlobDigest& digest);

// "FAILED", "READY": without the enum's prefix.
std::string StateName(v1::JobState state);
std::string StateName(v1::TaskState state);

bool IsTerminal(v1::JobState state);
bool IsUnplanned(v1::JobState state);  // PENDING or PLANNING.
bool IsDone(v1::TaskState state);      // SUCCEEDED or CACHED.

}  // namespace bitwright::scheduler_internal

#endif  // BITWRIGHT_SERVER_SCHEDULER_NAMES_H_
