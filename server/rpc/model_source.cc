#include "server/rpc/model_source.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"
#include "proto/status_conversion.h"

namespace bitwright {
namespace fs = std::filesystem;
namespace {

absl::Status Outside(absl::string_view path,
                     const std::vector<std::string>& roots) {
  return WithReason(
      absl::PermissionDeniedError(absl::StrCat(
          path,
          " is outside the directories that this server reads models from",
          roots.empty() ? " (it has none)"
                        : absl::StrCat(" (", absl::StrJoin(roots, ", "), ")"),
          "; start it with --model-root DIR")),
      "PATH_OUTSIDE_MODEL_ROOTS");
}

// What is wrong with a model is wrong with the request.
absl::Status AsBadModel(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kResourceExhausted:
      return status;
    default:
      return WithReason(absl::InvalidArgumentError(status.message()),
                        "BAD_MODEL");
  }
}

}  // namespace

absl::StatusOr<ModelRoots> ModelRoots::Create(
    const std::vector<std::string>& roots) {
  ModelRoots result;
  for (const std::string& root : roots) {
    std::error_code error;
    fs::path canonical = fs::canonical(root, error);
    if (error || !fs::is_directory(canonical, error)) {
      return absl::InvalidArgumentError(
          absl::StrCat("model root ", root, " is not a directory"));
    }
    result.roots_.push_back(canonical.string());
  }
  return result;
}

bool ModelRoots::Contains(const std::string& canonical) const {
  const fs::path path(canonical);
  return std::any_of(roots_.begin(), roots_.end(), [&](const fs::path& root) {
    return std::mismatch(root.begin(), root.end(), path.begin(), path.end())
               .first == root.end();
  });
}

absl::StatusOr<std::string> ModelRoots::Resolve(const std::string& path) const {
  if (path.find('\0') != std::string::npos || !fs::path(path).is_absolute()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "model.path must be an absolute path, not \"", path, "\""));
  }
  std::error_code error;
  // Canonical as far as it exists.
  const fs::path canonical = fs::weakly_canonical(path, error);
  if (error || !Contains(canonical.string())) return Outside(path, roots_);
  if (!fs::is_directory(canonical, error)) {
    return WithReason(
        absl::InvalidArgumentError(absl::StrCat(
            "model.path ", path, " is not a directory on the server")),
        "BAD_MODEL");
  }
  return canonical.string();
}

absl::Status ModelRoots::CheckEntries(const std::string& directory) const {
  std::error_code error;
  for (fs::directory_iterator it(directory, error), end; !error && it != end;
       it.increment(error)) {
    std::error_code bad;
    if (!it->is_symlink(bad)) continue;
    const fs::path target = fs::weakly_canonical(it->path(), bad);
    if (fs::is_directory(target, bad)) continue;  // Never read.
    if (!Contains(target.string())) {
      return Outside(it->path().string(), roots_);
    }
  }
  if (error) {
    return absl::PermissionDeniedError(
        absl::StrCat("cannot list ", directory, ": ", error.message()));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ModelDirectory>> ModelRoots::Open(
    const std::string& path) const {
  BW_ASSIGN_OR_RETURN(std::string directory, Resolve(path));
  BW_RETURN_IF_ERROR(CheckEntries(directory));
  absl::StatusOr<std::unique_ptr<ModelDirectory>> model =
      ModelDirectory::Open(directory);
  if (!model.ok()) return AsBadModel(model.status());
  return model;
}

}  // namespace bitwright
