// The C++ client of a Bitwright server: channel, deadlines, retries, blob
// transfer. The CLI and the worker use nothing else to reach a server.
//
//   BW_ASSIGN_OR_RETURN(auto client, Client::Connect({.address =
//   "unix:/run/bw.sock"})); BW_ASSIGN_OR_RETURN(BlobDigest text,
//   client->UploadFile("calibration.txt")); v1::CreateJobRequest request; ...
//   BW_ASSIGN_OR_RETURN(v1::Job job, client->CreateJob(request));
//   BW_ASSIGN_OR_RETURN(job, client->WatchJob(job.name(), 0, [](const v1::Job&)
//   { return true; }));
//
// Every call has a deadline. UNAVAILABLE, and only that, is retried with
// exponential backoff and jitter for up to `retry_for`; every mutating call is
// idempotent by design, so that a retry never does a thing twice. Errors carry
// the server's message. Thread-safe.
#ifndef BITWRIGHT_CLIENT_API_CLIENT_H_
#define BITWRIGHT_CLIENT_API_CLIENT_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "bitwright/v1/blob.pb.h"
#include "bitwright/v1/checkpoint.pb.h"
#include "bitwright/v1/job.pb.h"
#include "bitwright/v1/server_info.pb.h"
#include "bitwright/v1/worker.pb.h"
#include "common/base/digest.h"

namespace bitwright {

struct ClientOptions {
  std::string address;  // "host:port" or "unix:/path".
  absl::Duration call_timeout = absl::Seconds(30);
  absl::Duration retry_for = absl::Seconds(20);  // Zero: no retries.
};

v1::BlobDigest ToProto(const Digest& digest);
Digest FromProto(const v1::BlobDigest& digest);

class Client {
 public:
  // Waits up to `connect_timeout` for the server to answer; UNAVAILABLE names
  // the address.
  static absl::StatusOr<std::unique_ptr<Client>> Connect(
      ClientOptions options, absl::Duration connect_timeout = absl::Seconds(5));
  ~Client();

  // --- Jobs ---
  absl::StatusOr<v1::Job> CreateJob(const v1::CreateJobRequest& request);
  absl::StatusOr<v1::Job> GetJob(const std::string& name);
  absl::StatusOr<v1::ListJobsResponse> ListJobs(
      const v1::ListJobsRequest& request);
  // Calls `on_job` for each snapshot until the job is terminal (returned) or
  // `on_job` returns false (CANCELLED). Reconnects and goes on by itself.
  absl::StatusOr<v1::Job> WatchJob(
      const std::string& name, int64_t after_sequence,
      const std::function<bool(const v1::Job&)>& on_job);
  absl::StatusOr<v1::Job> CancelJob(const std::string& name);
  absl::StatusOr<v1::Job> RetryJob(const std::string& name);
  absl::Status DeleteJob(const std::string& name);
  absl::StatusOr<v1::ListTasksResponse> ListTasks(
      const v1::ListTasksRequest& request);

  // --- Blobs ---
  // Uploads unless the server has it. The file is streamed, never held.
  absl::StatusOr<Digest> UploadFile(const std::string& path);
  absl::StatusOr<Digest> UploadBytes(absl::string_view bytes);
  // Verified against the digest. DownloadFile writes atomically.
  absl::StatusOr<std::string> DownloadBytes(const Digest& digest);
  absl::Status DownloadFile(const Digest& digest, const std::string& path);

  // --- Checkpoints, server ---
  absl::StatusOr<v1::Checkpoint> GetCheckpoint(const std::string& name);
  absl::StatusOr<v1::ListCheckpointsResponse> ListCheckpoints(
      const v1::ListCheckpointsRequest& request);
  absl::StatusOr<v1::VerifyCheckpointResponse> VerifyCheckpoint(
      const std::string& name);
  absl::StatusOr<v1::ServerInfo> GetServerInfo();

  // --- Workers ---
  absl::StatusOr<v1::Session> OpenSession(
      const v1::OpenSessionRequest& request);
  absl::StatusOr<v1::LeaseTasksResponse> LeaseTasks(
      const v1::LeaseTasksRequest& request);
  absl::StatusOr<v1::RenewLeasesResponse> RenewLeases(
      const v1::RenewLeasesRequest& request);
  absl::Status CompleteTask(const v1::CompleteTaskRequest& request);
  absl::Status FailTask(const v1::FailTaskRequest& request);
  absl::Status ReleaseLeases(const v1::ReleaseLeasesRequest& request);
  absl::Status CloseSession(const std::string& session);
  absl::StatusOr<v1::ListWorkersResponse> ListWorkers();

 private:
  struct Impl;
  explicit Client(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace bitwright

#endif  // BITWRIGHT_CLIENT_API_CLIENT_H_
