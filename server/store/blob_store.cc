#include "server/store/blob_store.h"

#include "common/base/status_macros.h"

namespace bitwright {

absl::Status WriteBlob(BlobStore* store, const Digest& digest,
                       absl::string_view bytes) {
  BW_ASSIGN_OR_RETURN(auto writer, store->BeginWrite(digest));
  if (bytes.size() != digest.size) {
    return absl::InvalidArgumentError("blob " + digest.ToString() +
                                      " was given with " +
                                      std::to_string(bytes.size()) + " bytes");
  }
  BW_RETURN_IF_ERROR(writer->Append(bytes.substr(writer->committed_size())));
  return writer->Commit();
}

}  // namespace bitwright
