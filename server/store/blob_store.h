// Immutable blobs by content. The checkpoint store and every intermediate
// result live here; what is stored is whole and has the digest it is named by.
//
//   BW_ASSIGN_OR_RETURN(auto writer, store->BeginWrite(digest));
//   BW_RETURN_IF_ERROR(writer->Append(bytes));
//   BW_RETURN_IF_ERROR(writer->Commit());
//   BW_ASSIGN_OR_RETURN(std::string back, store->Read(digest, 0, digest.size));
//
// Every implementation passes tests/contract/blob_store_contract.
#ifndef BITWRIGHT_SERVER_STORE_BLOB_STORE_H_
#define BITWRIGHT_SERVER_STORE_BLOB_STORE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/digest.h"

namespace bitwright {

// One blob on its way in. Destroying it without Commit keeps what came so far,
// for a later BeginWrite of the same digest to continue. Not thread-safe.
class BlobWriter {
 public:
  virtual ~BlobWriter() = default;
  virtual uint64_t committed_size() const = 0;  // Bytes that have arrived.
  virtual absl::Status Append(absl::string_view data) = 0;
  // DATA_LOSS if size or SHA-256 differ: the partial bytes are thrown away.
  // RESOURCE_EXHAUSTED: the disk is full.
  virtual absl::Status Commit() = 0;
};

// Thread-safe.
class BlobStore {
 public:
  virtual ~BlobStore() = default;

  virtual absl::StatusOr<bool> Has(const Digest& digest) = 0;
  // At most `limit` bytes from `offset`; NOT_FOUND names the digest. DATA_LOSS
  // if an external file (see AddExternal) is no longer what it was.
  virtual absl::StatusOr<std::string> Read(const Digest& digest,
                                           uint64_t offset, uint64_t limit) = 0;
  // ABORTED while another writer of this digest is open.
  virtual absl::StatusOr<std::unique_ptr<BlobWriter>> BeginWrite(
      const Digest& digest) = 0;
  // Refers to a file in place, e.g. a model's weights; never copied or deleted.
  virtual absl::Status AddExternal(const Digest& digest,
                                   const std::string& path) = 0;
  // OK if it is not there. External files are only forgotten.
  virtual absl::Status Delete(const Digest& digest) = 0;
  virtual absl::Status ForEach(
      const std::function<void(const Digest&)>& visit) = 0;
};

// One-call write of a small blob.
absl::Status WriteBlob(BlobStore* store, const Digest& digest,
                       absl::string_view bytes);

// Blobs as files below `root`: blobs/ab/abcd..., partial/, external/. Written
// by the atomic-write protocol of common/base/file.h.
absl::StatusOr<std::unique_ptr<BlobStore>> OpenFileBlobStore(
    const std::string& root);

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_STORE_BLOB_STORE_H_
