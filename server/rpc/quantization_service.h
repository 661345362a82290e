// QuantizationService: checks of what clients ask for, then the scheduler.
#ifndef BITWRIGHT_SERVER_RPC_QUANTIZATION_SERVICE_H_
#define BITWRIGHT_SERVER_RPC_QUANTIZATION_SERVICE_H_

#include <grpcpp/grpcpp.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bitwright/v1/job.grpc.pb.h"
#include "server/rpc/model_source.h"
#include "server/rpc/watch_hub.h"
#include "server/scheduler/scheduler.h"
#include "server/store/blob_store.h"

namespace bitwright {

// WatchJob runs on the callback API, the short calls on gRPC's threads.
class QuantizationServiceImpl final
    : public v1::QuantizationService::WithCallbackMethod_WatchJob<
          v1::QuantizationService::Service> {
 public:
  // All must outlive it.
  QuantizationServiceImpl(Scheduler* scheduler, BlobStore* blobs,
                          const ModelRoots* roots, WatchHub* hub)
      : scheduler_(scheduler), blobs_(blobs), roots_(roots), hub_(hub) {}

  grpc::Status CreateJob(grpc::ServerContext* context,
                         const v1::CreateJobRequest* request,
                         v1::Job* response) override;
  grpc::Status GetJob(grpc::ServerContext* context,
                      const v1::GetJobRequest* request,
                      v1::Job* response) override;
  grpc::Status ListJobs(grpc::ServerContext* context,
                        const v1::ListJobsRequest* request,
                        v1::ListJobsResponse* response) override;
  grpc::ServerWriteReactor<v1::Job>* WatchJob(
      grpc::CallbackServerContext* context,
      const v1::WatchJobRequest* request) override;
  grpc::Status CancelJob(grpc::ServerContext* context,
                         const v1::CancelJobRequest* request,
                         v1::Job* response) override;
  grpc::Status RetryJob(grpc::ServerContext* context,
                        const v1::RetryJobRequest* request,
                        v1::Job* response) override;
  grpc::Status DeleteJob(grpc::ServerContext* context,
                         const v1::DeleteJobRequest* request,
                         google::protobuf::Empty* response) override;
  grpc::Status ListTasks(grpc::ServerContext* context,
                         const v1::ListTasksRequest* request,
                         v1::ListTasksResponse* response) override;

 private:
  absl::StatusOr<v1::Job> Create(const v1::CreateJobRequest& request);
  // With all defaults, checked against the model's headers.
  absl::StatusOr<v1::JobSpec> CheckSpec(const v1::JobSpec& asked);
  absl::Status CheckTexts(const v1::TextSource& source, const char* field);
  absl::Status Delete(const std::string& name);

  Scheduler* const scheduler_;
  BlobStore* const blobs_;
  const ModelRoots* const roots_;
  WatchHub* const hub_;
};

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_RPC_QUANTIZATION_SERVICE_H_
