// Blobs of a server, through the cache.
//
//   BlobFetcher fetcher(api, cache, patience, metrics);
//   BW_ASSIGN_OR_RETURN(CachedBlob blob, fetcher.Fetch(digest));
#ifndef BITWRIGHT_WORKER_RUNTIME_BLOB_FETCHER_H_
#define BITWRIGHT_WORKER_RUNTIME_BLOB_FETCHER_H_

#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "common/base/digest.h"
#include "worker/runtime/blob_cache.h"
#include "worker/runtime/metrics.h"
#include "worker/runtime/patience.h"
#include "worker/runtime/server_api.h"

namespace bitwright {

// Thread-safe.
class BlobFetcher {
 public:
  // Borrows everything.
  BlobFetcher(ServerApi* api, BlobCache* cache, Patience* patience,
              WorkerMetrics* metrics)
      : api_(api), cache_(cache), patience_(patience), metrics_(metrics) {}

  // From the cache, else from the server; two callers of one digest share one
  // download. DATA_LOSS if the server does not have it.
  absl::StatusOr<CachedBlob> Fetch(const Digest& digest);
  // DATA_LOSS if what arrived is not what was sent.
  absl::Status Upload(const CachedBlob& blob);

  BlobCache* cache() { return cache_; }

 private:
  absl::StatusOr<CachedBlob> Download(const Digest& digest);

  ServerApi* const api_;
  BlobCache* const cache_;
  Patience* const patience_;
  WorkerMetrics* const metrics_;
  absl::Mutex mutex_;
  absl::flat_hash_set<std::string> downloading_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bitwright

#endif  // BITWRIGHT_WORKER_RUNTIME_BLOB_FETCHER_H_
