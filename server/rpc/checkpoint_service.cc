#include "server/rpc/checkpoint_service.h"

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "server/rpc/blob_service.h"
#include "server/rpc/proto_digest.h"
#include "server/rpc/respond.h"

namespace bitwright {

absl::Status CheckpointServiceImpl::Verify(
    grpc::ServerContext* context, const std::string& name,
    v1::VerifyCheckpointResponse* response) {
  BW_ASSIGN_OR_RETURN(v1::Checkpoint checkpoint,
                      scheduler_->GetCheckpoint(name));
  int64_t bytes = 0;
  for (const v1::CheckpointFile& file : checkpoint.manifest().files()) {
    BW_ASSIGN_OR_RETURN(Digest digest, CheckedDigest(file.digest()));
    absl::Status status = VerifyBlob(
        blobs_, digest, [context] { return context->IsCancelled(); });
    if (absl::IsCancelled(status)) return status;
    if (!status.ok()) {
      response->add_problems(absl::StrCat(file.path(), ": ", status.message()));
    } else {
      bytes += file.digest().size_bytes();
    }
  }
  response->set_verified_bytes(bytes);
  return absl::OkStatus();
}

grpc::Status CheckpointServiceImpl::GetCheckpoint(
    grpc::ServerContext*, const v1::GetCheckpointRequest* request,
    v1::Checkpoint* response) {
  return Respond(scheduler_->GetCheckpoint(request->name()), response);
}

grpc::Status CheckpointServiceImpl::ListCheckpoints(
    grpc::ServerContext*, const v1::ListCheckpointsRequest* request,
    v1::ListCheckpointsResponse* response) {
  absl::StatusOr<v1::ListCheckpointsRequest> page = CheckPage(*request);
  if (!page.ok()) return ToGrpcStatus(page.status());
  return Respond(scheduler_->ListCheckpoints(*page), response);
}

grpc::Status CheckpointServiceImpl::VerifyCheckpoint(
    grpc::ServerContext* context, const v1::VerifyCheckpointRequest* request,
    v1::VerifyCheckpointResponse* response) {
  return ToGrpcStatus(Verify(context, request->name(), response));
}

grpc::Status ServerInfoServiceImpl::GetServerInfo(
    grpc::ServerContext*, const v1::GetServerInfoRequest*,
    v1::ServerInfo* response) {
  response->set_version(BITWRIGHT_VERSION);
  response->set_instance(instance_);
  return grpc::Status::OK;
}

}  // namespace bitwright
