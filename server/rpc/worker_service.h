// WorkerService: the scheduler's side of leases, over gRPC.
#ifndef BITWRIGHT_SERVER_RPC_WORKER_SERVICE_H_
#define BITWRIGHT_SERVER_RPC_WORKER_SERVICE_H_

#include <grpcpp/grpcpp.h>

#include "bitwright/v1/worker.grpc.pb.h"
#include "server/rpc/lease_dispatcher.h"
#include "server/scheduler/scheduler.h"

namespace bitwright {

// LeaseTasks, the long poll, runs on the callback API, the short calls on
// gRPC's threads.
class WorkerServiceImpl final
    : public v1::WorkerService::WithCallbackMethod_LeaseTasks<
          v1::WorkerService::Service> {
 public:
  // Both must outlive it.
  WorkerServiceImpl(Scheduler* scheduler, LeaseDispatcher* dispatcher)
      : scheduler_(scheduler), dispatcher_(dispatcher) {}

  grpc::Status OpenSession(grpc::ServerContext* context,
                           const v1::OpenSessionRequest* request,
                           v1::Session* response) override;
  grpc::ServerUnaryReactor* LeaseTasks(
      grpc::CallbackServerContext* context,
      const v1::LeaseTasksRequest* request,
      v1::LeaseTasksResponse* response) override;
  grpc::Status RenewLeases(grpc::ServerContext* context,
                           const v1::RenewLeasesRequest* request,
                           v1::RenewLeasesResponse* response) override;
  grpc::Status CompleteTask(grpc::ServerContext* context,
                            const v1::CompleteTaskRequest* request,
                            google::protobuf::Empty* response) override;
  grpc::Status FailTask(grpc::ServerContext* context,
                        const v1::FailTaskRequest* request,
                        google::protobuf::Empty* response) override;
  grpc::Status ReleaseLeases(grpc::ServerContext* context,
                             const v1::ReleaseLeasesRequest* request,
                             google::protobuf::Empty* response) override;
  grpc::Status CloseSession(grpc::ServerContext* context,
                            const v1::CloseSessionRequest* request,
                            google::protobuf::Empty* response) override;
  grpc::Status ListWorkers(grpc::ServerContext* context,
                           const v1::ListWorkersRequest* request,
                           v1::ListWorkersResponse* response) override;

 private:
  Scheduler* const scheduler_;
  LeaseDispatcher* const dispatcher_;
};

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_RPC_WORKER_SERVICE_H_
