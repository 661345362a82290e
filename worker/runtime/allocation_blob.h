// The blob that an allocate task makes, and quantize tasks read: JSON,
//
//   {"bits": 2.5, "budget": "file", "scope": "model", "granularity": "column",
//    "weights": ..., "achieved": {"bits", "code_bits", "file_bits"},
//    "predicted": {"loss", "weighted_loss", "nll_rise"},
//    "calibration": {"nll", "predictions", "perplexity"},
//    "linears": [{"name", "rows", "cols", "bits", "code_bits", "file_bits",
//                 "sensitivity", "loss"}, ...]}
//
// in the model's order. Private to this folder.
#ifndef BITWRIGHT_WORKER_RUNTIME_ALLOCATION_BLOB_H_
#define BITWRIGHT_WORKER_RUNTIME_ALLOCATION_BLOB_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bitwright/v1/job.pb.h"
#include "worker/quant/model_scope.h"

namespace bitwright {

struct AllocatedLinear {
  std::string name;
  int64_t rows = 0, cols = 0;
  double sensitivity = 0;
  quant::LinearAllocation allocation;
};

struct AllocationBlob {
  v1::MethodSpec method;
  v1::Prediction prediction;
  double nll = 0;           // Of the calibration set, in nats.
  int64_t predictions = 0;  // Tokens that `nll` is over.
  double achieved_bits = 0;
  std::vector<AllocatedLinear> linears;
};

std::string SerializeAllocation(const AllocationBlob& blob);

// INVALID_ARGUMENT if the text is no allocation, or has no such linear.
absl::StatusOr<AllocatedLinear> FindInAllocation(const std::string& text,
                                                 const std::string& linear);

}  // namespace bitwright

#endif  // BITWRIGHT_WORKER_RUNTIME_ALLOCATION_BLOB_H_
