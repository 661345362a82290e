#include "proto/algorithm_version.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace bitwright {

// Raise a kind's version when its tasks begin to give other bytes for the same
// inputs: results on record then no longer count.
int AlgorithmVersion(v1::TaskKind kind) {
  switch (kind) {
    case v1::TASK_KIND_PREPARE:
      return 1;
    case v1::TASK_KIND_FORWARD:
      return 3;
    case v1::TASK_KIND_QUANTIZE:
      return 7;
    case v1::TASK_KIND_EVALUATE:
      return 2;
    case v1::TASK_KIND_FINALIZE:
      return 1;
    case v1::TASK_KIND_MEASURE:
      return 2;
    case v1::TASK_KIND_GRADIENT:
      return 1;
    case v1::TASK_KIND_ALLOCATE:
      return 1;
    case v1::TASK_KIND_RESPONSE:
      return 2;
    case v1::TASK_KIND_SOLVE:
      return 1;
    case v1::TASK_KIND_RECONSTRUCT:
      return 3;
    default:
      return 0;
  }
}

std::string AlgorithmVersions() {
  std::string versions;
  const auto* kinds = v1::TaskKind_descriptor();
  for (int i = 0; i < kinds->value_count(); ++i) {
    const auto* kind = kinds->value(i);
    const int version =
        AlgorithmVersion(static_cast<v1::TaskKind>(kind->number()));
    if (version == 0) continue;
    absl::StrAppend(&versions, versions.empty() ? "" : ", ",
                    absl::StripPrefix(kind->name(), "TASK_KIND_"), " ",
                    version);
  }
  return versions;
}

}  // namespace bitwright
