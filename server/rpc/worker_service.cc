#include "server/rpc/worker_service.h"

#include <spdlog/spdlog.h>

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/algorithm_version.h"
#include "server/rpc/respond.h"

namespace bitwright {
namespace {

absl::Status CheckAlgorithms(const v1::LeaseTasksRequest& request) {
  const std::string ours = AlgorithmVersions();
  if (request.algorithms() == ours) return absl::OkStatus();
  return WithReason(
      absl::FailedPreconditionError(absl::StrCat(
          "this worker and the server are of different builds: its algorithms "
          "are \"",
          request.algorithms(), "\", the server's \"", ours,
          "\"; run a worker of the server's build")),
      "OTHER_ALGORITHMS");
}

}  // namespace

grpc::Status WorkerServiceImpl::OpenSession(
    grpc::ServerContext* context, const v1::OpenSessionRequest* request,
    v1::Session* response) {
  absl::StatusOr<v1::Session> session = scheduler_->OpenSession(*request);
  if (session.ok()) {
    spdlog::info("worker {} ({}, {}) from {}: {}", request->worker(),
                 request->device(), request->version(), context->peer(),
                 session->name());
  }
  return Respond(std::move(session), response);
}

grpc::ServerUnaryReactor* WorkerServiceImpl::LeaseTasks(
    grpc::CallbackServerContext* context, const v1::LeaseTasksRequest* request,
    v1::LeaseTasksResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  if (absl::Status same = CheckAlgorithms(*request); !same.ok()) {
    spdlog::warn("{}: {}", request->session(), std::string(same.message()));
    reactor->Finish(ToGrpcStatus(same));
    return reactor;
  }
  dispatcher_->Add(context, request, response, reactor);
  return reactor;
}

grpc::Status WorkerServiceImpl::RenewLeases(
    grpc::ServerContext*, const v1::RenewLeasesRequest* request,
    v1::RenewLeasesResponse* response) {
  return Respond(scheduler_->RenewLeases(*request), response);
}

grpc::Status WorkerServiceImpl::CompleteTask(
    grpc::ServerContext*, const v1::CompleteTaskRequest* request,
    google::protobuf::Empty*) {
  absl::Status status = scheduler_->CompleteTask(*request);
  if (!status.ok()) {
    spdlog::warn("{}: result refused: {}", request->lease().task(),
                 std::string(status.message()));
  }
  return ToGrpcStatus(status);
}

grpc::Status WorkerServiceImpl::FailTask(grpc::ServerContext*,
                                         const v1::FailTaskRequest* request,
                                         google::protobuf::Empty*) {
  spdlog::warn("{}: an attempt failed: {}", request->lease().task(),
               request->error().message());
  return ToGrpcStatus(scheduler_->FailTask(*request));
}

grpc::Status WorkerServiceImpl::ReleaseLeases(
    grpc::ServerContext*, const v1::ReleaseLeasesRequest* request,
    google::protobuf::Empty*) {
  return ToGrpcStatus(scheduler_->ReleaseLeases(*request));
}

grpc::Status WorkerServiceImpl::CloseSession(
    grpc::ServerContext*, const v1::CloseSessionRequest* request,
    google::protobuf::Empty*) {
  return ToGrpcStatus(scheduler_->CloseSession(request->session()));
}

grpc::Status WorkerServiceImpl::ListWorkers(grpc::ServerContext*,
                                            const v1::ListWorkersRequest*,
                                            v1::ListWorkersResponse* response) {
  return Respond(scheduler_->ListWorkers(), response);
}

}  // namespace bitwright
