#include "client/cli/console.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace bitwright {
namespace {

// Characters that take a column on a terminal: bytes that do not continue a
// UTF-8 sequence.
size_t DisplayWidth(absl::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  });
}

bool LooksNumeric(absl::string_view cell) {
  double ignored;
  return cell.empty() || cell == "-" || absl::SimpleAtod(cell, &ignored);
}

}  // namespace

std::string Table::Render() const {
  std::vector<size_t> widths(header_.size());
  std::vector<bool> right(header_.size(), !rows_.empty());
  for (size_t c = 0; c < header_.size(); ++c) {
    widths[c] = DisplayWidth(header_[c]);
    for (const auto& row : rows_) {
      widths[c] = std::max(widths[c], DisplayWidth(row[c]));
      right[c] = right[c] && LooksNumeric(row[c]);
    }
  }
  std::string out;
  auto append_row = [&](const std::vector<std::string>& row) {
    std::string line;
    for (size_t c = 0; c < row.size(); ++c) {
      std::string padding(widths[c] - DisplayWidth(row[c]), ' ');
      absl::StrAppend(&line, c == 0 ? "" : "  ", right[c] ? padding : "",
                      row[c], right[c] ? "" : padding);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    absl::StrAppend(&out, line, "\n");
  };
  append_row(header_);
  size_t total = 0;
  for (size_t width : widths) total += width + 2;
  absl::StrAppend(&out, std::string(total - 2, '-'), "\n");
  for (const auto& row : rows_) append_row(row);
  return out;
}

std::string HumanBytes(uint64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1024 && unit < 4) {
    value /= 1024;
    ++unit;
  }
  return unit == 0 ? absl::StrCat(bytes, " B")
                   : absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

std::string HumanDuration(absl::Duration duration) {
  double seconds = std::max(0.0, absl::ToDoubleSeconds(duration));
  if (seconds < 60) return absl::StrFormat("%.1fs", seconds);
  int64_t whole = static_cast<int64_t>(seconds + 0.5);
  if (whole < 3600) return absl::StrFormat("%dm%02ds", whole / 60, whole % 60);
  return absl::StrFormat("%dh%02dm", whole / 3600, whole % 3600 / 60);
}

std::string Significant(double value, int digits) {
  return absl::StrFormat("%.*g", digits, value);
}

}  // namespace bitwright
