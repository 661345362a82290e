// Digests of big files, remembered by path, size, modification time and inode,
// so that a model is hashed once and not with every job. One small JSON file
// for each, in a directory of their own.
#ifndef BITWRIGHT_SERVER_RPC_DIGEST_CACHE_H_
#define BITWRIGHT_SERVER_RPC_DIGEST_CACHE_H_

#include <functional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "common/base/digest.h"

namespace bitwright {

// Thread-safe.
class DigestCache {
 public:
  // Creates `directory`.
  static absl::StatusOr<DigestCache> Open(std::string directory);

  // Hashes `path` unless it is known. CANCELLED once `stop` returns true, which
  // is asked between pieces; DATA_LOSS if the file changes meanwhile.
  absl::StatusOr<Digest> DigestOf(const std::string& path,
                                  const std::function<bool()>& stop);

 private:
  explicit DigestCache(std::string directory)
      : directory_(std::move(directory)) {}
  std::string directory_;
};

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_RPC_DIGEST_CACHE_H_
