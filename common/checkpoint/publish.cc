// PublishDirectory: the atomic-write protocol of file.h for a whole directory.
//
//   1. mkdir ".NAME.<random>.partial" beside NAME, and lock it (flock)
//   2. fill it; fsync every file and directory in it
//   3. rename it to NAME; fsync the parent
//
// The lock goes with the process, however it ends: a partial directory whose
// lock can be taken belongs to nobody, and the next publisher of that name
// removes it.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <random>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/file.h"
#include "common/base/status_macros.h"
#include "common/checkpoint/checkpoint_writer.h"

namespace bitwright {
namespace fs = std::filesystem;
namespace {

constexpr absl::string_view kSuffix = ".partial";

struct Target {
  fs::path parent, name;
  fs::path path() const { return parent / name; }
  std::string partial_prefix() const {
    return absl::StrCat(".", name.string(), ".");
  }
};

// Links in an existing path are followed, so that the rename meets the real
// directory.
absl::StatusOr<Target> Resolve(const std::string& final_path) {
  std::error_code error;
  fs::path path = fs::absolute(final_path, error);
  if (error) return ErrnoStatus(error.value(), "cannot resolve", final_path);
  if (fs::exists(path, error)) path = fs::canonical(path, error);
  if (error) return ErrnoStatus(error.value(), "cannot resolve", final_path);
  path = path.lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  if (!path.has_filename()) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", final_path, "\" is no place for a new directory"));
  }
  return Target{path.parent_path(), path.filename()};
}

absl::Status CheckFree(const Target& target) {
  const std::string path = target.path().string();
  struct stat info, parent;
  if (stat(target.parent.c_str(), &parent) != 0) {
    return ErrnoStatus(errno, "cannot write into", target.parent.string());
  }
  if (!S_ISDIR(parent.st_mode)) {
    return absl::NotFoundError(
        absl::StrCat(target.parent.string(), " is not a directory"));
  }
  if (lstat(path.c_str(), &info) != 0) {
    return errno == ENOENT ? absl::OkStatus()
                           : ErrnoStatus(errno, "cannot look at", path);
  }
  if (!S_ISDIR(info.st_mode)) {
    return absl::AlreadyExistsError(
        absl::StrCat(path, " exists and is not a directory"));
  }
  std::error_code error;
  const bool empty = fs::is_empty(path, error);
  if (error) return ErrnoStatus(error.value(), "cannot list", path);
  if (!empty) {
    return absl::AlreadyExistsError(absl::StrCat(
        path, " exists and is not empty: choose another, or remove it first"));
  }
  if (info.st_dev != parent.st_dev) {
    return absl::InvalidArgumentError(
        absl::StrCat(path,
                     " is a mount point, which cannot be replaced: "
                     "choose a directory inside it"));
  }
  return absl::OkStatus();
}

// A directory of ours that is removed unless it was renamed. Holds its lock.
class PartialDirectory {
 public:
  static absl::StatusOr<PartialDirectory> Create(const Target& target);
  PartialDirectory(PartialDirectory&& other) noexcept
      : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}
  ~PartialDirectory() {
    if (fd_ < 0) return;
    std::error_code ignored;
    if (!renamed_) fs::remove_all(path_, ignored);
    close(fd_);
  }

  const fs::path& path() const { return path_; }
  absl::Status RenameTo(const Target& target) {
    const std::string to = target.path().string();
    if (rename(path_.c_str(), to.c_str()) != 0) {
      return ErrnoStatus(errno, "cannot rename the finished directory to", to);
    }
    renamed_ = true;
    return SyncDirectory(target.parent.string());
  }

 private:
  PartialDirectory(fs::path path, int fd) : path_(std::move(path)), fd_(fd) {}
  fs::path path_;
  int fd_;
  bool renamed_ = false;
};

absl::StatusOr<PartialDirectory> PartialDirectory::Create(
    const Target& target) {
  constexpr int kTries = 100;
  std::random_device random;
  for (int i = 0; i < kTries; ++i) {
    const fs::path path =
        target.parent / absl::StrCat(target.partial_prefix(),
                                     absl::StrFormat("%08x", random()),
                                     kSuffix);
    if (mkdir(path.c_str(), 0777) != 0) {
      if (errno == EEXIST) continue;
      return ErrnoStatus(errno, "cannot make a directory in",
                         target.parent.string());
    }
    const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return ErrnoStatus(errno, "cannot open", path.string());
    // Somebody may have taken it for abandoned before it was locked.
    struct stat opened, named;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0 && fstat(fd, &opened) == 0 &&
        stat(path.c_str(), &named) == 0 && opened.st_ino == named.st_ino) {
      return PartialDirectory(path, fd);
    }
    close(fd);
  }
  return absl::InternalError(
      absl::StrCat("cannot lock a new directory in ", target.parent.string()));
}

// Best effort: what cannot be removed now stays for the next time.
void RemoveAbandoned(const Target& target) {
  std::error_code error;
  fs::directory_iterator it(target.parent, error), end;
  for (; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    const std::string prefix = target.partial_prefix();
    if (!absl::StartsWith(name, prefix) || !absl::EndsWith(name, kSuffix) ||
        name.size() != prefix.size() + 8 + kSuffix.size()) {
      continue;
    }
    const int fd = open(it->path().c_str(),
                        O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) continue;
    std::error_code ignored;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) fs::remove_all(it->path(), ignored);
    close(fd);
  }
}

absl::Status SyncFile(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus(errno, "cannot open", path);
  const int error_number = fsync(fd) == 0 ? 0 : errno;
  close(fd);
  if (error_number != 0) return ErrnoStatus(error_number, "cannot sync", path);
  return absl::OkStatus();
}

absl::Status SyncTree(const fs::path& root) {
  std::error_code error;
  fs::recursive_directory_iterator it(root, error), end;
  for (; !error && it != end; it.increment(error)) {
    std::error_code ignored;
    if (it->is_directory(ignored)) {
      BW_RETURN_IF_ERROR(SyncDirectory(it->path().string()));
    } else if (it->is_regular_file(ignored)) {
      BW_RETURN_IF_ERROR(SyncFile(it->path().string()));
    }
  }
  if (error) return ErrnoStatus(error.value(), "cannot list", root.string());
  return SyncDirectory(root.string());
}

}  // namespace

absl::Status CheckPublishable(const std::string& final_path) {
  BW_ASSIGN_OR_RETURN(Target target, Resolve(final_path));
  BW_RETURN_IF_ERROR(CheckFree(target));
  // The only sure way to know is to try.
  return PartialDirectory::Create(target).status();
}

absl::Status PublishDirectory(
    const std::string& final_path,
    const std::function<absl::Status(const std::string& temporary)>& fill) {
  BW_ASSIGN_OR_RETURN(Target target, Resolve(final_path));
  BW_RETURN_IF_ERROR(CheckFree(target));
  RemoveAbandoned(target);
  BW_ASSIGN_OR_RETURN(PartialDirectory partial,
                      PartialDirectory::Create(target));
  BW_RETURN_IF_ERROR(fill(partial.path().string()));
  BW_RETURN_IF_ERROR(SyncTree(partial.path()));
  BW_RETURN_IF_ERROR(CheckFree(target));
  return partial.RenameTo(target);
}

}  // namespace bitwright
