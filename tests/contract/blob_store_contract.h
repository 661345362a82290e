// What every BlobStore promises, as a typed test suite.
//
//   struct FileStoreFactory {
//     std::unique_ptr<BlobStore> Open();   // Again: the same blobs, after a
//     restart.
//   };
//   INSTANTIATE_TYPED_TEST_SUITE_P(File, BlobStoreContract, FileStoreFactory);
#ifndef BITWRIGHT_TESTS_CONTRACT_BLOB_STORE_CONTRACT_H_
#define BITWRIGHT_TESTS_CONTRACT_BLOB_STORE_CONTRACT_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/base/file.h"
#include "server/store/blob_store.h"

namespace bitwright {

template <typename Factory>
class BlobStoreContract : public ::testing::Test {
 protected:
  void SetUp() override {
    store_ = factory_.Open();
    auto directory = TempDirectory::Create("blob-contract");
    ASSERT_TRUE(directory.ok()) << directory.status();
    directory_ = std::make_unique<TempDirectory>(*std::move(directory));
  }
  void Restart() {
    store_.reset();
    store_ = factory_.Open();
  }
  std::vector<Digest> All() {
    std::vector<Digest> all;
    EXPECT_TRUE(
        store_->ForEach([&](const Digest& d) { all.push_back(d); }).ok());
    return all;
  }
  bool Has(const Digest& digest) {
    auto has = store_->Has(digest);
    EXPECT_TRUE(has.ok()) << has.status();
    return has.ok() && *has;
  }
  std::string File(const std::string& name, const std::string& contents) {
    const std::string path = directory_->path() + "/" + name;
    EXPECT_TRUE(WriteFileAtomically(path, contents).ok());
    return path;
  }

  Factory factory_;
  std::unique_ptr<BlobStore> store_;
  std::unique_ptr<TempDirectory> directory_;
};

TYPED_TEST_SUITE_P(BlobStoreContract);

TYPED_TEST_P(BlobStoreContract, WritesAndReads) {
  const std::string bytes = "some blob";
  const Digest digest = DigestOf(bytes);
  EXPECT_FALSE(this->Has(digest));
  ASSERT_TRUE(WriteBlob(this->store_.get(), digest, bytes).ok());
  EXPECT_TRUE(this->Has(digest));
  EXPECT_EQ(this->store_->Read(digest, 0, digest.size).value(), bytes);
  EXPECT_EQ(this->store_->Read(digest, 5, 2).value(), "bl");
  EXPECT_EQ(this->store_->Read(digest, 5, 100).value(), "blob");
  EXPECT_EQ(this->store_->Read(digest, 9, 1).value(), "");
  EXPECT_EQ(this->store_->Read(digest, 10, 1).status().code(),
            absl::StatusCode::kOutOfRange);
  this->Restart();
  EXPECT_EQ(this->store_->Read(digest, 0, digest.size).value(), bytes);
}

TYPED_TEST_P(BlobStoreContract, EmptyBlob) {
  const Digest digest = DigestOf("");
  ASSERT_TRUE(WriteBlob(this->store_.get(), digest, "").ok());
  EXPECT_EQ(this->store_->Read(digest, 0, 10).value(), "");
}

TYPED_TEST_P(BlobStoreContract, MissingBlobIsNamed) {
  const Digest digest = DigestOf("nobody wrote this");
  const absl::Status status = this->store_->Read(digest, 0, 1).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()),
              ::testing::HasSubstr(digest.sha256));
}

