// The file blob store on a disk that fails: after any one failing operation the
// blob is whole or absent, and a second try succeeds.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <memory>
#include <string>

#include "common/base/file.h"
#include "server/store/file/file_blob_store.h"

namespace bitwright {
namespace {

namespace fs = std::filesystem;

// Fails the operation number `fail_at` with `error_number`.
class FaultyOps : public FileOps {
 public:
  int Open(const std::string& path, int flags, mode_t mode) override {
    return Fails() ? -1 : FileOps::Open(path, flags, mode);
  }
  ssize_t Write(int fd, const void* data, size_t size) override {
    // Half of it arrives, as on a disk that fills up.
    if (Fails()) {
      const int error = errno;
      (void)!write(fd, data, size / 2);
      errno = error;
      return -1;
    }
    return FileOps::Write(fd, data, size);
  }
  int Truncate(int fd, off_t size) override {
    return Fails() ? -1 : FileOps::Truncate(fd, size);
  }
  int Sync(int fd) override { return Fails() ? -1 : FileOps::Sync(fd); }
  int Rename(const std::string& from, const std::string& to) override {
    return Fails() ? -1 : FileOps::Rename(from, to);
  }
  int Unlink(const std::string& path) override {
    return Fails() ? -1 : FileOps::Unlink(path);
  }

  int operations = 0;
  int fail_at = -1;
  int error_number = ENOSPC;

 private:
  bool Fails() {
    if (operations++ != fail_at) return false;
    errno = error_number;
    return true;
  }
};

class FileFaultsTest : public ::testing::Test {
 protected:
  void Open() {
    store_.reset();
    auto store = FileBlobStore::Open(root_, &ops_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  int CountFiles(const std::string& below) {
    int count = 0;
    for (const auto& entry :
         fs::recursive_directory_iterator(root_ + "/" + below)) {
      count += entry.is_regular_file();
    }
    return count;
  }

  TempDirectory directory_ = TempDirectory::Create("file-faults").value();
  std::string root_ = directory_.path() + "/store";
  FaultyOps ops_;
  std::unique_ptr<FileBlobStore> store_;
};

TEST_F(FileFaultsTest, EveryFailingOperationLeavesItWholeOrAbsent) {
  const std::string bytes(3000, 'x');
  const Digest digest = DigestOf(bytes);
  Open();
  ops_.operations = 0;
  ASSERT_TRUE(WriteBlob(store_.get(), digest, bytes).ok());
  const int operations = ops_.operations;
  ASSERT_GE(operations,
            5);  // Open, write, sync, rename, open and sync the directory.
  for (int error_number : {ENOSPC, EIO}) {
    for (int fail_at = 0; fail_at < operations; ++fail_at) {
      SCOPED_TRACE(fail_at);
      ASSERT_TRUE(store_->Delete(digest).ok());
      ops_.operations = 0;
      ops_.error_number = error_number;
      ops_.fail_at = fail_at;
      const absl::Status status = WriteBlob(store_.get(), digest, bytes);
      ops_.fail_at = -1;
      EXPECT_EQ(status.code(), error_number == ENOSPC
                                   ? absl::StatusCode::kResourceExhausted
                                   : absl::StatusCode::kInternal)
          << status;
      EXPECT_EQ(CountFiles("partial"), 0);
      if (store_->Has(digest).value()) {
        EXPECT_EQ(store_->Read(digest, 0, digest.size).value(), bytes);
      } else {
        EXPECT_EQ(CountFiles("blobs"), 0);
      }
      Open();
      ASSERT_TRUE(WriteBlob(store_.get(), digest, bytes).ok());
      EXPECT_EQ(store_->Read(digest, 0, digest.size).value(), bytes);
    }
  }
}

TEST_F(FileFaultsTest, DamagedPartialIsFoundAtCommitAndDropped) {
  const std::string bytes = "0123456789";
  const Digest digest = DigestOf(bytes);
  Open();
  { ASSERT_TRUE(store_->BeginWrite(digest).value()->Append("01234").ok()); }
  const std::string partial =
      root_ + "/partial/" + digest.sha256 + "-" + std::to_string(digest.size);
  ASSERT_TRUE(WriteFileAtomically(partial, "01x34").ok());
  Open();
  {
    auto writer = store_->BeginWrite(digest).value();
    EXPECT_EQ(writer->committed_size(), 5u);
    ASSERT_TRUE(writer->Append("56789").ok());
    EXPECT_EQ(writer->Commit().code(), absl::StatusCode::kDataLoss);
  }
  EXPECT_FALSE(store_->Has(digest).value());
  EXPECT_FALSE(fs::exists(partial));
  EXPECT_TRUE(WriteBlob(store_.get(), digest, bytes).ok());
}

TEST_F(FileFaultsTest, OverlongPartialStartsAnew) {
  const Digest digest = DigestOf("abc");
  Open();
  ASSERT_TRUE(
      WriteFileAtomically(root_ + "/partial/" + digest.sha256 + "-3", "abcdef")
          .ok());
  auto writer = store_->BeginWrite(digest).value();
  EXPECT_EQ(writer->committed_size(), 0u);
  ASSERT_TRUE(writer->Append("abc").ok());
  EXPECT_TRUE(writer->Commit().ok());
}

TEST_F(FileFaultsTest, OldPartialsAreDroppedAtStart) {
  Open();
  const Digest old = DigestOf("old one"), young = DigestOf("young one");
  ASSERT_TRUE(store_->BeginWrite(old).value()->Append("old").ok());
  ASSERT_TRUE(store_->BeginWrite(young).value()->Append("young").ok());
  ASSERT_EQ(CountFiles("partial"), 2);
  fs::last_write_time(
      root_ + "/partial/" + old.sha256 + "-7",
      fs::file_time_type::clock::now() - std::chrono::hours(24 * 8));
  Open();
  EXPECT_EQ(CountFiles("partial"), 1);
  EXPECT_EQ(store_->BeginWrite(young).value()->committed_size(), 5u);
}

TEST_F(FileFaultsTest, TruncatedBlobFileCountsAsMissing) {
  const Digest digest = DigestOf("whole");
  Open();
  ASSERT_TRUE(WriteBlob(store_.get(), digest, "whole").ok());
  fs::resize_file(
      root_ + "/blobs/" + digest.sha256.substr(0, 2) + "/" + digest.sha256, 3);
  EXPECT_FALSE(store_->Has(digest).value());
  EXPECT_EQ(store_->Read(digest, 0, 5).status().code(),
            absl::StatusCode::kDataLoss);
  ASSERT_TRUE(WriteBlob(store_.get(), digest, "whole").ok());
  EXPECT_EQ(store_->Read(digest, 0, 5).value(), "whole");
}

}  // namespace
}  // namespace bitwright
