#include "server/store/file/file_blob_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status_macros.h"

namespace bitwright {
namespace {
constexpr size_t kHashChunk = size_t{1} << 20;
}  // namespace

FileBlobWriter::FileBlobWriter(FileBlobStore* store, Digest digest)
    : store_(store),
      digest_(std::move(digest)),
      partial_path_(store->PartialPath(digest_)),
      size_(digest_.size),
      complete_(true) {}

absl::StatusOr<std::unique_ptr<BlobWriter>> FileBlobWriter::Open(
    FileBlobStore* store, const Digest& digest) {
  auto writer = std::make_unique<FileBlobWriter>(store, digest);
  writer->complete_ = false;
  writer->size_ = 0;
  BW_RETURN_IF_ERROR(writer->OpenPartial());
  return writer;
}

FileBlobWriter::~FileBlobWriter() {
  CloseFile();
  store_->WriterClosed(digest_);
}

void FileBlobWriter::CloseFile() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

absl::Status FileBlobWriter::OpenPartial() {
  fd_ = store_->ops_->Open(partial_path_, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) return ErrnoStatus(errno, "cannot create", partial_path_);
  struct stat info;
  if (fstat(fd_, &info) != 0) {
    return ErrnoStatus(errno, "cannot examine", partial_path_);
  }
  uint64_t existing = static_cast<uint64_t>(info.st_size);
  if (existing > digest_.size) {
    if (store_->ops_->Truncate(fd_, 0) != 0) {
      return ErrnoStatus(errno, "cannot truncate", partial_path_);
    }
    existing = 0;
  }
  return HashExisting(existing);
}

absl::Status FileBlobWriter::HashExisting(uint64_t size) {
  std::vector<char> buffer(std::min<uint64_t>(kHashChunk, size));
  while (size_ < size) {
    ssize_t n = read(fd_, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "cannot read", partial_path_);
    if (n == 0) break;
    hasher_.Update({buffer.data(), static_cast<size_t>(n)});
    size_ += n;
  }
  return absl::OkStatus();
}

absl::Status FileBlobWriter::Fail(absl::Status why) {
  failed_ = std::move(why);
  CloseFile();
  // If even this fails, the next BeginWrite finds the file and hashes it.
  store_->Remove(partial_path_).IgnoreError();
  return failed_;
}

absl::Status FileBlobWriter::Append(absl::string_view data) {
  BW_RETURN_IF_ERROR(failed_);
  if (data.size() > digest_.size - size_) {
    return absl::OutOfRangeError(
        absl::StrCat("blob ", digest_.ToString(), ": ", data.size(),
                     " bytes after offset ", size_, " are more than it has"));
  }
  absl::string_view rest = data;
  while (!rest.empty()) {
    ssize_t n = store_->ops_->Write(fd_, rest.data(), rest.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      return Fail(ErrnoStatus(errno, "cannot write", partial_path_));
    }
    rest.remove_prefix(n);
  }
  hasher_.Update(data);
  size_ += data.size();
  return absl::OkStatus();
}

absl::Status FileBlobWriter::CheckContent() {
  if (size_ != digest_.size) {
    return absl::DataLossError(absl::StrCat("blob ", digest_.ToString(),
                                            " ended after ", size_, " bytes"));
  }
  Digest found = hasher_.Finish();
  if (found != digest_) {
    return absl::DataLossError(absl::StrCat("blob ", digest_.ToString(),
                                            " arrived with SHA-256 ",
                                            found.sha256, "; send it again"));
  }
  return absl::OkStatus();
}

absl::Status FileBlobWriter::Commit() {
  BW_RETURN_IF_ERROR(failed_);
  if (complete_) return absl::OkStatus();
  if (absl::Status content = CheckContent(); !content.ok()) {
    return Fail(std::move(content));
  }
  if (absl::Status published = Publish(); !published.ok()) {
    return Fail(std::move(published));
  }
  CloseFile();
  complete_ = true;
  return absl::OkStatus();
}

absl::Status FileBlobWriter::Publish() {
  if (store_->ops_->Sync(fd_) != 0) {
    return ErrnoStatus(errno, "cannot sync", partial_path_);
  }
  const std::string target = store_->BlobPath(digest_);
  if (store_->ops_->Rename(partial_path_, target) != 0) {
    return ErrnoStatus(errno, "cannot rename to", target);
  }
  const std::string directory =
      std::filesystem::path(target).parent_path().string();
  int fd = store_->ops_->Open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
  if (fd < 0) return ErrnoStatus(errno, "cannot open directory", directory);
  int error_number = store_->ops_->Sync(fd) == 0 ? 0 : errno;
  close(fd);
  if (error_number != 0) {
    return ErrnoStatus(error_number, "cannot sync directory", directory);
  }
  return absl::OkStatus();
}

}  // namespace bitwright
