// BlobService over a BlobStore.
#ifndef BITWRIGHT_SERVER_RPC_BLOB_SERVICE_H_
#define BITWRIGHT_SERVER_RPC_BLOB_SERVICE_H_

#include <grpcpp/grpcpp.h>

#include <functional>

#include "absl/status/status.h"
#include "bitwright/v1/blob.grpc.pb.h"
#include "server/rpc/metrics.h"
#include "server/store/blob_store.h"

namespace bitwright {

inline constexpr size_t kMaxBlobChunk = size_t{1} << 20;
inline constexpr int kMaxDigestsPerCall = 10'000;

// Reads the blob and compares digests. DATA_LOSS
// if it is not what its name says; CANCELLED once `stop` returns true.
absl::Status VerifyBlob(BlobStore* blobs, const Digest& digest,
                        const std::function<bool()>& stop);

class BlobServiceImpl final : public v1::BlobService::Service {
 public:
  BlobServiceImpl(BlobStore* blobs, Metrics* metrics)
      : blobs_(blobs), metrics_(metrics) {}

  grpc::Status FindMissingBlobs(
      grpc::ServerContext* context, const v1::FindMissingBlobsRequest* request,
      v1::FindMissingBlobsResponse* response) override;
  grpc::Status ReadBlob(
      grpc::ServerContext* context, const v1::ReadBlobRequest* request,
      grpc::ServerWriter<v1::ReadBlobResponse>* writer) override;
  grpc::Status WriteBlob(grpc::ServerContext* context,
                         grpc::ServerReader<v1::WriteBlobRequest>* reader,
                         v1::WriteBlobResponse* response) override;
  grpc::Status QueryWriteStatus(
      grpc::ServerContext* context, const v1::QueryWriteStatusRequest* request,
      v1::QueryWriteStatusResponse* response) override;

 private:
  absl::Status FindMissing(const v1::FindMissingBlobsRequest& request,
                           v1::FindMissingBlobsResponse* response);
  absl::Status Send(grpc::ServerContext* context,
                    const v1::ReadBlobRequest& request,
                    grpc::ServerWriter<v1::ReadBlobResponse>* writer);
  absl::Status Receive(grpc::ServerReader<v1::WriteBlobRequest>* reader,
                       v1::WriteBlobResponse* response);
  absl::Status Take(const v1::WriteBlobRequest& request, BlobWriter* writer);
  // The store's copy of `digest` read as something else: after a second look it
  // is forgotten, so that it is made or sent again.
  absl::Status DropCorrupt(grpc::ServerContext* context, const Digest& digest);

  BlobStore* const blobs_;
  Metrics* const metrics_;
};

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_RPC_BLOB_SERVICE_H_
