#include "server/rpc/state_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"

namespace bitwright {

absl::StatusOr<std::unique_ptr<StateLock>> StateLock::Acquire(
    const std::string& directory) {
  std::error_code error;
  if (std::filesystem::create_directories(directory, error)) {
    chmod(directory.c_str(), 0700);
  }
  if (error) {
    return ErrnoStatus(error.value(), "cannot create state directory",
                       directory);
  }
  const std::string path = absl::StrCat(directory, "/server.lock");
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return ErrnoStatus(errno, "cannot open", path);
  std::unique_ptr<StateLock> lock(new StateLock(fd));
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return ErrnoStatus(errno, "cannot lock", path);
    absl::StatusOr<std::string> owner = ReadFile(path);
    return absl::AbortedError(
        absl::StrCat("state directory ", directory,
                     " is in use by bitwright-server process ",
                     owner.ok() ? absl::StripAsciiWhitespace(*owner) : "?",
                     "; stop that one, or give another --state-dir"));
  }
  const std::string pid = absl::StrCat(getpid(), "\n");
  if (ftruncate(fd, 0) != 0 || pwrite(fd, pid.data(), pid.size(), 0) !=
                                   static_cast<ssize_t>(pid.size())) {
    return ErrnoStatus(errno, "cannot write", path);
  }
  return lock;
}

StateLock::~StateLock() { close(fd_); }

}  // namespace bitwright
