#include "worker/model/block.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace bitwright::model {

absl::StatusOr<std::unique_ptr<DecoderBlock>> LoadBlock(
    const ModelDirectory& directory, const at::Device& device,
    const WeightOverride& weights, int64_t block, int64_t seqlen) {
  const ModelConfig& config = directory.config();
  if (block < 0 || block >= config.num_layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("block ", block, " of a model with ", config.num_layers));
  }
  const WeightReader reader(&directory, device, &weights);
  return config.family == ModelFamily::kOpt
             ? LoadOptBlock(reader, config, block)
             : LoadLlamaBlock(reader, config, block, seqlen);
}

}  // namespace bitwright::model
