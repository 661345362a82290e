// PublishDirectory and CheckPublishable.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <string>

#include "common/base/file.h"
#include "common/checkpoint/checkpoint_writer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bitwright {
namespace {

namespace fs = std::filesystem;

class PublishTest : public testing::Test {
 protected:
  PublishTest()
      : temporary_(*TempDirectory::Create("publish")),
        out_(temporary_.path() + "/out") {}
  size_t Entries() {
    return std::distance(fs::directory_iterator(temporary_.path()), {});
  }
  static absl::Status Fill(const std::string& directory) {
    fs::create_directory(directory + "/sub");
    absl::Status status = WriteFileAtomically(directory + "/sub/a", "a");
    if (!status.ok()) return status;
    return WriteFileAtomically(directory + "/b", "b");
  }
  TempDirectory temporary_;
  const std::string out_;
};

TEST_F(PublishTest, AppearsWhole) {
  ASSERT_TRUE(CheckPublishable(out_).ok());
  ASSERT_TRUE(PublishDirectory(out_, [&](const std::string& directory) {
                EXPECT_FALSE(fs::exists(out_));
                EXPECT_EQ(fs::path(directory).parent_path(),
                          fs::path(out_).parent_path());
                return Fill(directory);
              }).ok());
  EXPECT_EQ(*ReadFile(out_ + "/sub/a"), "a");
  EXPECT_EQ(*ReadFile(out_ + "/b"), "b");
  EXPECT_EQ(Entries(), 1u);
  // As mkdir would have made it.
  struct stat info;
  ASSERT_EQ(stat(out_.c_str(), &info), 0);
  const mode_t mask = umask(0);
  umask(mask);
  EXPECT_EQ(info.st_mode & 0777, 0777 & ~mask);
}

TEST_F(PublishTest, ReplacesAnEmptyDirectoryOnly) {
  fs::create_directory(out_);
  EXPECT_TRUE(PublishDirectory(out_ + "/", Fill).ok());  // Trailing slash.
  EXPECT_TRUE(fs::exists(out_ + "/b"));
  bool called = false;
  const absl::Status status =
      PublishDirectory(out_, [&](const std::string& directory) {
        called = true;
        return Fill(directory);
      });
  EXPECT_TRUE(absl::IsAlreadyExists(status)) << status;
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr(out_));
  EXPECT_FALSE(called);
  EXPECT_TRUE(absl::IsAlreadyExists(CheckPublishable(out_)));
  EXPECT_TRUE(absl::IsAlreadyExists(CheckPublishable(out_ + "/b")));
  EXPECT_EQ(Entries(), 1u);
}

TEST_F(PublishTest, FollowsALinkToAnEmptyDirectory) {
  fs::create_directory(temporary_.path() + "/real");
  fs::create_directory_symlink(temporary_.path() + "/real", out_);
  ASSERT_TRUE(PublishDirectory(out_, Fill).ok());
  EXPECT_TRUE(fs::is_symlink(out_));
  EXPECT_TRUE(fs::exists(temporary_.path() + "/real/b"));
}

TEST_F(PublishTest, FailureLeavesNothing) {
  const absl::Status status =
      PublishDirectory(out_, [](const std::string& directory) {
        EXPECT_TRUE(Fill(directory).ok());
        return absl::ResourceExhaustedError("disk full");
      });
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_EQ(Entries(), 0u);
}

TEST_F(PublishTest, SomebodyElseWasFaster) {
  const absl::Status status =
      PublishDirectory(out_, [&](const std::string& directory) {
        fs::create_directory(out_);
        EXPECT_TRUE(WriteFileAtomically(out_ + "/theirs", "t").ok());
        return Fill(directory);
      });
  EXPECT_TRUE(absl::IsAlreadyExists(status)) << status;
  EXPECT_EQ(*ReadFile(out_ + "/theirs"), "t");
  EXPECT_EQ(Entries(), 1u);
}

TEST_F(PublishTest, PlacesThatCannotBe) {
  EXPECT_TRUE(absl::IsNotFound(
      CheckPublishable(temporary_.path() + "/no/such/parent")));
  ASSERT_TRUE(WriteFileAtomically(temporary_.path() + "/file", "x").ok());
  EXPECT_FALSE(CheckPublishable(temporary_.path() + "/file/x").ok());
  EXPECT_FALSE(CheckPublishable("/").ok());
  EXPECT_FALSE(CheckPublishable("").ok());
  EXPECT_FALSE(CheckPublishable("/proc/bitwright-output").ok());
}

TEST_F(PublishTest, UnwritableParent) {
  const std::string parent = temporary_.path() + "/closed";
  fs::create_directory(parent);
  fs::permissions(parent, fs::perms::owner_read | fs::perms::owner_exec);
  if (access(parent.c_str(), W_OK) == 0) {
    GTEST_SKIP() << "this user may write everywhere";
  }
  EXPECT_TRUE(absl::IsPermissionDenied(CheckPublishable(parent + "/out")));
  EXPECT_TRUE(
      absl::IsPermissionDenied(PublishDirectory(parent + "/out", Fill)));
}

TEST_F(PublishTest, RemovesWhatADeadProcessLeft) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    (void)PublishDirectory(out_, [](const std::string& directory) {
      (void)Fill(directory);
      raise(SIGKILL);
      return absl::OkStatus();
    });
    _exit(1);
  }
  int status;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_FALSE(fs::exists(out_));
  ASSERT_EQ(Entries(), 1u);  // The partial directory.
  // One that is in use, and one of another name, stay.
  const std::string other = temporary_.path() + "/.other.01234567.partial";
  const std::string used = temporary_.path() + "/.out.01234567.partial";
  fs::create_directory(other);
  fs::create_directory(used);
  const int fd = open(used.c_str(), O_RDONLY | O_DIRECTORY);
  ASSERT_EQ(flock(fd, LOCK_EX | LOCK_NB), 0);
  ASSERT_TRUE(PublishDirectory(out_, Fill).ok());
  EXPECT_TRUE(fs::exists(out_ + "/b"));
  EXPECT_TRUE(fs::exists(other));
  EXPECT_TRUE(fs::exists(used));
  EXPECT_EQ(Entries(), 3u);
  close(fd);
}

}  // namespace
}  // namespace bitwright
