// The model that a task works on, opened once and kept for the tasks after it.
//
//   BW_ASSIGN_OR_RETURN(auto model, OpenModel::Open("/models/llama", "auto"));
//   model->directory().config();
//   BW_ASSIGN_OR_RETURN(const model::DecoderModel* decoder, model->Decoder());
#ifndef BITWRIGHT_WORKER_RUNTIME_OPEN_MODEL_H_
#define BITWRIGHT_WORKER_RUNTIME_OPEN_MODEL_H_

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "common/checkpoint/model_directory.h"
#include "worker/model/decoder_model.h"
#include "worker/quant/output_change.h"
#include "worker/quant/quantizer.h"

namespace bitwright {

// Thread-safe.
class OpenModel {
 public:
  // `device` as in DecoderModel::Open. The errors of ModelDirectory::Open.
  static absl::StatusOr<std::unique_ptr<OpenModel>> Open(
      const std::string& path, const std::string& device);

  const ModelDirectory& directory() const { return *directory_; }
  const ModelConfig& config() const { return directory_->config(); }
  // Where its linears are quantized: on CUDA if the model runs there and this
  // build's CUDA module works (its absence is said once in the log), else on
  // the CPU.
  quant::Device QuantizerDevice() const;
  // Opened on first use; owned by this object.
  absl::StatusOr<const model::DecoderModel*> Decoder();
  // How its logits are measured; made on first use, owned by this object.
  absl::StatusOr<const quant::OutputMetric*> OutputMetric();

 private:
  OpenModel(std::unique_ptr<ModelDirectory> directory, std::string device)
      : directory_(std::move(directory)), device_(std::move(device)) {}

  const std::unique_ptr<ModelDirectory> directory_;
  const std::string device_;
  absl::Mutex mutex_;
  std::unique_ptr<model::DecoderModel> decoder_ ABSL_GUARDED_BY(mutex_);
  absl::Mutex metric_mutex_;
  std::unique_ptr<quant::OutputMetric> metric_ ABSL_GUARDED_BY(metric_mutex_);
};

}  // namespace bitwright

#endif  // BITWRIGHT_WORKER_RUNTIME_OPEN_MODEL_H_
