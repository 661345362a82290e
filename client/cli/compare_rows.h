// The rows of `bitwright compare`: from text to options, and from jobs to a
// table.
//
//   BW_ASSIGN_OR_RETURN(SpecOptions options,
//                       ParseCompareRow("baq --bits @1", base, {2.31}));
//   std::cout << CompareText({{.method = "baq --bits @1", .runs = {...}}});
#ifndef BITWRIGHT_CLIENT_CLI_COMPARE_ROWS_H_
#define BITWRIGHT_CLIENT_CLI_COMPARE_ROWS_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bitwright/v1/job.pb.h"
#include "client/cli/spec_options.h"

namespace bitwright {

// `base` with the method and the flags of `row`. A word @N becomes
// file_bits[N - 1]. INVALID_ARGUMENT quotes the row.
absl::StatusOr<SpecOptions> ParseCompareRow(
    const std::string& row, const SpecOptions& base,
    const std::vector<double>& file_bits);

struct CompareRun {
  uint64_t seed = 0;
  v1::Job job;  // Succeeded.
  double seconds = 0;
};
struct CompareRow {
  std::string method;  // As it was given.
  std::vector<CompareRun> runs;
};

// Every row has at least one run.
std::string CompareText(const std::vector<CompareRow>& rows);
nlohmann::ordered_json CompareJson(const std::vector<CompareRow>& rows);

}  // namespace bitwright

#endif  // BITWRIGHT_CLIENT_CLI_COMPARE_ROWS_H_
