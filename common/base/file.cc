#include "common/base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace bitwright {
namespace fs = std::filesystem;

absl::Status ErrnoStatus(int error_number, absl::string_view action,
                         absl::string_view path) {
  std::string message =
      absl::StrCat(action, " ", path, ": ", std::strerror(error_number));
  switch (error_number) {
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(message);
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(message);
    case EEXIST:
    case ENOTEMPTY:
      return absl::AlreadyExistsError(message);
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return absl::ResourceExhaustedError(message);
    case EISDIR:
    case ELOOP:
    case ENAMETOOLONG:
      return absl::InvalidArgumentError(message);
    default:
      return absl::InternalError(message);
  }
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus(errno, "cannot open", path);
  std::string contents;
  char buffer[1 << 16];
  ssize_t n;
  while ((n = read(fd, buffer, sizeof(buffer))) != 0) {
    if (n < 0) {
      if (errno == EINTR) continue;
      int error_number = errno;
      close(fd);
      return ErrnoStatus(error_number, "cannot read", path);
    }
    contents.append(buffer, n);
  }
  close(fd);
  return contents;
}

absl::Status SyncDirectory(const std::string& path) {
  int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus(errno, "cannot open directory", path);
  int error_number = fsync(fd) == 0 ? 0 : errno;
  close(fd);
  if (error_number != 0) {
    return ErrnoStatus(error_number, "cannot sync directory", path);
  }
  return absl::OkStatus();
}

absl::Status WriteFileAtomically(const std::string& path,
                                 absl::string_view contents) {
  fs::path target(path);
  fs::path directory = target.has_parent_path() ? target.parent_path() : ".";
  std::string temporary =
      (directory /
       absl::StrCat(".", target.filename().string(), ".", getpid(), ".tmp"))
          .string();
  auto write = [&]() -> absl::Status {
    BW_ASSIGN_OR_RETURN(auto writer, FileWriter::Create(temporary));
    BW_RETURN_IF_ERROR(writer->Append(contents));
    BW_RETURN_IF_ERROR(writer->Close());
    if (rename(temporary.c_str(), path.c_str()) != 0) {
      return ErrnoStatus(errno, "cannot rename to", path);
    }
    return SyncDirectory(directory.string());
  };
  absl::Status status = write();
  if (!status.ok()) unlink(temporary.c_str());
  return status;
}

absl::StatusOr<std::unique_ptr<FileWriter>> FileWriter::Create(
    const std::string& path) {
  int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return ErrnoStatus(errno, "cannot create", path);
  return std::unique_ptr<FileWriter>(new FileWriter(path, fd));
}

FileWriter::~FileWriter() {
  if (fd_ >= 0) close(fd_);
}

absl::Status FileWriter::Append(absl::string_view data) {
  while (!data.empty()) {
    ssize_t n = write(fd_, data.data(), data.size());
    if (n < 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus(errno, "cannot write", path_);
    }
    size_ += n;
    data.remove_prefix(n);
  }
  return absl::OkStatus();
}

absl::Status FileWriter::Close() {
  int fd = std::exchange(fd_, -1);
  int error_number = fsync(fd) == 0 ? 0 : errno;
  if (close(fd) != 0 && error_number == 0) error_number = errno;
  if (error_number != 0) return ErrnoStatus(error_number, "cannot sync", path_);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::Open(
    const std::string& path) {
  // O_NONBLOCK: a pipe of that name is refused below, not waited for.
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return ErrnoStatus(errno, "cannot open", path);
  struct stat info;
  if (fstat(fd, &info) != 0) {
    int error_number = errno;
    close(fd);
    return ErrnoStatus(error_number, "cannot stat", path);
  }
  if (!S_ISREG(info.st_mode)) {
    close(fd);
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a file"));
  }
  void* data = nullptr;
  if (info.st_size > 0) {
    data = mmap(nullptr, info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) {
      int error_number = errno;
      close(fd);
      return ErrnoStatus(error_number, "cannot map", path);
    }
  }
  close(fd);
  return std::unique_ptr<MappedFile>(new MappedFile(
      path, static_cast<const char*>(data), static_cast<size_t>(info.st_size)));
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<char*>(data_), size_);
}

void MappedFile::DropPages(size_t offset, size_t length) const {
  // Outwards to whole huge pages: one fault may have mapped that much, and
  // what others still read comes back from the page cache.
  constexpr size_t kHugePage = size_t{2} << 20;
  const size_t begin = offset / kHugePage * kHugePage;
  const size_t end = std::min(
      size_, (offset + length + kHugePage - 1) / kHugePage * kHugePage);
  if (begin < end) {
    madvise(const_cast<char*>(data_) + begin, end - begin, MADV_DONTNEED);
  }
}

absl::StatusOr<TempDirectory> TempDirectory::Create(absl::string_view prefix,
                                                    std::string parent) {
  if (parent.empty()) {
    const char* from_environment = std::getenv("TMPDIR");
    parent = from_environment != nullptr ? from_environment : "/tmp";
  }
  std::string path = absl::StrCat(parent, "/", prefix, "XXXXXX");
  if (mkdtemp(path.data()) == nullptr) {
    return ErrnoStatus(errno, "cannot create a directory in", parent);
  }
  return TempDirectory(std::move(path));
}

TempDirectory::TempDirectory(TempDirectory&& other) noexcept
    : path_(std::exchange(other.path_, "")) {}

TempDirectory& TempDirectory::operator=(TempDirectory&& other) noexcept {
  std::swap(path_, other.path_);
  return *this;
}

TempDirectory::~TempDirectory() {
  std::error_code ignored;
  if (!path_.empty()) fs::remove_all(path_, ignored);
}

}  // namespace bitwright
