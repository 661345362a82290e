// Where a worker keeps its cache, and the name that goes with it.
//
// Without a directory of its own choice each worker of a user takes the first
// free one of ~/.cache/bitwright/worker-0, worker-1, ..., so that several on
// one machine get along, and one that starts again finds its blobs and its
// name: the server then frees at once what the one before it had leased.
#ifndef BITWRIGHT_WORKER_RUNTIME_WORKER_PLACE_H_
#define BITWRIGHT_WORKER_RUNTIME_WORKER_PLACE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "worker/runtime/blob_cache.h"

namespace bitwright {

struct WorkerPlace {
  std::unique_ptr<BlobCache> cache;
  std::string name;  // Host name and place.
};

// `directory` may be empty. If it is not, and another worker has it, that one
// may be on its way out: the directory is waited for, up to `handover` and
// until `stop` is notified. The errors of BlobCache::Open.
absl::StatusOr<WorkerPlace> OpenWorkerPlace(const std::string& directory,
                                            uint64_t max_bytes,
                                            absl::Duration handover,
                                            const absl::Notification& stop);

}  // namespace bitwright

#endif  // BITWRIGHT_WORKER_RUNTIME_WORKER_PLACE_H_
