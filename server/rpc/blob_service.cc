#include "server/rpc/blob_service.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/crc32c.h"
#include "common/base/digest.h"
#include "common/base/status_macros.h"
#include "proto/status_conversion.h"
#include "server/rpc/proto_digest.h"

namespace bitwright {

absl::Status VerifyBlob(BlobStore* blobs, const Digest& digest,
                        const std::function<bool()>& stop) {
  Hasher hasher;
  for (uint64_t offset = 0; offset < digest.size;) {
    if (stop()) return absl::CancelledError("verification was stopped");
    BW_ASSIGN_OR_RETURN(std::string data,
                        blobs->Read(digest, offset, 4 * kMaxBlobChunk));
    hasher.Update(data);
    offset += data.size();
  }
  if (digest.size == 0) {
    BW_RETURN_IF_ERROR(blobs->Read(digest, 0, 0).status());
  }
  if (Digest found = hasher.Finish(); found != digest) {
    return absl::DataLossError(absl::StrCat(
        "blob ", digest.ToString(), " reads as SHA-256 ", found.sha256));
  }
  return absl::OkStatus();
}

absl::Status BlobServiceImpl::FindMissing(
    const v1::FindMissingBlobsRequest& request,
    v1::FindMissingBlobsResponse* response) {
  if (request.digests_size() > kMaxDigestsPerCall) {
    return absl::InvalidArgumentError(
        absl::StrCat("FindMissingBlobs takes at most ", kMaxDigestsPerCall,
                     " digests, not ", request.digests_size()));
  }
  for (const v1::BlobDigest& proto : request.digests()) {
    BW_ASSIGN_OR_RETURN(Digest digest, CheckedDigest(proto));
    BW_ASSIGN_OR_RETURN(bool has, blobs_->Has(digest));
    if (!has) *response->add_missing() = proto;
  }
  return absl::OkStatus();
}

absl::Status BlobServiceImpl::DropCorrupt(grpc::ServerContext* context,
                                          const Digest& digest) {
  absl::Status again =
      VerifyBlob(blobs_, digest, [context] { return context->IsCancelled(); });
  if (again.ok()) {
    return absl::UnavailableError(absl::StrCat(
        "blob ", digest.ToString(), " was read wrongly once; try again"));
  }
  spdlog::error("{}; it is dropped", std::string(again.message()));
  if (absl::IsDataLoss(again)) blobs_->Delete(digest).IgnoreError();
  return again;
}

absl::Status BlobServiceImpl::Send(
    grpc::ServerContext* context, const v1::ReadBlobRequest& request,
    grpc::ServerWriter<v1::ReadBlobResponse>* writer) {
  BW_ASSIGN_OR_RETURN(Digest digest, CheckedDigest(request.digest()));
  if (request.offset() < 0 || request.limit() < 0) {
    return absl::InvalidArgumentError("offset and limit must not be negative");
  }
  uint64_t offset = request.offset();
  if (offset > digest.size) {
    return absl::OutOfRangeError(
        absl::StrCat("blob ", digest.ToString(), " has no offset ", offset));
  }
  uint64_t end = digest.size;
  if (request.limit() > 0) {
    end = std::min<uint64_t>(end, offset + request.limit());
  }
  const bool whole = offset == 0 && end == digest.size;
  Hasher hasher;
  do {
    const uint64_t size = std::min<uint64_t>(kMaxBlobChunk, end - offset);
    BW_ASSIGN_OR_RETURN(std::string data, blobs_->Read(digest, offset, size));
    offset += size;
    // The last chunk of a corrupt blob is not sent.
    if (whole) hasher.Update(data);
    if (whole && offset == end && hasher.Finish() != digest) {
      return DropCorrupt(context, digest);
    }
    v1::ReadBlobResponse response;
    response.set_crc32c(Crc32c(data));
    response.set_data(std::move(data));
    if (!writer->Write(response)) {
      return absl::CancelledError("the client went away");
    }
    metrics_->BlobBytesOut(size);
  } while (offset < end);
  return absl::OkStatus();
}

absl::Status BlobServiceImpl::Take(const v1::WriteBlobRequest& request,
                                   BlobWriter* writer) {
  const std::string& data = request.data();
  if (data.size() > kMaxBlobChunk) {
    return absl::InvalidArgumentError(
        absl::StrCat("a chunk of ", data.size(), " bytes is over the limit of ",
                     kMaxBlobChunk));
  }
  if (Crc32c(data) != request.crc32c()) {
    return absl::DataLossError(absl::StrCat(
        "the chunk at offset ", request.offset(), " was damaged on the way"));
  }
  const uint64_t committed = writer->committed_size();
  if (request.offset() < 0 ||
      static_cast<uint64_t>(request.offset()) > committed) {
    return absl::OutOfRangeError(
        absl::StrCat("the chunk is for offset ", request.offset(), ", but ",
                     committed, " bytes have arrived; go on from there"));
  }
  metrics_->BlobBytesIn(data.size());
  // What has arrived before is not written again; the digest covers it.
  const uint64_t known =
      std::min<uint64_t>(committed - request.offset(), data.size());
  return writer->Append(absl::string_view(data).substr(known));
}

absl::Status BlobServiceImpl::Receive(
    grpc::ServerReader<v1::WriteBlobRequest>* reader,
    v1::WriteBlobResponse* response) {
  v1::WriteBlobRequest request;
  std::unique_ptr<BlobWriter> writer;
  while (reader->Read(&request)) {
    if (writer == nullptr) {
      BW_ASSIGN_OR_RETURN(Digest digest, CheckedDigest(request.digest()));
      BW_ASSIGN_OR_RETURN(writer, blobs_->BeginWrite(digest));
    }
    BW_RETURN_IF_ERROR(Take(request, writer.get()));
    if (request.finish_write()) {
      BW_RETURN_IF_ERROR(writer->Commit());
      response->set_committed_size(
          static_cast<int64_t>(writer->committed_size()));
      return absl::OkStatus();
    }
  }
  return absl::CancelledError(
      "the stream ended without finish_write; what has arrived is kept for a "
      "later one");
}

grpc::Status BlobServiceImpl::FindMissingBlobs(
    grpc::ServerContext*, const v1::FindMissingBlobsRequest* request,
    v1::FindMissingBlobsResponse* response) {
  return ToGrpcStatus(FindMissing(*request, response));
}

grpc::Status BlobServiceImpl::ReadBlob(
    grpc::ServerContext* context, const v1::ReadBlobRequest* request,
    grpc::ServerWriter<v1::ReadBlobResponse>* writer) {
  return ToGrpcStatus(Send(context, *request, writer));
}

grpc::Status BlobServiceImpl::WriteBlob(
    grpc::ServerContext*, grpc::ServerReader<v1::WriteBlobRequest>* reader,
    v1::WriteBlobResponse* response) {
  return ToGrpcStatus(Receive(reader, response));
}

grpc::Status BlobServiceImpl::QueryWriteStatus(
    grpc::ServerContext*, const v1::QueryWriteStatusRequest* request,
    v1::QueryWriteStatusResponse* response) {
  auto query = [&]() -> absl::Status {
    BW_ASSIGN_OR_RETURN(Digest digest, CheckedDigest(request->digest()));
    BW_ASSIGN_OR_RETURN(bool has, blobs_->Has(digest));
    response->set_complete(has);
    if (has) {
      response->set_committed_size(static_cast<int64_t>(digest.size));
      return absl::OkStatus();
    }
    BW_ASSIGN_OR_RETURN(auto writer, blobs_->BeginWrite(digest));
    response->set_committed_size(
        static_cast<int64_t>(writer->committed_size()));
    return absl::OkStatus();
  };
  return ToGrpcStatus(query());
}

}  // namespace bitwright
