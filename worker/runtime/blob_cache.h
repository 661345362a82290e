// Blobs on the worker's own disk: the inputs it fetched and the outputs it
// made, so that forward(b + 1, s) finds the activations of forward(b, s)
// locally.
//
//   BW_ASSIGN_OR_RETURN(auto cache, BlobCache::Open("/var/cache/bw", 8 << 30));
//   BW_ASSIGN_OR_RETURN(CachedBlob blob, cache->AddBytes("hello"));
//   std::optional<CachedBlob> again = cache->Find(blob.digest());
//   again->path();    // A file; it stays as long as a CachedBlob refers to it.
//
// Bounded: the least recently used blobs that nobody refers to go first. What
// is referred to may exceed the bound for a while. Crashes: files appear by
// rename, and a file that an earlier process left is digested before it is used
// for the first time; a wrong one is removed. One process at a time owns a
// directory.
#ifndef BITWRIGHT_WORKER_RUNTIME_BLOB_CACHE_H_
#define BITWRIGHT_WORKER_RUNTIME_BLOB_CACHE_H_

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "common/base/digest.h"

namespace bitwright {

class BlobCache;

// Keeps one blob in the cache. Movable; thread-compatible. Must not outlive the
// cache.
class CachedBlob {
 public:
  CachedBlob(CachedBlob&& other) noexcept;
  CachedBlob& operator=(CachedBlob&& other) noexcept;
  ~CachedBlob();

  const Digest& digest() const { return digest_; }
  const std::string& path() const { return path_; }

 private:
  friend class BlobCache;
  CachedBlob(BlobCache* cache, Digest digest, std::string path)
      : cache_(cache), digest_(std::move(digest)), path_(std::move(path)) {}
  void Release();

  BlobCache* cache_;
  Digest digest_;
  std::string path_;
};

// Thread-safe.
class BlobCache {
 public:
  // Creates `directory` if need be. FAILED_PRECONDITION while another process
  // has it open. Whatever earlier processes left unfinished is removed.
  static absl::StatusOr<std::unique_ptr<BlobCache>> Open(
      const std::string& directory, uint64_t max_bytes);
  ~BlobCache();

  std::optional<CachedBlob> Find(const Digest& digest);
  // Moves a file of the same file system (see scratch()) into the cache. If the
  // digest is given it is believed.
  absl::StatusOr<CachedBlob> AdoptFile(
      const std::string& path, std::optional<Digest> digest = std::nullopt);
  absl::StatusOr<CachedBlob> AddBytes(absl::string_view bytes);

  // A directory for files on their way in; empty after Open.
  const std::string& scratch() const { return scratch_; }
  // A name in scratch() that nobody else gets.
  std::string NewScratchPath();

  uint64_t bytes() const;  // Held now.

 private:
  struct Entry {
    uint64_t size = 0;
    int references = 0;
    bool verified = false;  // By this process.
    std::list<std::string>::iterator age;
  };
  friend class CachedBlob;

  BlobCache(std::string directory, uint64_t max_bytes, int lock_fd);
  absl::Status Load();
  std::string PathOf(absl::string_view sha256) const;
  void Unreference(const Digest& digest);
  CachedBlob Reference(const Digest& digest, Entry* entry)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Insert(const Digest& digest, bool verified)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Remove(const std::string& sha256) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Evict() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string directory_, scratch_;
  const uint64_t max_bytes_;
  const int lock_fd_;
  mutable absl::Mutex mutex_;
  uint64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t next_scratch_ ABSL_GUARDED_BY(mutex_) = 0;
  // Keyed by SHA-256; `ages_` has the most recently used one in front.
  absl::flat_hash_map<std::string, Entry> entries_ ABSL_GUARDED_BY(mutex_);
  std::list<std::string> ages_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bitwright

#endif  // BITWRIGHT_WORKER_RUNTIME_BLOB_CACHE_H_