TYPED_TEST_P(BlobStoreContract, RefusesWhatIsNoDigest) {
  for (const Digest& bad :
       {Digest{"../../../etc/passwd", 3}, Digest{std::string(64, 'G'), 3},
        Digest{std::string(63, 'a'), 3}, Digest{"", 0},
        Digest{std::string(62, 'a') + "/x", 3}}) {
    EXPECT_EQ(this->store_->Has(bad).status().code(),
              absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(this->store_->Read(bad, 0, 1).status().code(),
              absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(this->store_->BeginWrite(bad).status().code(),
              absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(this->store_->Delete(bad).code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TYPED_TEST_P(BlobStoreContract, WritingTwiceIsFine) {
  const Digest digest = DigestOf("twice");
  ASSERT_TRUE(WriteBlob(this->store_.get(), digest, "twice").ok());
  ASSERT_TRUE(WriteBlob(this->store_.get(), digest, "twice").ok());
  auto writer = this->store_->BeginWrite(digest);
  ASSERT_TRUE(writer.ok());
  EXPECT_EQ((*writer)->committed_size(), digest.size);
  EXPECT_TRUE((*writer)->Commit().ok());
}

TYPED_TEST_P(BlobStoreContract, WrongContentIsRefusedAndForgotten) {
  const Digest digest = DigestOf("right");
  {
    auto writer = this->store_->BeginWrite(digest);
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE((*writer)->Append("wrong").ok());
    EXPECT_EQ((*writer)->Commit().code(), absl::StatusCode::kDataLoss);
    EXPECT_FALSE((*writer)->Commit().ok());
  }
  EXPECT_FALSE(this->Has(digest));
  auto writer = this->store_->BeginWrite(digest);
  ASSERT_TRUE(writer.ok());
  EXPECT_EQ((*writer)->committed_size(), 0u);
  ASSERT_TRUE((*writer)->Append("right").ok());
  EXPECT_TRUE((*writer)->Commit().ok());
  EXPECT_TRUE(this->Has(digest));
}

TYPED_TEST_P(BlobStoreContract, WrongSizeIsRefused) {
  const Digest digest = DigestOf("exact size");
  auto writer = this->store_->BeginWrite(digest);
  ASSERT_TRUE(writer.ok());
  EXPECT_EQ((*writer)->Append("exact size and more").code(),
            absl::StatusCode::kOutOfRange);
  ASSERT_TRUE((*writer)->Append("exact").ok());
  EXPECT_EQ((*writer)->Commit().code(), absl::StatusCode::kDataLoss);
  EXPECT_FALSE(this->Has(digest));
}

TYPED_TEST_P(BlobStoreContract, UnfinishedWriteIsInvisibleAndContinues) {
  const std::string bytes = "first half, second half";
  const Digest digest = DigestOf(bytes);
  {
    auto writer = this->store_->BeginWrite(digest);
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE((*writer)->Append(bytes.substr(0, 10)).ok());
  }
  EXPECT_FALSE(this->Has(digest));
  EXPECT_THAT(this->All(), ::testing::IsEmpty());
  this->Restart();
  auto writer = this->store_->BeginWrite(digest);
  ASSERT_TRUE(writer.ok());
  const uint64_t offset = (*writer)->committed_size();
  EXPECT_EQ(offset, 10u);
  ASSERT_TRUE((*writer)->Append(bytes.substr(offset)).ok());
  ASSERT_TRUE((*writer)->Commit().ok());
  EXPECT_EQ(this->store_->Read(digest, 0, 100).value(), bytes);
}

TYPED_TEST_P(BlobStoreContract, OneWriterOfADigestAtATime) {
  const Digest digest = DigestOf("contended");
  auto first = this->store_->BeginWrite(digest);
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(this->store_->BeginWrite(digest).status().code(),
            absl::StatusCode::kAborted);
  EXPECT_TRUE(this->store_->BeginWrite(DigestOf("another")).ok());
  first->reset();
  EXPECT_TRUE(this->store_->BeginWrite(digest).ok());
}

TYPED_TEST_P(BlobStoreContract, DeleteAndForEach) {
  const Digest a = DigestOf("a"), b = DigestOf("bb");
  ASSERT_TRUE(WriteBlob(this->store_.get(), a, "a").ok());
  ASSERT_TRUE(WriteBlob(this->store_.get(), b, "bb").ok());
  EXPECT_THAT(this->All(), ::testing::UnorderedElementsAre(a, b));
  EXPECT_TRUE(this->store_->Delete(a).ok());
  EXPECT_TRUE(this->store_->Delete(a).ok());
  EXPECT_FALSE(this->Has(a));
  EXPECT_THAT(this->All(), ::testing::UnorderedElementsAre(b));
}

TYPED_TEST_P(BlobStoreContract, ExternalFileIsReadInPlaceAndNeverDeleted) {
  const std::string path = this->File("weights", "the weights");
  const Digest digest = DigestOf("the weights");
  ASSERT_TRUE(this->store_->AddExternal(digest, path).ok());
  ASSERT_TRUE(this->store_->AddExternal(digest, path).ok());
  EXPECT_TRUE(this->Has(digest));
  EXPECT_EQ(this->store_->Read(digest, 4, 7).value(), "weights");
  EXPECT_THAT(this->All(), ::testing::UnorderedElementsAre(digest));
  this->Restart();
  EXPECT_TRUE(this->Has(digest));
  ASSERT_TRUE(this->store_->Delete(digest).ok());
  EXPECT_FALSE(this->Has(digest));
  EXPECT_EQ(ReadFile(path).value(), "the weights");
}

TYPED_TEST_P(BlobStoreContract, ChangedExternalFileIsDataLoss) {
  const std::string path = this->File("weights", "the weights");
  const Digest digest = DigestOf("the weights");
  ASSERT_TRUE(this->store_->AddExternal(digest, path).ok());
  this->File("weights", "the WEIGHTS");
  const absl::Status status = this->store_->Read(digest, 0, 11).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(path));
  EXPECT_FALSE(this->Has(digest));
  // An upload of the same content heals it.
  ASSERT_TRUE(WriteBlob(this->store_.get(), digest, "the weights").ok());
  EXPECT_EQ(this->store_->Read(digest, 0, 11).value(), "the weights");
}

TYPED_TEST_P(BlobStoreContract, BadExternalFilesAreRefused) {
  const Digest digest = DigestOf("abc");
  EXPECT_EQ(this->store_->AddExternal(digest, "relative/path").code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(
      this->store_->AddExternal(digest, this->directory_->path() + "/none")
          .code(),
      absl::StatusCode::kNotFound);
  EXPECT_EQ(this->store_->AddExternal(digest, this->directory_->path()).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(
      this->store_->AddExternal(digest, this->File("long", "abcd")).code(),
      absl::StatusCode::kDataLoss);
}

TYPED_TEST_P(BlobStoreContract, ManyThreadsWriteTheSameBlobs) {
  constexpr int kBlobs = 20;
  std::atomic<int> stored{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < kBlobs; ++i) {
        const std::string bytes(1000, static_cast<char>('a' + i));
        absl::Status status =
            WriteBlob(this->store_.get(), DigestOf(bytes), bytes);
        if (status.ok()) ++stored;
        EXPECT_TRUE(status.ok() || absl::IsAborted(status)) << status;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GE(stored, kBlobs);
  for (int i = 0; i < kBlobs; ++i) {
    const std::string bytes(1000, static_cast<char>('a' + i));
    EXPECT_EQ(this->store_->Read(DigestOf(bytes), 0, 1000).value(), bytes);
  }
}

REGISTER_TYPED_TEST_SUITE_P(
    BlobStoreContract, WritesAndReads, EmptyBlob, MissingBlobIsNamed,
    RefusesWhatIsNoDigest, WritingTwiceIsFine,
    WrongContentIsRefusedAndForgotten, WrongSizeIsRefused,
    UnfinishedWriteIsInvisibleAndContinues, OneWriterOfADigestAtATime,
    DeleteAndForEach, ExternalFileIsReadInPlaceAndNeverDeleted,
    ChangedExternalFileIsDataLoss, BadExternalFilesAreRefused,
    ManyThreadsWriteTheSameBlobs);

}  // namespace bitwright

#endif  // BITWRIGHT_TESTS_CONTRACT_BLOB_STORE_CONTRACT_H_
