// Blob transfer between the real client and the real server.
#include <fcntl.h>
#include <unistd.h>

#include <thread>
#include <vector>

#include "bitwright/v1/blob.grpc.pb.h"
#include "common/base/crc32c.h"
#include "proto/status_conversion.h"
#include "tests/unit/server/rpc/rpc_test_util.h"

namespace bitwright {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

std::string Pattern(size_t size) {
  std::string bytes(size, 0);
  for (size_t i = 0; i < size; ++i)
    bytes[i] = static_cast<char>(i * 31 + i / 7);
  return bytes;
}

class BlobServiceTest : public ServerTest {
 protected:
  void SetUp() override {
    ServerTest::SetUp();
    client_ = Connect();
    stub_ = v1::BlobService::NewStub(Channel());
  }

  static v1::WriteBlobRequest Chunk(const Digest& digest, uint64_t offset,
                                    std::string data, bool last) {
    v1::WriteBlobRequest request;
    *request.mutable_digest() = ToProto(digest);
    request.set_offset(static_cast<int64_t>(offset));
    request.set_crc32c(Crc32c(data));
    request.set_data(std::move(data));
    request.set_finish_write(last);
    return request;
  }
  // One stream of these messages.
  absl::Status Send(const std::vector<v1::WriteBlobRequest>& chunks) {
    grpc::ClientContext context;
    v1::WriteBlobResponse response;
    auto stream = stub_->WriteBlob(&context, &response);
    for (const auto& chunk : chunks) stream->Write(chunk);
    stream->WritesDone();
    return FromGrpcStatus(stream->Finish());
  }
  v1::QueryWriteStatusResponse Query(const Digest& digest) {
    grpc::ClientContext context;
    v1::QueryWriteStatusRequest request;
    *request.mutable_digest() = ToProto(digest);
    v1::QueryWriteStatusResponse response;
    EXPECT_TRUE(stub_->QueryWriteStatus(&context, request, &response).ok());
    return response;
  }

  std::unique_ptr<Client> client_;
  std::unique_ptr<v1::BlobService::Stub> stub_;
};

TEST_F(BlobServiceTest, RoundTrips) {
  for (size_t size : {size_t{0}, size_t{1}, kMiB, kMiB + 1, 7 * kMiB / 2}) {
    const std::string bytes = Pattern(size);
    auto digest = client_->UploadBytes(bytes);
    ASSERT_TRUE(digest.ok()) << digest.status();
    EXPECT_EQ(*digest, DigestOf(bytes));
    EXPECT_EQ(client_->UploadBytes(bytes).value(), *digest);
    EXPECT_TRUE(client_->DownloadBytes(*digest).value() == bytes);
    const std::string path = directory_.path() + "/download";
    ASSERT_TRUE(client_->DownloadFile(*digest, path).ok());
    EXPECT_TRUE(ReadFile(path).value() == bytes);
    EXPECT_EQ(client_->UploadFile(path).value(), *digest);
  }
}

TEST_F(BlobServiceTest, UploadResumesWhereABrokenOneEnded) {
  const std::string bytes = Pattern(3 * kMiB);
  const Digest digest = DigestOf(bytes);
  EXPECT_EQ(Send({Chunk(digest, 0, bytes.substr(0, kMiB), false)}).code(),
            absl::StatusCode::kCancelled);
  EXPECT_EQ(Query(digest).committed_size(), static_cast<int64_t>(kMiB));
  EXPECT_FALSE(Query(digest).complete());
  // A gap is refused, from there on it works, also over a restart.
  EXPECT_EQ(
      Send({Chunk(digest, 2 * kMiB, bytes.substr(2 * kMiB), true)}).code(),
      absl::StatusCode::kOutOfRange);
  server_.reset();
  Start();
  ASSERT_TRUE(Connect()->GetServerInfo().ok());
  EXPECT_EQ(Query(digest).committed_size(), static_cast<int64_t>(kMiB));
  EXPECT_TRUE(Send({Chunk(digest, kMiB, bytes.substr(kMiB, kMiB), false),
                    Chunk(digest, 2 * kMiB, bytes.substr(2 * kMiB), true)})
                  .ok());
  EXPECT_TRUE(Query(digest).complete());
  EXPECT_TRUE(client_->DownloadBytes(digest).value() == bytes);
}

TEST_F(BlobServiceTest, ClientFinishesAPartialUpload) {
  const std::string bytes = Pattern(3 * kMiB);
  const Digest digest = DigestOf(bytes);
  Send({Chunk(digest, 0, bytes.substr(0, kMiB), false)}).IgnoreError();
  EXPECT_EQ(client_->UploadBytes(bytes).value(), digest);
}

TEST_F(BlobServiceTest, DamagedChunksAreRefusedAndNothingIsStored) {
  const std::string bytes = Pattern(1000);
  const Digest digest = DigestOf(bytes);
  v1::WriteBlobRequest chunk = Chunk(digest, 0, bytes, true);
  chunk.set_crc32c(chunk.crc32c() ^ 1);
  EXPECT_EQ(Send({chunk}).code(), absl::StatusCode::kDataLoss);
  EXPECT_FALSE(Query(digest).complete());
  // Right checksum, wrong content.
  EXPECT_EQ(Send({Chunk(digest, 0, std::string(1000, 'x'), true)}).code(),
            absl::StatusCode::kDataLoss);
  EXPECT_FALSE(Query(digest).complete());
  EXPECT_EQ(Query(digest).committed_size(), 0);
  EXPECT_TRUE(Send({Chunk(digest, 0, bytes, true)}).ok());
}

TEST_F(BlobServiceTest, BadRequestsAreRefused) {
  const std::string bytes = Pattern(2 * kMiB);
  EXPECT_EQ(Send({Chunk(DigestOf(bytes), 0, bytes, true)}).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Send({Chunk({"../../x", 3}, 0, "abc", true)}).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(
      Send({Chunk({DigestOf("abc").sha256, uint64_t{1} << 63}, 0, "abc", true)})
          .code(),
      absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(client_->DownloadBytes(DigestOf("nobody's")).status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(BlobServiceTest, ManyClientsUploadOneBlobAtOnce) {
  const std::string bytes = Pattern(5 * kMiB);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      auto digest = Connect()->UploadBytes(bytes);
      EXPECT_TRUE(digest.ok()) << digest.status();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(client_->DownloadBytes(DigestOf(bytes)).value() == bytes);
}

TEST_F(BlobServiceTest, CorruptBlobIsNotServedAndDropped) {
  const std::string bytes = Pattern(2 * kMiB);
  const Digest digest = client_->UploadBytes(bytes).value();
  const std::string path = options_.state_dir + "/store/blobs/" +
                           digest.sha256.substr(0, 2) + "/" + digest.sha256;
  const int fd = open(path.c_str(), O_WRONLY);
  ASSERT_EQ(pwrite(fd, "!", 1, 12345), 1);
  close(fd);
  EXPECT_EQ(client_->DownloadBytes(digest).status().code(),
            absl::StatusCode::kDataLoss);
  EXPECT_FALSE(Query(digest).complete());
  EXPECT_EQ(client_->UploadBytes(bytes).value(), digest);
  EXPECT_TRUE(client_->DownloadBytes(digest).value() == bytes);
}

}  // namespace
}  // namespace bitwright
