#include "worker/runtime/open_model.h"

#include <utility>

#include "common/base/status_macros.h"

namespace bitwright {

absl::StatusOr<std::unique_ptr<OpenModel>> OpenModel::Open(
    const std::string& path, const std::string& device) {
  BW_ASSIGN_OR_RETURN(std::unique_ptr<ModelDirectory> directory,
                      ModelDirectory::Open(path));
  return std::unique_ptr<OpenModel>(
      new OpenModel(std::move(directory), device));
}

absl::StatusOr<const model::DecoderModel*> OpenModel::Decoder() {
  absl::MutexLock lock(&mutex_);
  if (decoder_ == nullptr) {
    BW_ASSIGN_OR_RETURN(decoder_,
                        model::DecoderModel::Open(directory_.get(), device_));
  }
  return decoder_.get();
}

}  // namespace bitwright
