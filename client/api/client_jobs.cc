// Jobs, checkpoints and workers: unary calls, and the watch.
#include <utility>

#include "client/api/client.h"
#include "client/api/client_impl.h"
#include "common/base/status_macros.h"

namespace bitwright {
namespace {

using Jobs = v1::QuantizationService::Stub;
using Checkpoints = v1::CheckpointService::Stub;
using Workers = v1::WorkerService::Stub;

// A watch is opened anew this often: every call has a deadline.
constexpr absl::Duration kWatchTimeout = absl::Minutes(1);
// Reading a checkpoint back takes as long as its disk needs.
constexpr absl::Duration kVerifyTimeout = absl::Hours(4);

bool IsTerminal(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED ||
         state == v1::JOB_STATE_CANCELLED;
}

}  // namespace

absl::StatusOr<v1::Job> Client::CreateJob(const v1::CreateJobRequest& request) {
  v1::Job job;
  BW_RETURN_IF_ERROR(
      impl_->Call(impl_->jobs.get(), &Jobs::CreateJob, request, &job));
  return job;
}

absl::StatusOr<v1::Job> Client::GetJob(const std::string& name) {
  v1::GetJobRequest request;
  request.set_name(name);
  v1::Job job;
  BW_RETURN_IF_ERROR(
      impl_->Call(impl_->jobs.get(), &Jobs::GetJob, request, &job));
  return job;
}

absl::StatusOr<v1::ListJobsResponse> Client::ListJobs(
    const v1::ListJobsRequest& request) {
  v1::ListJobsResponse response;
  BW_RETURN_IF_ERROR(
      impl_->Call(impl_->jobs.get(), &Jobs::ListJobs, request, &response));
  return response;
}

absl::StatusOr<v1::Job> Client::WatchJob(
    const std::string& name, int64_t after_sequence,
    const std::function<bool(const v1::Job&)>& on_job) {
  v1::WatchJobRequest request;
  request.set_name(name);
  request.set_after_sequence(after_sequence);
  Backoff backoff(impl_->options.retry_for);
  while (true) {
    grpc::ClientContext context;
    Impl::SetTimeout(&context, kWatchTimeout);
    auto stream = impl_->jobs->WatchJob(&context, request);
    v1::Job job;
    while (stream->Read(&job)) {
      backoff.Progress();
      request.set_after_sequence(job.sequence());
      const bool go_on = on_job(job);
      if (IsTerminal(job.state()) || !go_on) {
        context.TryCancel();
        stream->Finish();  // CANCELLED, or OK if the server was faster.
        if (IsTerminal(job.state())) return job;
        return absl::CancelledError("the watch was ended by its caller");
      }
    }
    absl::Status status = impl_->Convert(stream->Finish());
    if (absl::IsUnavailable(status)) {
      if (!backoff.Wait()) return status;
      continue;
    }
    if (!status.ok() && !absl::IsDeadlineExceeded(status)) return status;
    // The stream ended without news: the job may be terminal already.
    BW_ASSIGN_OR_RETURN(job, GetJob(name));
    backoff.Progress();
    if (IsTerminal(job.state())) {
      if (job.sequence() > request.after_sequence()) on_job(job);
      return job;
    }
  }
}

absl::StatusOr<v1::Job> Client::CancelJob(const std::string& name) {
  v1::CancelJobRequest request;
  request.set_name(name);
  v1::Job job;
  BW_RETURN_IF_ERROR(
      impl_->Call(impl_->jobs.get(), &Jobs::CancelJob, request, &job));
  return job;
}

absl::StatusOr<v1::Job> Client::RetryJob(const std::string& name) {
  v1::RetryJobRequest request;
  request.set_name(name);
  v1::Job job;
  BW_RETURN_IF_ERROR(
      impl_->Call(impl_->jobs.get(), &Jobs::RetryJob, request, &job));
  return job;
}

absl::Status Client::DeleteJob(const std::string& name) {
  v1::DeleteJobRequest request;
  request.set_name(name);
  google::protobuf::Empty empty;
  Backoff backoff(impl_->options.retry_for);
  for (bool retried = false;; retried = true) {
    grpc::ClientContext context;
    Impl::SetTimeout(&context, impl_->options.call_timeout);
    absl::Status status =
        impl_->Convert(impl_->jobs->DeleteJob(&context, request, &empty));
    if (absl::IsUnavailable(status) && backoff.Wait()) continue;
    // The attempt whose answer was lost may have done it.
    if (retried && absl::IsNotFound(status)) return absl::OkStatus();
    return status;
  }
}

absl::StatusOr<v1::ListTasksResponse> Client::ListTasks(
    const v1::ListTasksRequest& request) {
  v1::ListTasksResponse response;
  BW_RETURN_IF_ERROR(
      impl_->Call(impl_->jobs.get(), &Jobs::ListTasks, request, &response));
  return response;
}

absl::StatusOr<v1::Checkpoint> Client::GetCheckpoint(const std::string& name) {
  v1::GetCheckpointRequest request;
  request.set_name(name);
  v1::Checkpoint checkpoint;
  BW_RETURN_IF_ERROR(impl_->Call(impl_->checkpoints.get(),
                                 &Checkpoints::GetCheckpoint, request,
                                 &checkpoint));
  return checkpoint;
}

absl::StatusOr<v1::ListCheckpointsResponse> Client::ListCheckpoints(
    const v1::ListCheckpointsRequest& request) {
  v1::ListCheckpointsResponse response;
  BW_RETURN_IF_ERROR(impl_->Call(impl_->checkpoints.get(),
                                 &Checkpoints::ListCheckpoints, request,
                                 &response));
  return response;
}

absl::StatusOr<v1::VerifyCheckpointResponse> Client::VerifyCheckpoint(
    const std::string& name) {
  v1::VerifyCheckpointRequest request;
  request.set_name(name);
  v1::VerifyCheckpointResponse response;
  BW_RETURN_IF_ERROR(impl_->Call(impl_->checkpoints.get(),
                                 &Checkpoints::VerifyCheckpoint, request,
                                 &response, kVerifyTimeout));
  return response;
}

absl::StatusOr<v1::Session> Client::OpenSession(
    const v1::OpenSessionRequest& request) {
  v1::Session session;
  BW_RETURN_IF_ERROR(impl_->Call(impl_->workers.get(), &Workers::OpenSession,
                                 request, &session));
  return session;
}

absl::StatusOr<v1::LeaseTasksResponse> Client::LeaseTasks(
    const v1::LeaseTasksRequest& request) {
  v1::LeaseTasksResponse response;
  const absl::Duration wait = absl::Seconds(request.wait().seconds()) +
                              absl::Nanoseconds(request.wait().nanos());
  BW_RETURN_IF_ERROR(impl_->Call(impl_->workers.get(), &Workers::LeaseTasks,
                                 request, &response,
                                 wait + impl_->options.call_timeout));
  return response;
}

absl::StatusOr<v1::RenewLeasesResponse> Client::RenewLeases(
    const v1::RenewLeasesRequest& request) {
  v1::RenewLeasesResponse response;
  BW_RETURN_IF_ERROR(impl_->Call(impl_->workers.get(), &Workers::RenewLeases,
                                 request, &response));
  return response;
}

absl::Status Client::CompleteTask(const v1::CompleteTaskRequest& request) {
  google::protobuf::Empty empty;
  return impl_->Call(impl_->workers.get(), &Workers::CompleteTask, request,
                     &empty);
}

absl::Status Client::FailTask(const v1::FailTaskRequest& request) {
  google::protobuf::Empty empty;
  return impl_->Call(impl_->workers.get(), &Workers::FailTask, request, &empty);
}

absl::Status Client::ReleaseLeases(const v1::ReleaseLeasesRequest& request) {
  google::protobuf::Empty empty;
  return impl_->Call(impl_->workers.get(), &Workers::ReleaseLeases, request,
                     &empty);
}

absl::Status Client::CloseSession(const std::string& session) {
  v1::CloseSessionRequest request;
  request.set_session(session);
  google::protobuf::Empty empty;
  return impl_->Call(impl_->workers.get(), &Workers::CloseSession, request,
                     &empty);
}

absl::StatusOr<v1::ListWorkersResponse> Client::ListWorkers() {
  v1::ListWorkersResponse response;
  BW_RETURN_IF_ERROR(impl_->Call(impl_->workers.get(), &Workers::ListWorkers,
                                 v1::ListWorkersRequest(), &response));
  return response;
}

}  // namespace bitwright
