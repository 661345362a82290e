#include "server/store/file/file_blob_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "common/base/file.h"
#include "common/base/status_macros.h"
#include "server/store/file/file_blob_writer.h"

namespace bitwright {
namespace fs = std::filesystem;
namespace {

constexpr auto kPartialLifetime = std::chrono::hours(24 * 7);

// Digests become file names, and they come from clients.
absl::Status CheckDigest(const Digest& digest) {
  return Digest::Parse(digest.ToString()).status();
}

// "abcd...-<size>", as partial/ and external/ name their files.
std::string FlatName(const Digest& digest) {
  return absl::StrCat(digest.sha256, "-", digest.size);
}

absl::StatusOr<Digest> ParseFlatName(absl::string_view name) {
  return Digest::Parse(absl::StrReplaceAll(name, {{"-", "/"}}));
}

absl::Status Filesystem(const std::error_code& error, absl::string_view action,
                        absl::string_view path) {
  return ErrnoStatus(error.value(), action, path);
}

absl::StatusOr<std::string> ReadRange(int fd, const std::string& path,
                                      uint64_t offset, uint64_t size) {
  std::string data;
  data.resize(size);
  uint64_t done = 0;
  while (done < size) {
    ssize_t n = pread(fd, data.data() + done, size - done,
                      static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "cannot read", path);
    if (n == 0) {
      return absl::DataLossError(
          absl::StrCat(path, " ends after ", offset + done, " bytes"));
    }
    done += n;
  }
  return data;
}

}  // namespace

absl::StatusOr<std::unique_ptr<BlobStore>> OpenFileBlobStore(
    const std::string& root) {
  BW_ASSIGN_OR_RETURN(auto store, FileBlobStore::Open(root));
  return store;
}

absl::StatusOr<std::unique_ptr<FileBlobStore>> FileBlobStore::Open(
    const std::string& root, FileOps* ops) {
  std::unique_ptr<FileBlobStore> store(new FileBlobStore(root, ops));
  BW_RETURN_IF_ERROR(store->CreateDirectories());
  BW_RETURN_IF_ERROR(store->DropStalePartials());
  return store;
}

absl::Status FileBlobStore::CreateDirectories() {
  std::error_code error;
  bool created = false;
  auto create = [&](const std::string& path) {
    if (!error && fs::create_directories(path, error)) created = true;
    return error ? Filesystem(error, "cannot create directory", path)
                 : absl::OkStatus();
  };
  BW_RETURN_IF_ERROR(create(absl::StrCat(root_, "/partial")));
  BW_RETURN_IF_ERROR(create(absl::StrCat(root_, "/external")));
  for (int i = 0; i < 256; ++i) {
    BW_RETURN_IF_ERROR(create(absl::StrFormat("%s/blobs/%02x", root_, i)));
  }
  if (!created) return absl::OkStatus();
  BW_RETURN_IF_ERROR(SyncDirectory(absl::StrCat(root_, "/blobs")));
  return SyncDirectory(root_);
}

absl::Status FileBlobStore::DropStalePartials() {
  const std::string directory = absl::StrCat(root_, "/partial");
  const auto oldest = fs::file_time_type::clock::now() - kPartialLifetime;
  std::error_code error;
  for (fs::directory_iterator it(directory, error), end; !error && it != end;
       it.increment(error)) {
    std::error_code ignored;
    if (it->last_write_time(ignored) < oldest && !ignored) {
      BW_RETURN_IF_ERROR(Remove(it->path().string()));
    }
  }
  return error ? Filesystem(error, "cannot list", directory) : absl::OkStatus();
}

std::string FileBlobStore::BlobPath(const Digest& digest) const {
  return absl::StrCat(root_, "/blobs/", digest.sha256.substr(0, 2), "/",
                      digest.sha256);
}
std::string FileBlobStore::PartialPath(const Digest& digest) const {
  return absl::StrCat(root_, "/partial/", FlatName(digest));
}
std::string FileBlobStore::ExternalPath(const Digest& digest) const {
  return absl::StrCat(root_, "/external/", FlatName(digest));
}

absl::StatusOr<bool> FileBlobStore::HasBlobFile(const Digest& digest) const {
  const std::string path = BlobPath(digest);
  struct stat info;
  if (stat(path.c_str(), &info) == 0) {
    return static_cast<uint64_t>(info.st_size) == digest.size;
  }
  if (errno == ENOENT) return false;
  return ErrnoStatus(errno, "cannot examine", path);
}

absl::StatusOr<ExternalFile> FileBlobStore::ReadRecord(
    const Digest& digest) const {
  const std::string path = ExternalPath(digest);
  BW_ASSIGN_OR_RETURN(std::string json, ReadFile(path));
  return ExternalFile::FromJson(json, path);
}

absl::StatusOr<bool> FileBlobStore::Has(const Digest& digest) {
  BW_RETURN_IF_ERROR(CheckDigest(digest));
  BW_ASSIGN_OR_RETURN(bool has_blob, HasBlobFile(digest));
  if (has_blob) return true;
  absl::StatusOr<ExternalFile> record = ReadRecord(digest);
  if (absl::IsNotFound(record.status())) return false;
  BW_RETURN_IF_ERROR(record.status());
  absl::StatusOr<ExternalFile> now = ExternalFile::Of(record->path);
  return now.ok() && record->CheckUnchanged(*now).ok();
}

absl::StatusOr<std::string> FileBlobStore::Read(const Digest& digest,
                                                uint64_t offset,
                                                uint64_t limit) {
  BW_RETURN_IF_ERROR(CheckDigest(digest));
  if (offset > digest.size) {
    return absl::OutOfRangeError(
        absl::StrCat("blob ", digest.ToString(), " has no offset ", offset));
  }
  const uint64_t size = std::min(limit, digest.size - offset);
  std::string path = BlobPath(digest);
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  absl::Cleanup close_fd = [&fd] {
    if (fd >= 0) close(fd);
  };
  if (fd >= 0) return ReadRange(fd, path, offset, size);
  if (errno != ENOENT) return ErrnoStatus(errno, "cannot open", path);

  absl::StatusOr<ExternalFile> record = ReadRecord(digest);
  if (absl::IsNotFound(record.status())) {
    return absl::NotFoundError(
        absl::StrCat("blob ", digest.ToString(), " is not in the store"));
  }
  BW_RETURN_IF_ERROR(record.status());
  fd = open(record->path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return absl::DataLossError(
        ErrnoStatus(errno, "cannot open any more", record->path).message());
  }
  struct stat info;
  if (fstat(fd, &info) != 0) {
    return ErrnoStatus(errno, "cannot examine", record->path);
  }
  BW_RETURN_IF_ERROR(
      record->CheckUnchanged(ExternalFile::FromStat(record->path, info)));
  return ReadRange(fd, record->path, offset, size);
}

absl::StatusOr<std::unique_ptr<BlobWriter>> FileBlobStore::BeginWrite(
    const Digest& digest) {
  BW_RETURN_IF_ERROR(CheckDigest(digest));
  {
    absl::MutexLock lock(&mutex_);
    if (!open_writers_.insert(digest).second) {
      return absl::AbortedError(absl::StrCat(
          "blob ", digest.ToString(),
          " is being written by somebody else; wait, then look whether it is "
          "there"));
    }
  }
  absl::StatusOr<bool> has = HasBlobFile(digest);
  if (!has.ok()) {
    WriterClosed(digest);
    return has.status();
  }
  if (*has) return std::make_unique<FileBlobWriter>(this, digest);
  return FileBlobWriter::Open(this, digest);
}

void FileBlobStore::WriterClosed(const Digest& digest) {
  absl::MutexLock lock(&mutex_);
  open_writers_.erase(digest);
}

absl::Status FileBlobStore::AddExternal(const Digest& digest,
                                        const std::string& path) {
  BW_RETURN_IF_ERROR(CheckDigest(digest));
  if (!fs::path(path).is_absolute()) {
    return absl::InvalidArgumentError(
        absl::StrCat("path of an external file is not absolute: ", path));
  }
  BW_ASSIGN_OR_RETURN(ExternalFile now, ExternalFile::Of(path));
  if (now.size != digest.size) {
    return absl::DataLossError(absl::StrCat(
        path, " has ", now.size, " bytes, but its digest says ", digest.size));
  }
  absl::StatusOr<ExternalFile> record = ReadRecord(digest);
  if (record.ok() && record->path == path && record->CheckUnchanged(now).ok()) {
    return absl::OkStatus();
  }
  return WriteFileAtomically(ExternalPath(digest), now.ToJson());
}

absl::Status FileBlobStore::Remove(const std::string& path) {
  if (ops_->Unlink(path) != 0 && errno != ENOENT) {
    return ErrnoStatus(errno, "cannot remove", path);
  }
  return absl::OkStatus();
}

absl::Status FileBlobStore::Delete(const Digest& digest) {
  BW_RETURN_IF_ERROR(CheckDigest(digest));
  BW_RETURN_IF_ERROR(Remove(BlobPath(digest)));
  BW_RETURN_IF_ERROR(Remove(ExternalPath(digest)));
  absl::MutexLock lock(&mutex_);
  if (open_writers_.contains(digest)) return absl::OkStatus();
  return Remove(PartialPath(digest));
}

absl::Status FileBlobStore::ForEach(
    const std::function<void(const Digest&)>& visit) {
  std::error_code error;
  const std::string blobs = absl::StrCat(root_, "/blobs");
  for (fs::recursive_directory_iterator it(blobs, error), end;
       !error && it != end; it.increment(error)) {
    std::error_code gone;
    if (!it->is_regular_file(gone) || gone) continue;
    const uint64_t size = it->file_size(gone);
    if (gone) continue;  // Deleted meanwhile.
    absl::StatusOr<Digest> digest =
        Digest::Parse(absl::StrCat(it->path().filename().string(), "/", size));
    if (digest.ok()) visit(*digest);
  }
  if (error) return Filesystem(error, "cannot list", blobs);
  const std::string external = absl::StrCat(root_, "/external");
  for (fs::directory_iterator it(external, error), end; !error && it != end;
       it.increment(error)) {
    absl::StatusOr<Digest> digest =
        ParseFlatName(it->path().filename().string());
    if (!digest.ok()) continue;
    std::error_code missing;
    if (!fs::exists(BlobPath(*digest), missing)) visit(*digest);
  }
  return error ? Filesystem(error, "cannot list", external) : absl::OkStatus();
}

}  // namespace bitwright
