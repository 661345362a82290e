// The file blob store against the contract of all blob stores.
#include <memory>
#include <string>

#include "common/base/file.h"
#include "tests/contract/blob_store_contract.h"

namespace bitwright {
namespace {

struct FileStoreFactory {
  TempDirectory directory = TempDirectory::Create("blob-store").value();
  std::unique_ptr<BlobStore> Open() {
    return OpenFileBlobStore(directory.path() + "/store").value();
  }
};

INSTANTIATE_TYPED_TEST_SUITE_P(File, BlobStoreContract, FileStoreFactory);

}  // namespace
}  // namespace bitwright
