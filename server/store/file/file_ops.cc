#include "server/store/file/file_ops.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

namespace bitwright {

int FileOps::Open(const std::string& path, int flags, mode_t mode) {
  return open(path.c_str(), flags, mode);
}
ssize_t FileOps::Write(int fd, const void* data, size_t size) {
  return write(fd, data, size);
}
int FileOps::Truncate(int fd, off_t size) { return ftruncate(fd, size); }
int FileOps::Sync(int fd) { return fsync(fd); }
int FileOps::Rename(const std::string& from, const std::string& to) {
  return rename(from.c_str(), to.c_str());
}
int FileOps::Unlink(const std::string& path) { return unlink(path.c_str()); }

FileOps* FileOps::Real() {
  static FileOps* const ops = new FileOps;
  return ops;
}

}  // namespace bitwright
