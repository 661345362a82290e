// From flags to a JobSpec. Parsing is CLI11's; what the values mean is here.
//
//   SpecOptions options;
//   AddModelArgument(command, &options);
//   AddQuantizationOptions(command, &options);
//   AddEvaluationOptions(command, &options);
//   ... BW_ASSIGN_OR_RETURN(v1::JobSpec spec, BuildSpec(options, *client));
#ifndef BITWRIGHT_CLIENT_CLI_SPEC_OPTIONS_H_
#define BITWRIGHT_CLIENT_CLI_SPEC_OPTIONS_H_

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bitwright/v1/job.pb.h"
#include "common/base/digest.h"

namespace bitwright {

struct SpecOptions {
  std::string model;
  std::vector<std::string> calibration;  // Text files.
  std::string calibration_tokens;        // Safetensors.
  std::string method = "baq", variant = "exact";
  std::string budget;  // Empty: codes for ratio, file for the others.
  std::string pipeline = "sequential", format = "native";
  std::string scope = "layer";
  std::string granularity;  // Empty: the method's own.
  double bits = 3;
  std::vector<double> plan_bits;  // Of a plan, instead of `bits`.
  int group_size = 0, nsamples = 0, seqlen = 0, shards = 0;
  uint64_t seed = 0;
  bool symmetric = false, mse_clip = false, act_order = false;
  double damping = 0;
  std::optional<int> refine;
  // Of --method ratio; 0 and empty: the server's defaults.
  int bits_normal = 0, bits_high = 0;
  std::vector<double> ratios;
  std::string interactions, estimate, quantizer;
  v1::HybridSpec hybrid;                // What was asked for.
  std::vector<std::string> evaluation;  // Text files.
  std::string evaluation_tokens;
  int evaluation_seqlen = 0;
};

void AddModelArgument(CLI::App* command, SpecOptions* options);
void AddCalibrationOptions(CLI::App* command, SpecOptions* options);
// Those of calibration included.
void AddQuantizationOptions(CLI::App* command, SpecOptions* options);
void AddEvaluationOptions(CLI::App* command, SpecOptions* options);
// Those of quantization that matter to a plan; its bits are the caller's.
void AddPlanOptions(CLI::App* command, SpecOptions* options);

// "2..4" with a step, "2,2.5,3" or "3": the bits of a plan, ascending.
// INVALID_ARGUMENT says what is wrong.
absl::StatusOr<std::vector<double>> ParsePlanBits(const std::string& text,
                                                  double step);

// What can be refused before anything is started: INVALID_ARGUMENT or
// NOT_FOUND, naming flag and file.
absl::Status CheckOptions(const SpecOptions& options, bool evaluate_only);

// Stores a file with the server and says its digest (Client::UploadFile).
using Uploader = std::function<absl::StatusOr<Digest>(const std::string& path)>;

// Uploads the texts and fills in a spec. The model's path is made canonical if
// it exists here, and is left to the server otherwise.
absl::StatusOr<v1::JobSpec> BuildQuantizeSpec(const SpecOptions& options,
                                              const Uploader& upload);
absl::StatusOr<v1::JobSpec> BuildPlanSpec(const SpecOptions& options,
                                          const Uploader& upload);
absl::StatusOr<v1::JobSpec> BuildEvaluateSpec(const SpecOptions& options,
                                              const Uploader& upload);

// The same for the same spec and the same model files: what makes a rerun find
// its job, and a changed model get a new one.
std::string RequestIdFor(const v1::JobSpec& spec);

}  // namespace bitwright

#endif  // BITWRIGHT_CLIENT_CLI_SPEC_OPTIONS_H_
