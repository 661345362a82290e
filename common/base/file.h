// Files, with errors that name the path and with writes that are whole or
// absent.
//
// The atomic-write protocol, used wherever this project publishes a file: write
// to a temporary name in the same directory, fsync the file, rename it over the
// final name, fsync the directory. A crash leaves the old file or the new one,
// and at worst a temporary one.
//
// Errors: NOT_FOUND, PERMISSION_DENIED, ALREADY_EXISTS, RESOURCE_EXHAUSTED
// (disk or quota full), INVALID_ARGUMENT (a name that cannot be a file's, a
// directory read as a file), otherwise INTERNAL; each message has the path and
// the cause.
#ifndef BITWRIGHT_COMMON_BASE_FILE_H_
#define BITWRIGHT_COMMON_BASE_FILE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bitwright {

// The status for a failed system call: "<action> <path>: <strerror>".
absl::Status ErrnoStatus(int error_number, absl::string_view action,
                         absl::string_view path);

absl::StatusOr<std::string> ReadFile(const std::string& path);

// The protocol above.
absl::Status WriteFileAtomically(const std::string& path,
                                 absl::string_view contents);

absl::Status SyncDirectory(const std::string& path);

// A file being written from start to end. Closes on destruction; only Close
// reports whether everything reached the disk. Not thread-safe.
class FileWriter {
 public:
  // Creates or truncates `path`.
  static absl::StatusOr<std::unique_ptr<FileWriter>> Create(
      const std::string& path);
  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  absl::Status Append(absl::string_view data);
  // fsync and close.
  absl::Status Close();
  uint64_t size() const { return size_; }

 private:
  FileWriter(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  std::string path_;
  int fd_;
  uint64_t size_ = 0;
};

// A whole file, mapped read-only. The view lives as long as the object.
class MappedFile {
 public:
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(
      const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  absl::string_view data() const { return {data_, size_}; }
  const std::string& path() const { return path_; }

  // Lets the kernel drop the pages of [offset, offset + length): call it once a
  // tensor has been read, so that a long stream does not stay resident.
  void DropPages(size_t offset, size_t length) const;

 private:
  MappedFile(std::string path, const char* data, size_t size)
      : path_(std::move(path)), data_(data), size_(size) {}
  std::string path_;
  const char* data_;
  size_t size_;
};

// A directory that is removed, with all it holds, on destruction.
class TempDirectory {
 public:
  // Inside `parent`, or in the system's place for such ($TMPDIR, /tmp) if
  // empty.
  static absl::StatusOr<TempDirectory> Create(absl::string_view prefix,
                                              std::string parent = "");
  TempDirectory(TempDirectory&& other) noexcept;
  TempDirectory& operator=(TempDirectory&& other) noexcept;
  ~TempDirectory();

  const std::string& path() const { return path_; }
  // Leaves it in place, after a rename say.
  void Release() { path_.clear(); }

 private:
  explicit TempDirectory(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

}  // namespace bitwright

#endif  // BITWRIGHT_COMMON_BASE_FILE_H_
