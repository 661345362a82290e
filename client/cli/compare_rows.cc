#include "client/cli/compare_rows.h"

#include <CLI/CLI.hpp>
#include <cmath>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "client/cli/console.h"
#include "common/base/status_macros.h"

namespace bitwright {
namespace {

using Json = nlohmann::ordered_json;

absl::Status BadRow(const std::string& row, absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("--methods \"", row, "\": ", why));
}

// The row's words, with file bits in the place of their row's number.
absl::StatusOr<std::vector<std::string>> Words(
    const std::string& row, const std::vector<double>& file_bits) {
  std::vector<std::string> words =
      absl::StrSplit(row, absl::ByAnyChar(" \t"), absl::SkipEmpty());
  for (std::string& word : words) {
    absl::string_view rest = word;
    size_t number = 0;
    if (!absl::ConsumePrefix(&rest, "@")) continue;
    if (!absl::SimpleAtoi(rest, &number) || number < 1 ||
        number > file_bits.size()) {
      return BadRow(row, absl::StrCat(word, " is no row above this one"));
    }
    word = absl::StrFormat("%.6f", file_bits[number - 1]);
  }
  return words;
}

struct Spread {
  double mean = 0, deviation = 0;  // The sample's; 0 for one value.
};

template <typename Value>
Spread Over(const CompareRow& row, Value value) {
  const double n = static_cast<double>(row.runs.size());
  Spread spread;
  for (const CompareRun& run : row.runs) {
    spread.mean += value(run.job.result()) / n;
  }
  if (row.runs.size() < 2) return spread;
  for (const CompareRun& run : row.runs) {
    const double off = value(run.job.result()) - spread.mean;
    spread.deviation += off * off / (n - 1);
  }
  spread.deviation = std::sqrt(spread.deviation);
  return spread;
}

double CodeBits(const v1::JobResult& result) {
  return result.code_bits_per_weight();
}
double FileBits(const v1::JobResult& result) {
  return result.file_bits_per_weight();
}
double After(const v1::JobResult& result) {
  return result.perplexity_after().perplexity();
}
double Before(const v1::JobResult& result) {
  return result.perplexity_before().perplexity();
}

}  // namespace

absl::StatusOr<SpecOptions> ParseCompareRow(
    const std::string& row, const SpecOptions& base,
    const std::vector<double>& file_bits) {
  BW_ASSIGN_OR_RETURN(std::vector<std::string> words, Words(row, file_bits));
  if (words.empty()) return BadRow(row, "a method is missing");
  SpecOptions options = base;
  CLI::App app;
  app.set_help_flag();
  AddQuantizationOptions(&app, &options);
  // CLI11 takes them from the back.
  std::vector<std::string> arguments(words.rbegin(), words.rend());
  arguments.push_back("--method");
  try {
    app.parse(arguments);
  } catch (const CLI::ParseError& error) {
    return BadRow(row, error.what());
  }
  return options;
}

std::string CompareText(const std::vector<CompareRow>& rows) {
  const v1::Perplexity& first =
      rows.front().runs.front().job.result().perplexity_after();
  const double before = Over(rows.front(), Before).mean;
  const bool several = rows.front().runs.size() > 1;
  std::vector<std::string> header = {"method", "code bits", "file bits",
                                     "perplexity", "of original"};
  if (several) header.push_back("deviation");
  const size_t cells = header.size();
  Table table(std::move(header));
  const auto add = [&](std::vector<std::string> row) {
    row.resize(cells);
    table.AddRow(std::move(row));
  };
  add({"original", "", "", Significant(before, 6), "1.000"});
  for (const CompareRow& row : rows) {
    const Spread after = Over(row, After);
    add({row.method, absl::StrFormat("%.4f", Over(row, CodeBits).mean),
         absl::StrFormat("%.4f", Over(row, FileBits).mean),
         Significant(after.mean, 6),
         absl::StrFormat("%.3f", after.mean / before),
         several ? Significant(after.deviation, 2) : ""});
  }
  return absl::StrCat(
      table.Render(), "\n",
      absl::StrFormat("perplexity over %d windows of %d tokens",
                      first.windows(), first.seqlen()),
      several ? absl::StrFormat("; mean and deviation of %d calibration sets",
                                rows.front().runs.size())
              : "",
      "\n");
}

Json CompareJson(const std::vector<CompareRow>& rows) {
  const v1::JobResult& first = rows.front().runs.front().job.result();
  Json json = {{"perplexity", {{"before", Before(first)}}},
               {"seqlen", first.perplexity_after().seqlen()},
               {"windows", first.perplexity_after().windows()},
               {"rows", Json::array()}};
  for (const CompareRow& row : rows) {
    const Spread after = Over(row, After);
    Json runs = Json::array();
    for (const CompareRun& run : row.runs) {
      runs.push_back({{"seed", run.seed},
                      {"job", run.job.name()},
                      {"code_bits", CodeBits(run.job.result())},
                      {"file_bits", FileBits(run.job.result())},
                      {"perplexity", After(run.job.result())},
                      {"seconds", run.seconds}});
    }
    json["rows"].push_back({{"method", row.method},
                            {"code_bits", Over(row, CodeBits).mean},
                            {"file_bits", Over(row, FileBits).mean},
                            {"perplexity", after.mean},
                            {"deviation", after.deviation},
                            {"runs", std::move(runs)}});
  }
  return json;
}

}  // namespace bitwright
