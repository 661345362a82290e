// Blob transfer: chunks with CRC-32C, resumed by offset after UNAVAILABLE,
// whole blobs checked by SHA-256.
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/api/client.h"
#include "client/api/client_impl.h"
#include "common/base/crc32c.h"
#include "common/base/file.h"
#include "common/base/status_macros.h"

namespace bitwright {
namespace {

using Blobs = v1::BlobService::Stub;

constexpr uint64_t kChunk = uint64_t{1} << 20;
// A transfer slower than this has hung.
constexpr double kSlowestBytesPerSecond = 256 << 10;

absl::Duration TransferTimeout(const ClientOptions& options, uint64_t bytes) {
  return options.call_timeout + absl::Seconds(bytes / kSlowestBytesPerSecond);
}

// `size` bytes at `offset` of what is uploaded.
using ReadAt =
    std::function<absl::StatusOr<std::string>(uint64_t offset, uint64_t size)>;

class Upload {
 public:
  Upload(const ClientCore& impl, Digest digest, ReadAt read)
      : impl_(impl), digest_(std::move(digest)), read_(std::move(read)) {}

  absl::Status Run();

 private:
  absl::StatusOr<bool> Missing();
  absl::StatusOr<uint64_t> CommittedSize();
  // One WriteBlob stream from `offset` on.
  absl::Status Send(uint64_t offset);
  // Waits before the next attempt; false: give up.
  bool WaitAfter(const absl::Status& status);

  const ClientCore& impl_;
  const Digest digest_;
  const ReadAt read_;
  Backoff retries_{impl_.options.retry_for};
  // Another client is sending the same blob.
  Backoff contention_{TransferTimeout(impl_.options, digest_.size)};
  bool sent_again_ = false;
};

absl::StatusOr<bool> Upload::Missing() {
  v1::FindMissingBlobsRequest request;
  *request.add_digests() = ToProto(digest_);
  v1::FindMissingBlobsResponse response;
  BW_RETURN_IF_ERROR(impl_.Call(impl_.blobs.get(), &Blobs::FindMissingBlobs,
                                request, &response));
  return response.missing_size() > 0;
}

absl::StatusOr<uint64_t> Upload::CommittedSize() {
  v1::QueryWriteStatusRequest request;
  *request.mutable_digest() = ToProto(digest_);
  v1::QueryWriteStatusResponse response;
  // The server hashes what it has.
  BW_RETURN_IF_ERROR(impl_.Call(impl_.blobs.get(), &Blobs::QueryWriteStatus,
                                request, &response,
                                TransferTimeout(impl_.options, digest_.size)));
  return static_cast<uint64_t>(response.committed_size());
}

absl::Status Upload::Send(uint64_t offset) {
  grpc::ClientContext context;
  ClientCore::SetTimeout(&context,
                         TransferTimeout(impl_.options, digest_.size - offset));
  v1::WriteBlobResponse response;
  auto stream = impl_.blobs->WriteBlob(&context, &response);
  bool last = false;
  for (bool first = true; !last; first = false) {
    const uint64_t size = std::min(kChunk, digest_.size - offset);
    absl::StatusOr<std::string> data = read_(offset, size);
    if (!data.ok()) {
      context.TryCancel();
      stream->Finish();
      return data.status();
    }
    v1::WriteBlobRequest request;
    if (first) *request.mutable_digest() = ToProto(digest_);
    request.set_offset(static_cast<int64_t>(offset));
    request.set_crc32c(Crc32c(*data));
    request.set_data(*std::move(data));
    offset += size;
    last = offset == digest_.size;
    request.set_finish_write(last);
    if (!stream->Write(request)) break;  // Finish says why.
  }
  stream->WritesDone();
  return impl_.Convert(stream->Finish());
}

bool Upload::WaitAfter(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kUnavailable:
      return retries_.Wait();
    case absl::StatusCode::kAborted:
      return contention_.Wait();
    case absl::StatusCode::kOutOfRange:  // Another one wrote meanwhile.
    case absl::StatusCode::kDataLoss:  // Damaged on the way, or a bad partial.
      return !std::exchange(sent_again_, true);
    default:
      return false;
  }
}

absl::Status Upload::Run() {
  BW_ASSIGN_OR_RETURN(bool missing, Missing());
  uint64_t offset = 0;
  while (missing) {
    absl::Status status = Send(offset);
    if (status.ok()) return status;
    while (true) {
      if (!WaitAfter(status)) return status;
      BW_ASSIGN_OR_RETURN(missing, Missing());
      if (!missing) break;
      absl::StatusOr<uint64_t> committed = CommittedSize();
      if (!committed.ok()) {
        status = committed.status();
        continue;
      }
      if (*committed > offset) retries_.Progress();
      offset = std::min(*committed, digest_.size);
      break;
    }
  }
  return absl::OkStatus();
}

class Download {
 public:
  using Sink = std::function<absl::Status(absl::string_view)>;

  Download(const ClientCore& impl, const Digest& digest, Sink sink)
      : impl_(impl), digest_(digest), sink_(std::move(sink)) {}

  absl::Status Run();

 private:
  // One ReadBlob stream from offset_ on.
  absl::Status Receive();
  absl::Status Take(const v1::ReadBlobResponse& response);

