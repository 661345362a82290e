// The system calls by which the file blob store changes the disk, behind a
// seam: tests replace them one by one with a full disk or a crash.
#ifndef BITWRIGHT_SERVER_STORE_FILE_FILE_OPS_H_
#define BITWRIGHT_SERVER_STORE_FILE_FILE_OPS_H_

#include <sys/types.h>

#include <cstddef>
#include <string>

namespace bitwright {

// Each returns what the system call returns and leaves its cause in errno.
// Thread-safe.
class FileOps {
 public:
  virtual ~FileOps() = default;

  virtual int Open(const std::string& path, int flags, mode_t mode);
  virtual ssize_t Write(int fd, const void* data, size_t size);
  virtual int Truncate(int fd, off_t size);
  virtual int Sync(int fd);
  virtual int Rename(const std::string& from, const std::string& to);
  virtual int Unlink(const std::string& path);

  // The machine's. Never deleted.
  static FileOps* Real();
};

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_STORE_FILE_FILE_OPS_H_
