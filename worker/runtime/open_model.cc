#include "worker/runtime/open_model.h"

#include <cmath>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "common/base/status_macros.h"
#include "spdlog/spdlog.h"
#include "worker/quant/layer_engine_cuda.h"

namespace bitwright {

absl::StatusOr<std::unique_ptr<OpenModel>> OpenModel::Open(
    const std::string& path, const std::string& device) {
  BW_ASSIGN_OR_RETURN(std::unique_ptr<ModelDirectory> directory,
                      ModelDirectory::Open(path));
  return std::unique_ptr<OpenModel>(
      new OpenModel(std::move(directory), device));
}

quant::Device OpenModel::QuantizerDevice() const {
  if (device_ != "cuda") return quant::Device::kCpu;
  static const absl::Status status = [] {
    absl::Status s = quant::CudaDeviceStatus();
    if (!s.ok()) {
      spdlog::warn("linears are quantized on the CPU: {}", s.ToString());
    }
    return s;
  }();
  return status.ok() ? quant::Device::kCuda : quant::Device::kCpu;
}

absl::StatusOr<const model::DecoderModel*> OpenModel::Decoder() {
  absl::MutexLock lock(&mutex_);
  if (decoder_ == nullptr) {
    BW_ASSIGN_OR_RETURN(decoder_,
                        model::DecoderModel::Open(directory_.get(), device_));
  }
  return decoder_.get();
}

absl::StatusOr<const quant::OutputMetric*> OpenModel::OutputMetric() {
  BW_ASSIGN_OR_RETURN(const model::DecoderModel* decoder, Decoder());
  absl::MutexLock lock(&metric_mutex_);
  if (metric_ == nullptr) {
    BW_ASSIGN_OR_RETURN(std::vector<double> gram, decoder->VocabularyGram());
    const auto dim = static_cast<int64_t>(std::sqrt(gram.size()) + 0.5);
    BW_ASSIGN_OR_RETURN(quant::OutputMetric metric,
                        quant::OutputMetric::Create(std::move(gram), dim));
    metric_ = std::make_unique<quant::OutputMetric>(std::move(metric));
  }
  return metric_.get();
}

}  // namespace bitwright
