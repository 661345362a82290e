// The models that clients may name: directories below configured roots. A path
// is judged by where it really leads, symbolic links followed.
//
//   BW_ASSIGN_OR_RETURN(ModelRoots roots, ModelRoots::Create({"/models"}));
//   BW_ASSIGN_OR_RETURN(auto model, roots.Open("/models/llama"));
#ifndef BITWRIGHT_SERVER_RPC_MODEL_SOURCE_H_
#define BITWRIGHT_SERVER_RPC_MODEL_SOURCE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/checkpoint/model_directory.h"

namespace bitwright {

// Thread-safe.
class ModelRoots {
 public:
  // No roots: nothing is allowed. INVALID_ARGUMENT if one is not a directory.
  static absl::StatusOr<ModelRoots> Create(
      const std::vector<std::string>& roots);

  // The directory that `path` leads to. PERMISSION_DENIED outside the roots,
  // whether it exists or not; INVALID_ARGUMENT if it is not an absolute path of
  // a directory.
  absl::StatusOr<std::string> Resolve(const std::string& path) const;

  // Resolves and opens; every file in the directory must lie below the roots,
  // too. Whatever is wrong with the model is INVALID_ARGUMENT.
  absl::StatusOr<std::unique_ptr<ModelDirectory>> Open(
      const std::string& path) const;

 private:
  bool Contains(const std::string& canonical) const;
  absl::Status CheckEntries(const std::string& directory) const;

  std::vector<std::string> roots_;  // Canonical.
};

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_RPC_MODEL_SOURCE_H_
