// The lineage of a checkpoint: what it was made from and how, as JSON. A pure
// function of the action and its inputs, so that it is the same on every
// machine: no times, host names or paths. common/checkpoint/lineage_file.h adds
// format, totals and the digests of the checkpoint's own files. Private to this
// folder.
//
// {"tool_version": "0.1.0", "spec": {...},
//  "source_files": [{"name": ..., "sha256": ..., "size": ...}],
//  "calibration": {"texts": [{"name": ..., "sha256": ..., "size": ...}],
//                  "nsamples": 128, "seqlen": 2048, "seed": 0, "shards": 4},
//  "layers": [{"name": ..., "rows": ..., "cols": ..., "report": {...}}]}
#ifndef BITWRIGHT_WORKER_RUNTIME_LINEAGE_H_
#define BITWRIGHT_WORKER_RUNTIME_LINEAGE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "bitwright/v1/worker.pb.h"
#include "common/checkpoint/native.h"

namespace bitwright {

// One quantized linear, without its codes.
struct LayerLineage {
  std::string name;
  int64_t rows = 0, cols = 0;
  double code_bits = 0, file_bits = 0;
  std::string report;  // JSON.
};
LayerLineage DescribeLayer(const LinearBlob& blob);

// Means over all quantized weights.
v1::FinalizeSummary SummarizeLayers(const std::vector<LayerLineage>& layers);

absl::string_view MethodName(v1::Method method);  // "baq".

// INVALID_ARGUMENT if a layer's report is not JSON.
absl::StatusOr<std::string> LineageJson(
    const v1::FinalizeParameters& parameters,
    const std::vector<LayerLineage>& layers, absl::string_view tool_version);

}  // namespace bitwright

#endif  // BITWRIGHT_WORKER_RUNTIME_LINEAGE_H_
