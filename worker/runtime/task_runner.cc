#include "worker/runtime/task_runner.h"

#include <cstdint>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status_macros.h"
#include "worker/runtime/executor.h"

namespace bitwright {
namespace {

Digest DigestFrom(const v1::BlobDigest& digest) {
  return {digest.sha256(), static_cast<uint64_t>(digest.size_bytes())};
}

// Inputs are fetched when the task asks for them and kept until it ends.
class FetchingReader : public InputReader {
 public:
  FetchingReader(const v1::Action& action, BlobFetcher* fetcher)
      : fetcher_(fetcher) {
    for (const v1::NamedBlob& input : action.inputs()) {
      digests_[input.name()] = DigestFrom(input.digest());
    }
  }

  absl::StatusOr<std::string> Path(const std::string& name) override {
    if (auto it = held_.find(name); it != held_.end()) {
      return it->second.path();
    }
    auto digest = digests_.find(name);
    if (digest == digests_.end()) {
      return absl::NotFoundError(absl::StrCat("the task has no input ", name));
    }
    absl::StatusOr<CachedBlob> blob = fetcher_->Fetch(digest->second);
    if (!blob.ok()) {
      return Annotate(blob.status(), absl::StrCat("input ", name));
    }
    std::string path = blob->path();
    held_.emplace(name, *std::move(blob));
    return path;
  }

 private:
  BlobFetcher* const fetcher_;
  absl::flat_hash_map<std::string, Digest> digests_;
  absl::flat_hash_map<std::string, CachedBlob> held_;
};

class LocalTaskRunner : public TaskRunner {
 public:
  LocalTaskRunner(BlobFetcher* fetcher, ModelProvider* models,
                  WorkerMetrics* metrics)
      : fetcher_(fetcher), models_(models), metrics_(metrics) {}

  absl::StatusOr<ComputedTask> Compute(const v1::LeasedTask& task,
                                       TaskControl* control) override {
    BW_ASSIGN_OR_RETURN(
        std::shared_ptr<OpenModel> model,
        models_->Get(task.model(), task.action().model_digest()));
    BlobCache* cache = fetcher_->cache();
    BW_ASSIGN_OR_RETURN(TempDirectory scratch,
                        TempDirectory::Create("task-", cache->scratch()));
    FetchingReader inputs(task.action(), fetcher_);
    BW_ASSIGN_OR_RETURN(TaskResult result,
                        ExecuteTask({.action = &task.action(),
                                     .inputs = &inputs,
                                     .model = model.get(),
                                     .scratch = scratch.path(),
                                     .control = control}));
    BW_RETURN_IF_ERROR(models_->CheckUnchanged(task.model()));
    metrics_->Count(result.counters);
    ComputedTask computed{.outputs = {}, .summary = std::move(result.summary)};
    for (TaskOutput& output : result.outputs) {
      absl::StatusOr<CachedBlob> blob =
          output.path.empty() ? cache->AddBytes(output.bytes)
                              : cache->AdoptFile(output.path, output.digest);
      if (!blob.ok()) return blob.status();
      computed.outputs.emplace_back(std::move(output.name), *std::move(blob));
    }
    return computed;
  }

  absl::StatusOr<std::vector<v1::NamedBlob>> Upload(
      const ComputedTask& computed) override {
    std::vector<v1::NamedBlob> named;
    for (const auto& [name, blob] : computed.outputs) {
      BW_RETURN_IF_ERROR(fetcher_->Upload(blob));
      v1::NamedBlob& output = named.emplace_back();
      output.set_name(name);
      output.mutable_digest()->set_sha256(blob.digest().sha256);
      output.mutable_digest()->set_size_bytes(blob.digest().size);
    }
    return named;
  }

  void Prefetch(const v1::LeasedTask& task) override {
    for (const v1::NamedBlob& input : task.action().inputs()) {
      if (!fetcher_->Fetch(DigestFrom(input.digest())).ok()) return;
    }
  }

 private:
  BlobFetcher* const fetcher_;
  ModelProvider* const models_;
  WorkerMetrics* const metrics_;
};

}  // namespace

std::unique_ptr<TaskRunner> MakeTaskRunner(BlobFetcher* fetcher,
                                           ModelProvider* models,
                                           WorkerMetrics* metrics) {
  return std::make_unique<LocalTaskRunner>(fetcher, models, metrics);
}

}  // namespace bitwright
