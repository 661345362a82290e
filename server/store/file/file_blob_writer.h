// One blob on its way into a FileBlobStore.
#ifndef BITWRIGHT_SERVER_STORE_FILE_FILE_BLOB_WRITER_H_
#define BITWRIGHT_SERVER_STORE_FILE_FILE_BLOB_WRITER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/store/file/file_blob_store.h"

namespace bitwright {

class FileBlobWriter : public BlobWriter {
 public:
  // The store already has the blob: everything has arrived.
  FileBlobWriter(FileBlobStore* store, Digest digest);
  // Opens the partial file and hashes what it holds. The caller has entered
  // `digest` into the store's open writers; the writer takes it out again, also
  // when this fails.
  static absl::StatusOr<std::unique_ptr<BlobWriter>> Open(FileBlobStore* store,
                                                          const Digest& digest);
  ~FileBlobWriter() override;

  uint64_t committed_size() const override { return size_; }
  absl::Status Append(absl::string_view data) override;
  absl::Status Commit() override;

 private:
  absl::Status OpenPartial();
  absl::Status HashExisting(uint64_t size);
  // After an error the partial file may not be gone on with.
  absl::Status Fail(absl::Status why);
  absl::Status CheckContent();
  absl::Status Publish();
  void CloseFile();

  FileBlobStore* const store_;
  const Digest digest_;
  const std::string partial_path_;
  int fd_ = -1;
  uint64_t size_ = 0;
  bool complete_ = false;  // In the store.
  Hasher hasher_;
  absl::Status failed_;
};

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_STORE_FILE_FILE_BLOB_WRITER_H_