  const ClientCore& impl_;
  const Digest& digest_;
  const Sink sink_;
  uint64_t offset_ = 0;
  Hasher hasher_;
};

absl::Status Download::Take(const v1::ReadBlobResponse& response) {
  const std::string& data = response.data();
  if (Crc32c(data) != response.crc32c()) {
    return absl::DataLossError(absl::StrCat("blob ", digest_.ToString(),
                                            ": the chunk at offset ", offset_,
                                            " was damaged on the way"));
  }
  if (data.size() > digest_.size - offset_) {
    return absl::DataLossError(absl::StrCat(
        "blob ", digest_.ToString(), ": the server sent more than it has"));
  }
  hasher_.Update(data);
  offset_ += data.size();
  return sink_(data);
}

absl::Status Download::Receive() {
  v1::ReadBlobRequest request;
  *request.mutable_digest() = ToProto(digest_);
  request.set_offset(static_cast<int64_t>(offset_));
  grpc::ClientContext context;
  ClientCore::SetTimeout(
      &context, TransferTimeout(impl_.options, digest_.size - offset_));
  auto stream = impl_.blobs->ReadBlob(&context, request);
  v1::ReadBlobResponse response;
  while (stream->Read(&response)) {
    if (absl::Status taken = Take(response); !taken.ok()) {
      context.TryCancel();
      stream->Finish();
      return taken;
    }
  }
  return impl_.Convert(stream->Finish());
}

absl::Status Download::Run() {
  Backoff backoff(impl_.options.retry_for);
  while (true) {
    const uint64_t before = offset_;
    absl::Status status = Receive();
    if (status.ok()) break;
    if (offset_ > before) backoff.Progress();
    if (!absl::IsUnavailable(status) || !backoff.Wait()) return status;
  }
  if (offset_ != digest_.size) {
    return absl::DataLossError(absl::StrCat(
        "blob ", digest_.ToString(), " ended after ", offset_, " bytes"));
  }
  if (Digest found = hasher_.Finish(); found != digest_) {
    return absl::DataLossError(absl::StrCat(
        "blob ", digest_.ToString(), " arrived with SHA-256 ", found.sha256));
  }
  return absl::OkStatus();
}

// A file descriptor, closed at the end.
struct Descriptor {
  explicit Descriptor(int fd) : fd(fd) {}
  ~Descriptor() { close(fd); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  const int fd;
};

absl::StatusOr<std::string> PositionalRead(int fd, const std::string& path,
                                           uint64_t offset, uint64_t size) {
  std::string data;
  data.resize(size);
  uint64_t done = 0;
  while (done < size) {
    const ssize_t n = pread(fd, data.data() + done, size - done,
                            static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "cannot read", path);
    if (n == 0) {
      return absl::DataLossError(
          absl::StrCat(path, " became shorter while it was uploaded"));
    }
    done += n;
  }
  return data;
}

}  // namespace

absl::StatusOr<Digest> Client::UploadFile(const std::string& path) {
  BW_ASSIGN_OR_RETURN(Digest digest, DigestOfFile(path));
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus(errno, "cannot open", path);
  Descriptor file(fd);
  Upload upload(*impl_, digest, [&](uint64_t offset, uint64_t size) {
    return PositionalRead(file.fd, path, offset, size);
  });
  BW_RETURN_IF_ERROR(
      Annotate(upload.Run(), absl::StrCat("cannot upload ", path)));
  return digest;
}

absl::StatusOr<Digest> Client::UploadBytes(absl::string_view bytes) {
  Digest digest = DigestOf(bytes);
  Upload upload(*impl_, digest, [&](uint64_t offset, uint64_t size) {
    return absl::StatusOr<std::string>(bytes.substr(offset, size));
  });
  BW_RETURN_IF_ERROR(upload.Run());
  return digest;
}

absl::StatusOr<std::string> Client::DownloadBytes(const Digest& digest) {
  std::string bytes;
  Download download(*impl_, digest, [&](absl::string_view data) {
    bytes.append(data.data(), data.size());
    return absl::OkStatus();
  });
  BW_RETURN_IF_ERROR(download.Run());
  return bytes;
}

absl::Status Client::DownloadFile(const Digest& digest,
                                  const std::string& path) {
  // See the atomic-write protocol of common/base/file.h.
  const std::string temporary = absl::StrCat(path, ".", getpid(), ".download");
  auto fetch = [&]() -> absl::Status {
    BW_ASSIGN_OR_RETURN(auto writer, FileWriter::Create(temporary));
    Download download(*impl_, digest, [&](absl::string_view data) {
      return writer->Append(data);
    });
    BW_RETURN_IF_ERROR(download.Run());
    BW_RETURN_IF_ERROR(writer->Close());
    if (rename(temporary.c_str(), path.c_str()) != 0) {
      return ErrnoStatus(errno, "cannot rename to", path);
    }
    return absl::OkStatus();
  };
  if (absl::Status status = fetch(); !status.ok()) {
    unlink(temporary.c_str());
    return status;
  }
  const std::string parent = std::filesystem::path(path).parent_path().string();
  return SyncDirectory(parent.empty() ? "." : parent);
}

}  // namespace bitwright
