// What the tasks of a plan are called: "quantize-model.layers.0.mlp.up_proj".
// Private to this folder.
#ifndef BITWRIGHT_SERVER_PLANNER_TASK_KEYS_H_
#define BITWRIGHT_SERVER_PLANNER_TASK_KEYS_H_

#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace bitwright {

inline constexpr char kPrepare[] = "prepare";
inline constexpr char kPrepareEvaluation[] = "prepare-evaluation";
inline constexpr char kAllocate[] = "allocate";
inline constexpr char kSolve[] = "solve";

inline std::string QuantizeKey(const std::string& linear) {
  return absl::StrCat("quantize-", linear);
}

inline std::string MeasureKey(const std::string& linear) {
  return absl::StrCat("measure-", linear);
}

inline std::string ReconstructKey(int64_t block) {
  return absl::StrCat("reconstruct-", block);
}

inline std::string GradientKey(int64_t block, int shard) {
  return absl::StrCat("gradient-", block, "-", shard);
}

inline std::string ResponseKey(const std::string& linear, int option) {
  return absl::StrFormat("response-%s-%d", linear, option);
}

inline std::string PairKey(const std::string& linear, int option,
                           const std::string& partner) {
  return absl::StrFormat("response-%s-%d-%s", linear, option, partner);
}

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_PLANNER_TASK_KEYS_H_
