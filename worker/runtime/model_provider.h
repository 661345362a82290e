// Finds the model of a leased task: in place if this machine has the directory
// that the server names, else fetched file by file from the server.
//
//   ModelProvider models(&fetcher, "auto");
//   BW_ASSIGN_OR_RETURN(std::shared_ptr<OpenModel> model,
//                       models.Get(task.model(),
//                       task.action().model_digest()));
#ifndef BITWRIGHT_WORKER_RUNTIME_MODEL_PROVIDER_H_
#define BITWRIGHT_WORKER_RUNTIME_MODEL_PROVIDER_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "bitwright/v1/job.pb.h"
#include "common/base/file.h"
#include "worker/runtime/blob_fetcher.h"
#include "worker/runtime/open_model.h"

namespace bitwright {

// Keeps the last model open for the tasks that follow. Thread-safe.
class ModelProvider {
 public:
  // Borrows `fetcher`. `device` as in DecoderModel::Open.
  ModelProvider(BlobFetcher* fetcher, std::string device)
      : fetcher_(fetcher), device_(std::move(device)) {}

  // The model keeps working while anybody holds it. INVALID_ARGUMENT for file
  // names that leave the directory; otherwise the errors of Fetch and Open.
  absl::StatusOr<std::shared_ptr<OpenModel>> Get(
      const v1::ModelSource& source, const std::string& model_digest);

  // FAILED_PRECONDITION if a file of the model that Get returned last was
  // written to since: what was computed from it is not to be trusted.
  absl::Status CheckUnchanged(const v1::ModelSource& source);

 private:
  // Size, modification and change time of each file, in the source's order.
  using Stamp = std::vector<std::array<int64_t, 3>>;
  struct Kept;

  // Whether the directory is here and its files have the planned digests.
  static bool IsInPlace(const v1::ModelSource& source);
  static Stamp StampOf(const v1::ModelSource& source,
                       const std::string& directory);
  absl::StatusOr<std::shared_ptr<Kept>> Fetch(const v1::ModelSource& source);

  BlobFetcher* const fetcher_;
  const std::string device_;
  absl::Mutex mutex_;
  std::string digest_ ABSL_GUARDED_BY(mutex_);
  Stamp stamp_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<Kept> kept_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace bitwright

#endif  // BITWRIGHT_WORKER_RUNTIME_MODEL_PROVIDER_H_
