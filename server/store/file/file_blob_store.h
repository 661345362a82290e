// Blobs as files below one directory:
//
//   blobs/ab/abcd...           a whole blob, named by its SHA-256
//   partial/abcd...-<size>     one on its way in, appended to only
//   external/abcd...-<size>    a record of a file elsewhere (external_file.h)
//
// Writing: append to the partial file; at Commit compare size and SHA-256,
// fsync it, rename it into blobs/, fsync that directory. A crash leaves the
// blob whole or absent; a partial file is hashed again and continued by the
// next BeginWrite, or thrown away after a week. When the disk is full the
// partial file goes at once, to give its space back.
//
// One process at a time may use a directory.
#ifndef BITWRIGHT_SERVER_STORE_FILE_FILE_BLOB_STORE_H_
#define BITWRIGHT_SERVER_STORE_FILE_FILE_BLOB_STORE_H_

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "server/store/blob_store.h"
#include "server/store/file/external_file.h"
#include "server/store/file/file_ops.h"

namespace bitwright {

class FileBlobStore : public BlobStore {
 public:
  // Creates what is missing. `ops` must outlive the store; writers must not.
  static absl::StatusOr<std::unique_ptr<FileBlobStore>> Open(
      const std::string& root, FileOps* ops = FileOps::Real());

  absl::StatusOr<bool> Has(const Digest& digest) override;
  absl::StatusOr<std::string> Read(const Digest& digest, uint64_t offset,
                                   uint64_t limit) override;
  absl::StatusOr<std::unique_ptr<BlobWriter>> BeginWrite(
      const Digest& digest) override;
  absl::Status AddExternal(const Digest& digest,
                           const std::string& path) override;
  absl::Status Delete(const Digest& digest) override;
  absl::Status ForEach(
      const std::function<void(const Digest&)>& visit) override;

 private:
  friend class FileBlobWriter;
  FileBlobStore(std::string root, FileOps* ops)
      : root_(std::move(root)), ops_(ops) {}

  absl::Status CreateDirectories();
  absl::Status DropStalePartials();
  std::string BlobPath(const Digest& digest) const;
  std::string PartialPath(const Digest& digest) const;
  std::string ExternalPath(const Digest& digest) const;
  // Whether blobs/ has it, with the right size.
  absl::StatusOr<bool> HasBlobFile(const Digest& digest) const;
  // NOT_FOUND if there is no record.
  absl::StatusOr<ExternalFile> ReadRecord(const Digest& digest) const;
  // OK if it is not there.
  absl::Status Remove(const std::string& path);
  void WriterClosed(const Digest& digest);

  const std::string root_;
  FileOps* const ops_;
  absl::Mutex mutex_;
  absl::flat_hash_set<Digest> open_writers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_STORE_FILE_FILE_BLOB_STORE_H_
