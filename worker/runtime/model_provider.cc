#include "worker/runtime/model_provider.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <optional>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/digest.h"
#include "common/base/status_macros.h"

namespace bitwright {
namespace {

absl::Status CheckName(const std::string& name) {
  bool good = !name.empty() && name.front() != '/';
  for (absl::string_view part : absl::StrSplit(name, '/')) {
    good = good && !part.empty() && part != "." && part != "..";
  }
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the model's file list has the name \"", name,
                   "\", which leaves the model's directory"));
}

int64_t Nanoseconds(const timespec& time) {
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

}  // namespace

// Everything that a fetched model needs to stay, and the model itself.
struct ModelProvider::Kept {
  std::vector<CachedBlob> blobs;
  std::optional<TempDirectory> links;
  std::string path;
  std::unique_ptr<OpenModel> model;
};

absl::StatusOr<std::shared_ptr<OpenModel>> ModelProvider::Get(
    const v1::ModelSource& source, const std::string& model_digest) {
  for (const v1::SourceFile& file : source.files()) {
    BW_RETURN_IF_ERROR(CheckName(file.name()));
  }
  absl::MutexLock lock(&mutex_);
  if (kept_ == nullptr || digest_ != model_digest ||
      stamp_ != StampOf(source, kept_->path)) {
    kept_.reset();  // Before the next one is opened: one at a time in memory.
    auto kept = std::make_shared<Kept>();
    const Stamp before = StampOf(source, source.path());
    if (IsInPlace(source)) {
      kept->path = source.path();
    } else {
      BW_ASSIGN_OR_RETURN(kept, Fetch(source));
    }
    BW_ASSIGN_OR_RETURN(kept->model, OpenModel::Open(kept->path, device_));
    stamp_ = before == StampOf(source, source.path())
                 ? StampOf(source, kept->path)
                 : Stamp();
    digest_ = model_digest;
    kept_ = std::move(kept);
  }
  return std::shared_ptr<OpenModel>(kept_, kept_->model.get());
}

bool ModelProvider::IsInPlace(const v1::ModelSource& source) {
  if (source.path().empty() || source.files().empty()) return false;
  const Stamp stamp = StampOf(source, source.path());
  for (int i = 0; i < source.files_size(); ++i) {
    if (stamp[i][0] != source.files(i).digest().size_bytes()) return false;
  }
  for (const v1::SourceFile& file : source.files()) {
    absl::StatusOr<Digest> digest =
        DigestOfFile(absl::StrCat(source.path(), "/", file.name()));
    if (!digest.ok() || digest->sha256 != file.digest().sha256()) return false;
  }
  return true;
}

absl::Status ModelProvider::CheckUnchanged(const v1::ModelSource& source) {
  absl::MutexLock lock(&mutex_);
  if (kept_ != nullptr && stamp_ == StampOf(source, kept_->path)) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("the model in ", source.path(),
                   " has changed while a task was reading it; put it back, or "
                   "submit the job again"));
}

ModelProvider::Stamp ModelProvider::StampOf(const v1::ModelSource& source,
                                            const std::string& directory) {
  Stamp stamp;
  for (const v1::SourceFile& file : source.files()) {
    struct stat status;
    const std::string path = absl::StrCat(directory, "/", file.name());
    if (stat(path.c_str(), &status) != 0) {
      stamp.push_back({-1, 0, 0});
      continue;
    }
    stamp.push_back({status.st_size, Nanoseconds(status.st_mtim),
                     Nanoseconds(status.st_ctim)});
  }
  return stamp;
}

absl::StatusOr<std::shared_ptr<ModelProvider::Kept>> ModelProvider::Fetch(
    const v1::ModelSource& source) {
  auto kept = std::make_shared<Kept>();
  BW_ASSIGN_OR_RETURN(kept->links, TempDirectory::Create(
                                       "model-", fetcher_->cache()->scratch()));
  kept->path = kept->links->path();
  for (const v1::SourceFile& file : source.files()) {
    auto blob =
        fetcher_->Fetch({file.digest().sha256(),
                         static_cast<uint64_t>(file.digest().size_bytes())});
    if (!blob.ok()) {
      return Annotate(blob.status(),
                      absl::StrCat("the model's file ", file.name()));
    }
    const std::filesystem::path link =
        std::filesystem::path(kept->path) / file.name();
    std::error_code error;
    std::filesystem::create_directories(link.parent_path(), error);
    if (error) {
      return ErrnoStatus(error.value(), "create directory",
                         link.parent_path().string());
    }
    const std::string target = std::filesystem::absolute(blob->path()).string();
    if (symlink(target.c_str(), link.c_str()) != 0) {
      return ErrnoStatus(errno, "link", link.string());
    }
    kept->blobs.push_back(*std::move(blob));
  }
  return kept;
}

}  // namespace bitwright
