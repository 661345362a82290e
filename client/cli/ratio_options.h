// The flags of --method ratio (math.md §4). Private to this folder.
#ifndef BITWRIGHT_CLIENT_CLI_RATIO_OPTIONS_H_
#define BITWRIGHT_CLIENT_CLI_RATIO_OPTIONS_H_

#include <CLI/CLI.hpp>

#include "absl/status/status.h"
#include "bitwright/v1/job.pb.h"
#include "client/cli/spec_options.h"

namespace bitwright {

void AddRatioOptions(CLI::App* command, SpecOptions* options);

// INVALID_ARGUMENT names the flag that does not fit.
absl::Status CheckRatio(const SpecOptions& options);

void FillRatio(const SpecOptions& options, v1::RatioSpec* ratio);

}  // namespace bitwright

#endif  // BITWRIGHT_CLIENT_CLI_RATIO_OPTIONS_H_
