// CheckpointService and ServerInfoService.
#ifndef BITWRIGHT_SERVER_RPC_CHECKPOINT_SERVICE_H_
#define BITWRIGHT_SERVER_RPC_CHECKPOINT_SERVICE_H_

#include <grpcpp/grpcpp.h>

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "bitwright/v1/checkpoint.grpc.pb.h"
#include "bitwright/v1/server_info.grpc.pb.h"
#include "server/scheduler/scheduler.h"
#include "server/store/blob_store.h"

namespace bitwright {

class CheckpointServiceImpl final : public v1::CheckpointService::Service {
 public:
  CheckpointServiceImpl(Scheduler* scheduler, BlobStore* blobs)
      : scheduler_(scheduler), blobs_(blobs) {}

  grpc::Status GetCheckpoint(grpc::ServerContext* context,
                             const v1::GetCheckpointRequest* request,
                             v1::Checkpoint* response) override;
  grpc::Status ListCheckpoints(grpc::ServerContext* context,
                               const v1::ListCheckpointsRequest* request,
                               v1::ListCheckpointsResponse* response) override;
  grpc::Status VerifyCheckpoint(
      grpc::ServerContext* context, const v1::VerifyCheckpointRequest* request,
      v1::VerifyCheckpointResponse* response) override;

 private:
  absl::Status Verify(grpc::ServerContext* context, const std::string& name,
                      v1::VerifyCheckpointResponse* response);

  Scheduler* const scheduler_;
  BlobStore* const blobs_;
};

class ServerInfoServiceImpl final : public v1::ServerInfoService::Service {
 public:
  explicit ServerInfoServiceImpl(std::string instance)
      : instance_(std::move(instance)) {}

  grpc::Status GetServerInfo(grpc::ServerContext* context,
                             const v1::GetServerInfoRequest* request,
                             v1::ServerInfo* response) override;

 private:
  const std::string instance_;
};

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_RPC_CHECKPOINT_SERVICE_H_
