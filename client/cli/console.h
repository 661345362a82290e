// What people see: aligned tables and human units.
//
//   Table table({"layer", "bits"});
//   table.AddRow({"q_proj", "3.00"});
//   std::cout << table.Render();
#ifndef BITWRIGHT_CLIENT_CLI_CONSOLE_H_
#define BITWRIGHT_CLIENT_CLI_CONSOLE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace bitwright {

// Columns as wide as their widest cell; cells that read as numbers are
// right-aligned.
class Table {
 public:
  explicit Table(std::vector<std::string> header)
      : header_(std::move(header)) {}
  // As many cells as the header has.
  void AddRow(std::vector<std::string> cells) {
    rows_.push_back(std::move(cells));
  }
  std::string Render() const;

 private:
  std::vector<std::string> header_;
  std::vector<std::vector<std::string>> rows_;
};

std::string HumanBytes(uint64_t bytes);              // "1.5 MiB"
std::string HumanDuration(absl::Duration duration);  // "1h02m", "3m07s", "4.2s"
std::string Significant(
    double value, int digits);  // 4 digits: "17.54", "0.01234", "1.23e-07"

}  // namespace bitwright

#endif  // BITWRIGHT_CLIENT_CLI_CONSOLE_H_
