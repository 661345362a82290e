#include "worker/runtime/blob_fetcher.h"

#include <unistd.h>

#include <optional>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace bitwright {

absl::StatusOr<CachedBlob> BlobFetcher::Fetch(const Digest& digest) {
  {
    absl::MutexLock lock(&mutex_);
    auto free = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return !downloading_.contains(digest.sha256);
    };
    mutex_.Await(absl::Condition(&free));
    downloading_.insert(digest.sha256);
  }
  absl::Cleanup done = [&] {
    absl::MutexLock lock(&mutex_);
    downloading_.erase(digest.sha256);
  };
  if (std::optional<CachedBlob> found = cache_->Find(digest)) {
    metrics_->CountCache(/*hit=*/true);
    return *std::move(found);
  }
  metrics_->CountCache(/*hit=*/false);
  return Download(digest);
}

absl::StatusOr<CachedBlob> BlobFetcher::Download(const Digest& digest) {
  const std::string path = cache_->NewScratchPath();
  const absl::Status status = patience_->Retry(
      "download", [&] { return api_->DownloadFile(digest, path); });
  if (!status.ok()) {
    unlink(path.c_str());
    if (!absl::IsNotFound(status)) return status;
    // NOT_FOUND is kept for what the model lacks, where no retry helps.
    return absl::DataLossError(
        absl::StrCat("the server has lost a blob: ", status.message()));
  }
  metrics_->AddBytesDown(digest.size);
  return cache_->AdoptFile(path, digest);
}

absl::Status BlobFetcher::Upload(const CachedBlob& blob) {
  Digest stored;
  BW_RETURN_IF_ERROR(patience_->Retry("upload", [&]() -> absl::Status {
    BW_ASSIGN_OR_RETURN(stored, api_->UploadFile(blob.path()));
    return absl::OkStatus();
  }));
  if (stored != blob.digest()) {
    return absl::DataLossError(absl::StrCat(
        "an output changed on this machine's disk: it was ",
        blob.digest().ToString(), " and is now ", stored.ToString()));
  }
  metrics_->AddBytesUp(stored.size);
  return absl::OkStatus();
}

}  // namespace bitwright
