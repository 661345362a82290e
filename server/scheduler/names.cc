#include "server/scheduler/names.h"

#include <algorithm>
#include <vector>

#include "absl/random/random.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace bitwright::scheduler_internal {
namespace {

constexpr int kDefaultPage = 50;
constexpr int kLargestPage = 1000;

absl::StatusOr<std::string> ParseName(absl::string_view name,
                                      absl::string_view prefix) {
  absl::string_view id = name;
  if (absl::ConsumePrefix(&id, prefix) && !id.empty() &&
      id.find('/') == id.npos) {
    return std::string(id);
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "\"", name, "\" is not a name of the form ", prefix, "{id}"));
}

}  // namespace

std::string JobName(absl::string_view id) { return absl::StrCat("jobs/", id); }

std::string TaskName(absl::string_view job_id, absl::string_view key) {
  return absl::StrCat("jobs/", job_id, "/tasks/", key);
}

std::string CheckpointName(absl::string_view job_id) {
  return absl::StrCat("checkpoints/", job_id);
}

absl::StatusOr<std::string> ParseJobName(absl::string_view name) {
  return ParseName(name, "jobs/");
}

absl::StatusOr<std::string> ParseCheckpointName(absl::string_view name) {
  return ParseName(name, "checkpoints/");
}

absl::StatusOr<TaskPath> ParseTaskName(absl::string_view name) {
  const std::vector<std::string> parts = absl::StrSplit(name, '/');
  if (parts.size() == 4 && parts[0] == "jobs" && parts[2] == "tasks" &&
      !parts[1].empty() && !parts[3].empty()) {
    return TaskPath{parts[1], parts[3]};
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "\"", name, "\" is not a name of the form jobs/{id}/tasks/{key}"));
}

absl::Status NoSuchJob(absl::string_view id) {
  return absl::NotFoundError(absl::StrCat("no job ", JobName(id)));
}

std::string RandomId(int digits) {
  absl::BitGen random;
  const std::string hex = absl::StrCat(
      absl::Hex(absl::Uniform<uint64_t>(random), absl::kZeroPad16));
  return hex.substr(0, digits);
}

absl::StatusOr<int> PageSize(int asked) {
  if (asked < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("page_size is ", asked, "; it must not be negative"));
  }
  return asked == 0 ? kDefaultPage : std::min(asked, kLargestPage);
}

absl::StatusOr<int64_t> PageToken(absl::string_view token, int64_t first) {
  if (token.empty()) return first;
  int64_t value;
  if (absl::SimpleAtoi(token, &value) && value >= 0) return value;
  return absl::InvalidArgumentError(absl::StrCat(
      "page_token \"", token,
      "\" is not one that this server gave; start from the first page"));
}

google::protobuf::Timestamp ToTimestamp(absl::Time time) {
  const int64_t micros = absl::ToUnixMicros(time);
  google::protobuf::Timestamp timestamp;
  int64_t seconds = micros / 1000000, rest = micros % 1000000;
  if (rest < 0) {
    --seconds;
    rest += 1000000;
  }
  timestamp.set_seconds(seconds);
  timestamp.set_nanos(static_cast<int32_t>(rest * 1000));
  return timestamp;
}

absl::StatusOr<Digest> ParseDigest(const v1::BlobDigest& digest) {
  return Digest::Parse(absl::StrCat(digest.sha256(), "/", digest.size_bytes()));
}

Digest DigestOfBlob(const v1::BlobDigest& digest) {
  return {digest.sha256(), static_cast<uint64_t>(digest.size_bytes())};
}

std::string StateName(v1::JobState state) {
  return std::string(absl::StripPrefix(v1::JobState_Name(state), "JOB_STATE_"));
}

std::string StateName(v1::TaskState state) {
  return std::string(
      absl::StripPrefix(v1::TaskState_Name(state), "TASK_STATE_"));
}

bool IsTerminal(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED ||
         state == v1::JOB_STATE_CANCELLED;
}

bool IsUnplanned(v1::JobState state) {
  return state == v1::JOB_STATE_PENDING || state == v1::JOB_STATE_PLANNING;
}

bool IsDone(v1::TaskState state) {
  return state == v1::TASK_STATE_SUCCEEDED || state == v1::TASK_STATE_CACHED;
}

}  // namespace bitwright::scheduler_internal
