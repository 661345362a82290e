// The blob that a solve task makes, and quantize tasks read: JSON,
//
//   {"bits": 2.2, "budget": "codes", "bits_normal": 2, "bits_high": 3,
//    "ratios": [0.02, ...], "interactions": "all", "estimate": "gram",
//    "weights": ..., "sequences": ..., "budget_bits": ...,
//    "chosen": {"objective", "bits", "optimal"},
//    "alternatives": [{"interactions": "uniform", "objective", "bits",
//                      "choice": [0, ...]}, ...],
//    "linears": [{"name", "rows", "cols", "option", "ratio", "high_rows",
//                 "bits_normal", "bits_high"}, ...]}
//
// in the model's order. `objective` is δᵀMδ over all entries of the matrix that
// the estimate has, whichever of them the choice was made by. Private to this
// folder.
#ifndef BITWRIGHT_WORKER_RUNTIME_SOLUTION_BLOB_H_
#define BITWRIGHT_WORKER_RUNTIME_SOLUTION_BLOB_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bitwright/v1/job.pb.h"
#include "common/checkpoint/model_config.h"
#include "worker/quant/ratio_solver.h"

namespace bitwright {

// A choice that was not taken, for comparison.
struct OtherChoice {
  v1::Interactions interactions = v1::INTERACTIONS_UNSPECIFIED;
  quant::RatioSolution solution;
};

struct SolutionBlob {
  v1::MethodSpec method;
  std::vector<LinearSpec> linears;
  int64_t weights = 0, sequences = 0, budget_bits = 0;
  quant::RatioSolution chosen;
  std::vector<OtherChoice> alternatives;
};

// The share of a linear's rows at the higher bits.
struct ChosenRatio {
  double ratio = 0;
  int bits_normal = 0, bits_high = 0;
};

std::string SerializeSolution(const SolutionBlob& blob);

// INVALID_ARGUMENT if the text is no solution, or has no such linear.
absl::StatusOr<ChosenRatio> FindInSolution(const std::string& text,
                                           const std::string& linear);

}  // namespace bitwright

#endif  // BITWRIGHT_WORKER_RUNTIME_SOLUTION_BLOB_H_
