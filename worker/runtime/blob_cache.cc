#include "worker/runtime/blob_cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status_macros.h"

namespace bitwright {
namespace {

namespace fs = std::filesystem;

absl::Status MakeDirectory(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) return ErrnoStatus(error.value(), "create directory", path);
  return absl::OkStatus();
}

}  // namespace

CachedBlob::CachedBlob(CachedBlob&& other) noexcept
    : cache_(std::exchange(other.cache_, nullptr)),
      digest_(std::move(other.digest_)),
      path_(std::move(other.path_)) {}

CachedBlob& CachedBlob::operator=(CachedBlob&& other) noexcept {
  if (this != &other) {
    Release();
    cache_ = std::exchange(other.cache_, nullptr);
    digest_ = std::move(other.digest_);
    path_ = std::move(other.path_);
  }
  return *this;
}

CachedBlob::~CachedBlob() { Release(); }

void CachedBlob::Release() {
  if (cache_ != nullptr) cache_->Unreference(digest_);
  cache_ = nullptr;
}

BlobCache::BlobCache(std::string directory, uint64_t max_bytes, int lock_fd)
    : directory_(std::move(directory)),
      scratch_(absl::StrCat(directory_, "/scratch")),
      max_bytes_(max_bytes),
      lock_fd_(lock_fd) {}

BlobCache::~BlobCache() { close(lock_fd_); }

absl::StatusOr<std::unique_ptr<BlobCache>> BlobCache::Open(
    const std::string& directory, uint64_t max_bytes) {
  BW_RETURN_IF_ERROR(MakeDirectory(directory));
  const std::string lock = absl::StrCat(directory, "/lock");
  const int fd = open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) return ErrnoStatus(errno, "open", lock);
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    const int error = errno;
    close(fd);
    if (error != EWOULDBLOCK) return ErrnoStatus(error, "lock", lock);
    return absl::FailedPreconditionError(
        absl::StrCat("another worker uses the cache directory ", directory,
                     "; give this one a --cache-dir of its own"));
  }
  std::unique_ptr<BlobCache> cache(new BlobCache(directory, max_bytes, fd));
  BW_RETURN_IF_ERROR(cache->Load());
  return cache;
}

absl::Status BlobCache::Load() {
  std::error_code error;
  fs::remove_all(scratch_, error);
  if (error) return ErrnoStatus(error.value(), "clear", scratch_);
  BW_RETURN_IF_ERROR(MakeDirectory(scratch_));
  const std::string blobs = absl::StrCat(directory_, "/blobs");
  BW_RETURN_IF_ERROR(MakeDirectory(blobs));

  struct Found {
    fs::file_time_type time;
    Digest digest;
  };
  std::vector<Found> found;
  for (fs::directory_iterator it(blobs, error), end; !error && it != end;
       it.increment(error)) {
    found.push_back({it->last_write_time(error),
                     {it->path().filename().string(), it->file_size(error)}});
  }
  if (error) return ErrnoStatus(error.value(), "list", blobs);
  std::sort(found.begin(), found.end(),
            [](const Found& a, const Found& b) { return a.time < b.time; });
  absl::MutexLock lock(&mutex_);
  for (const Found& file : found) Insert(file.digest, /*verified=*/false);
  Evict();
  return absl::OkStatus();
}

std::string BlobCache::PathOf(absl::string_view sha256) const {
  return absl::StrCat(directory_, "/blobs/", sha256);
}

std::string BlobCache::NewScratchPath() {
  absl::MutexLock lock(&mutex_);
  return absl::StrCat(scratch_, "/", next_scratch_++);
}

uint64_t BlobCache::bytes() const {
  absl::MutexLock lock(&mutex_);
  return bytes_;
}

std::optional<CachedBlob> BlobCache::Find(const Digest& digest) {
  std::optional<CachedBlob> blob;
  {
    absl::MutexLock lock(&mutex_);
    auto it = entries_.find(digest.sha256);
    if (it == entries_.end() || it->second.size != digest.size) {
      return std::nullopt;
    }
    struct stat status;
    if (stat(PathOf(digest.sha256).c_str(), &status) != 0 ||
        static_cast<uint64_t>(status.st_size) != digest.size) {
      if (it->second.references == 0) Remove(digest.sha256);
      return std::nullopt;
    }
    blob = Reference(digest, &it->second);
    if (it->second.verified) return blob;
  }
  // An earlier process left it: digest it once, with the lock open. The
  // reference keeps it in place meanwhile.
  const absl::StatusOr<Digest> actual = DigestOfFile(blob->path());
  absl::MutexLock lock(&mutex_);
  auto it = entries_.find(digest.sha256);
  const bool good = actual.ok() && *actual == digest;
  if (good) {
    it->second.verified = true;
    return blob;
  }
  if (--it->second.references == 0 && !it->second.verified) {
    Remove(digest.sha256);
  }
  blob->cache_ = nullptr;
  return std::nullopt;
}

absl::StatusOr<CachedBlob> BlobCache::AdoptFile(const std::string& path,
                                                std::optional<Digest> digest) {
  if (!digest.has_value()) {
    BW_ASSIGN_OR_RETURN(digest, DigestOfFile(path));
  }
  const std::string target = PathOf(digest->sha256);
  absl::MutexLock lock(&mutex_);
  if (rename(path.c_str(), target.c_str()) != 0) {
    return ErrnoStatus(errno, "rename", path);
  }
  Insert(*digest, /*verified=*/true);
  CachedBlob blob = Reference(*digest, &entries_[digest->sha256]);
  Evict();
  return blob;
}

absl::StatusOr<CachedBlob> BlobCache::AddBytes(absl::string_view bytes) {
  const std::string path = NewScratchPath();
  BW_ASSIGN_OR_RETURN(std::unique_ptr<FileWriter> writer,
                      FileWriter::Create(path));
  BW_RETURN_IF_ERROR(writer->Append(bytes));
  BW_RETURN_IF_ERROR(writer->Close());
  return AdoptFile(path, DigestOf(bytes));
}

CachedBlob BlobCache::Reference(const Digest& digest, Entry* entry) {
  ++entry->references;
  ages_.splice(ages_.begin(), ages_, entry->age);
  const std::string path = PathOf(digest.sha256);
  // The next process learns the order of use from the files' times.
  utimensat(AT_FDCWD, path.c_str(), nullptr, 0);
  return CachedBlob(this, digest, path);
}

void BlobCache::Insert(const Digest& digest, bool verified) {
  auto [it, inserted] = entries_.try_emplace(digest.sha256);
  Entry& entry = it->second;
  if (inserted) {
    ages_.push_front(digest.sha256);
    entry.age = ages_.begin();
  } else {
    bytes_ -= entry.size;
  }
  entry.size = digest.size;
  entry.verified = entry.verified || verified;
  bytes_ += digest.size;
}

void BlobCache::Unreference(const Digest& digest) {
  absl::MutexLock lock(&mutex_);
  auto it = entries_.find(digest.sha256);
  if (it == entries_.end()) return;
  if (--it->second.references == 0) Evict();
}

void BlobCache::Remove(const std::string& sha256) {
  auto it = entries_.find(sha256);
  unlink(PathOf(sha256).c_str());
  bytes_ -= it->second.size;
  ages_.erase(it->second.age);
  entries_.erase(it);
}

void BlobCache::Evict() {
  auto it = ages_.end();
  while (bytes_ > max_bytes_ && it != ages_.begin()) {
    const std::string sha256 = *--it;
    if (entries_.find(sha256)->second.references > 0) continue;
    ++it;  // Remove() takes the element before away.
    Remove(sha256);
  }
}

}  // namespace bitwright
