#include "common/base/file.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <filesystem>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bitwright {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class FileTest : public testing::Test {
 protected:
  FileTest() : directory_(*TempDirectory::Create("file_test")) {}
  std::string Path(const std::string& name) {
    return directory_.path() + "/" + name;
  }
  size_t Count() {
    return std::distance(fs::directory_iterator(directory_.path()), {});
  }
  TempDirectory directory_;
};

TEST_F(FileTest, WritesAndReads) {
  const std::string data("a\0b\nc", 5);
  ASSERT_TRUE(WriteFileAtomically(Path("x"), data).ok());
  EXPECT_EQ(*ReadFile(Path("x")), data);
  ASSERT_TRUE(WriteFileAtomically(Path("x"), "").ok());
  EXPECT_EQ(*ReadFile(Path("x")), "");
  EXPECT_EQ(Count(), 1u);  // No temporary file stays.
}

TEST_F(FileTest, RelativePathsWork) {
  const fs::path before = fs::current_path();
  fs::current_path(directory_.path());
  const absl::Status status = WriteFileAtomically("plain", "text");
  fs::current_path(before);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(*ReadFile(Path("plain")), "text");
}

TEST_F(FileTest, ErrorsHaveCodeAndPath) {
  auto missing = ReadFile(Path("nothing"));
  EXPECT_TRUE(absl::IsNotFound(missing.status()));
  EXPECT_THAT(std::string(missing.status().message()),
              HasSubstr(Path("nothing")));
  EXPECT_TRUE(
      absl::IsNotFound(WriteFileAtomically(Path("no/such/place"), "x")));
  EXPECT_TRUE(absl::IsInvalidArgument(ReadFile(directory_.path()).status()));
  EXPECT_TRUE(absl::IsNotFound(SyncDirectory(Path("nothing"))));
  EXPECT_TRUE(absl::IsPermissionDenied(ErrnoStatus(EACCES, "open", "p")));
  EXPECT_TRUE(absl::IsPermissionDenied(ErrnoStatus(EROFS, "open", "p")));
  EXPECT_TRUE(absl::IsResourceExhausted(ErrnoStatus(ENOSPC, "write", "p")));
  EXPECT_TRUE(absl::IsResourceExhausted(ErrnoStatus(EDQUOT, "write", "p")));
  EXPECT_TRUE(absl::IsAlreadyExists(ErrnoStatus(EEXIST, "make", "p")));
  EXPECT_TRUE(absl::IsInternal(ErrnoStatus(EIO, "read", "p")));
}

TEST_F(FileTest, FailedReplacementLeavesTheOldFile) {
  ASSERT_TRUE(WriteFileAtomically(Path("x"), "old").ok());
  fs::create_directory(Path("d"));
  ASSERT_TRUE(WriteFileAtomically(Path("d") + "/child", "c").ok());
  EXPECT_FALSE(WriteFileAtomically(Path("d"), "new").ok());
  EXPECT_EQ(*ReadFile(Path("d") + "/child"), "c");
  EXPECT_EQ(Count(), 2u);
}

TEST_F(FileTest, FullDiskIsResourceExhausted) {
  auto writer = FileWriter::Create("/dev/full");
  if (!writer.ok()) GTEST_SKIP() << "no /dev/full here";
  EXPECT_TRUE(absl::IsResourceExhausted((*writer)->Append("x")));
}

TEST_F(FileTest, FileSizeLimitLeavesNothingBehind) {
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit limit = before;
  limit.rlim_cur = 4096;
  auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  const absl::Status status =
      WriteFileAtomically(Path("big"), std::string(10000, 'x'));
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_EQ(Count(), 0u);
}

TEST_F(FileTest, WriterCountsAndSyncs) {
  auto writer = FileWriter::Create(Path("w"));
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE((*writer)->Append("abc").ok());
  ASSERT_TRUE((*writer)->Append("").ok());
  ASSERT_TRUE((*writer)->Append("de").ok());
  EXPECT_EQ((*writer)->size(), 5u);
  ASSERT_TRUE((*writer)->Close().ok());
  EXPECT_EQ(*ReadFile(Path("w")), "abcde");
}

TEST_F(FileTest, MapsWholeFilesOnly) {
  ASSERT_TRUE(WriteFileAtomically(Path("m"), std::string(100'000, 'z')).ok());
  auto mapped = MappedFile::Open(Path("m"));
  ASSERT_TRUE(mapped.ok());
  EXPECT_EQ((*mapped)->data(), std::string(100'000, 'z'));
  (*mapped)->DropPages(10, 90'000);
  EXPECT_EQ((*mapped)->data()[50'000], 'z');  // Comes back from the file.
  ASSERT_TRUE(WriteFileAtomically(Path("empty"), "").ok());
  EXPECT_TRUE((*MappedFile::Open(Path("empty")))->data().empty());
  EXPECT_TRUE(
      absl::IsInvalidArgument(MappedFile::Open(directory_.path()).status()));
  ASSERT_EQ(mkfifo(Path("pipe").c_str(), 0600), 0);
  EXPECT_TRUE(absl::IsInvalidArgument(MappedFile::Open(Path("pipe")).status()));
}

TEST_F(FileTest, TemporaryDirectoriesGo) {
  std::string path;
  {
    auto temporary = TempDirectory::Create("t", directory_.path());
    ASSERT_TRUE(temporary.ok());
    path = temporary->path();
    ASSERT_TRUE(WriteFileAtomically(path + "/x", "x").ok());
    TempDirectory moved = *std::move(temporary);
    EXPECT_EQ(moved.path(), path);
    EXPECT_TRUE(fs::exists(path));
  }
  EXPECT_FALSE(fs::exists(path));
  {
    auto kept = TempDirectory::Create("t", directory_.path());
    path = kept->path();
    kept->Release();
  }
  EXPECT_TRUE(fs::exists(path));
  EXPECT_TRUE(
      absl::IsNotFound(TempDirectory::Create("t", Path("no")).status()));
}

}  // namespace
}  // namespace bitwright
