#include "worker/runtime/solve_ratio_command.h"

#include <CLI/CLI.hpp>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/exit_code.h"
#include "common/base/file.h"
#include "common/base/status_macros.h"
#include "common/text/json_reader.h"
#include "nlohmann/json.hpp"
#include "worker/quant/ratio_solver.h"

namespace bitwright {
namespace {

struct RatioFlags {
  std::string input, interactions;
  bool json = false;
};

struct RatioInput {
  quant::RatioProblem problem;
  quant::Interactions interactions = quant::Interactions::kAll;
};

void AddRatioFlags(CLI::App& app, RatioFlags& flags) {
  app.add_option("input", flags.input,
                 "JSON file with `options`, `bits_normal`, `bits_high`, "
                 "`budget_bits`, `linears` and `m`")
      ->required();
  app.add_option("--interactions", flags.interactions,
                 "Which entries of m count: all, block (pairs within a block) "
                 "or none (the diagonal) [the file's, or all]");
  app.add_flag("--json", flags.json, "Print one JSON object");
}

absl::StatusOr<quant::Interactions> ParseInteractions(const std::string& name,
                                                      std::string where) {
  if (name == "all") return quant::Interactions::kAll;
  if (name == "block") return quant::Interactions::kBlock;
  if (name == "none") return quant::Interactions::kNone;
  return absl::InvalidArgumentError(
      absl::StrCat(where, ": \"", name, "\" is none of all, block and none"));
}

absl::Status WrongJsonType(const std::string& where, const char* expected,
                           const nlohmann::json* found) {
  return absl::InvalidArgumentError(
      absl::StrCat(where, ": expected ", expected, ", found ",
                   found == nullptr ? "nothing" : found->type_name()));
}

absl::StatusOr<int64_t> WholeNumber(const ObjectReader& reader,
                                    const std::string& key,
                                    int64_t limit = INT64_MAX) {
  const nlohmann::json* found = reader.Find(key);
  if (found == nullptr || !found->is_number_integer()) {
    return WrongJsonType(reader.WhereOf(key), "a whole number", found);
  }
  const bool fits = found->is_number_unsigned()
                        ? found->get<uint64_t>() <= static_cast<uint64_t>(limit)
                        : found->get<int64_t>() >= -limit;
  if (fits) return found->get<int64_t>();
  return absl::InvalidArgumentError(
      absl::StrCat(reader.WhereOf(key), ": ", found->dump(), " is too large"));
}

absl::Status AppendNumbers(const nlohmann::json& list, const std::string& where,
                           std::vector<double>* numbers) {
  for (size_t i = 0; i < list.size(); ++i) {
    if (!list[i].is_number()) {
      return WrongJsonType(absl::StrCat(where, "[", i, "]"), "a number",
                           &list[i]);
    }
    numbers->push_back(list[i].get<double>());
  }
  return absl::OkStatus();
}

absl::Status ReadRatioLinears(const ObjectReader& reader,
                              std::vector<quant::RatioLinear>* linears) {
  BW_ASSIGN_OR_RETURN(const nlohmann::json* list, reader.Array("linears"));
  for (size_t i = 0; i < list->size(); ++i) {
    BW_ASSIGN_OR_RETURN(
        const ObjectReader linear,
        ObjectReader::Create(
            (*list)[i], absl::StrCat(reader.WhereOf("linears"), "[", i, "]")));
    BW_RETURN_IF_ERROR(linear.AllowOnly({"block", "rows", "cols"}));
    quant::RatioLinear& read = linears->emplace_back();
    BW_ASSIGN_OR_RETURN(read.block, WholeNumber(linear, "block"));
    BW_ASSIGN_OR_RETURN(read.rows, WholeNumber(linear, "rows"));
    BW_ASSIGN_OR_RETURN(read.cols, WholeNumber(linear, "cols"));
  }
  return absl::OkStatus();
}

// `n`: the rows that there must be, and what each must have.
absl::Status ReadLossMatrix(const ObjectReader& reader, size_t n,
                            std::vector<double>* m) {
  BW_ASSIGN_OR_RETURN(const nlohmann::json* list, reader.Array("m"));
  const std::string where = reader.WhereOf("m");
  if (list->empty() || !list->front().is_array()) {
    return AppendNumbers(*list, where, m);
  }
  if (list->size() != n) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": ", list->size(), " rows, where ", n,
                     " are needed: one for each option of each linear"));
  }
  for (size_t i = 0; i < n; ++i) {
    const nlohmann::json& row = (*list)[i];
    const std::string row_where = absl::StrCat(where, "[", i, "]");
    if (!row.is_array()) return WrongJsonType(row_where, "an array", &row);
    if (row.size() != n) {
      return absl::InvalidArgumentError(absl::StrCat(
          row_where, ": ", row.size(), " values, where ", n, " are needed"));
    }
    BW_RETURN_IF_ERROR(AppendNumbers(row, row_where, m));
  }
  return absl::OkStatus();
}

absl::StatusOr<RatioInput> ReadRatioInput(const RatioFlags& flags) {
  BW_ASSIGN_OR_RETURN(const std::string text, ReadFile(flags.input));
  BW_ASSIGN_OR_RETURN(const nlohmann::json json, ParseJson(text, flags.input));
  BW_ASSIGN_OR_RETURN(const ObjectReader reader,
                      ObjectReader::Create(json, flags.input));
  BW_RETURN_IF_ERROR(
      reader.AllowOnly({"options", "bits_normal", "bits_high", "budget_bits",
                        "linears", "m", "interactions"}));
  RatioInput input;
  quant::RatioProblem& problem = input.problem;
  BW_ASSIGN_OR_RETURN(const nlohmann::json* options, reader.Array("options"));
  BW_RETURN_IF_ERROR(
      AppendNumbers(*options, reader.WhereOf("options"), &problem.ratios));
  constexpr int64_t kLimit = std::numeric_limits<int>::max();
  BW_ASSIGN_OR_RETURN(const int64_t bits_normal,
                      WholeNumber(reader, "bits_normal", kLimit));
  BW_ASSIGN_OR_RETURN(const int64_t bits_high,
                      WholeNumber(reader, "bits_high", kLimit));
  problem.bits_normal = static_cast<int>(bits_normal);
  problem.bits_high = static_cast<int>(bits_high);
  BW_ASSIGN_OR_RETURN(problem.budget_bits, WholeNumber(reader, "budget_bits"));
  BW_RETURN_IF_ERROR(ReadRatioLinears(reader, &problem.linears));
  BW_RETURN_IF_ERROR(ReadLossMatrix(
      reader, problem.linears.size() * problem.ratios.size(), &problem.m));
  if (!flags.interactions.empty()) {
    BW_ASSIGN_OR_RETURN(
        input.interactions,
        ParseInteractions(flags.interactions, "--interactions"));
  } else if (reader.Find("interactions") != nullptr) {
    BW_ASSIGN_OR_RETURN(const std::string name, reader.String("interactions"));
    BW_ASSIGN_OR_RETURN(
        input.interactions,
        ParseInteractions(name, reader.WhereOf("interactions")));
  }
  return input;
}

std::string RatioJson(const quant::RatioSolution& solution) {
  nlohmann::ordered_json out;
  out["choice"] = solution.choice;
  out["objective"] = solution.objective;
  out["bits"] = solution.bits;
  out["optimal"] = solution.optimal;
  return out.dump();
}

void PrintRatios(const quant::RatioProblem& problem,
                 const quant::RatioSolution& solution) {
  absl::PrintF("%6s  %6s  %s\n", "linear", "block", "ratio");
  double weights = 0;
  for (size_t l = 0; l < problem.linears.size(); ++l) {
    const quant::RatioLinear& linear = problem.linears[l];
    absl::PrintF("%6d  %6d  %g\n", l, linear.block,
                 problem.ratios[solution.choice[l]]);
    weights += static_cast<double>(linear.rows * linear.cols);
  }
  absl::PrintF("objective %.6g, %d of %d bits (%.4f per weight), %s\n",
               solution.objective, solution.bits, problem.budget_bits,
               static_cast<double>(solution.bits) / weights,
               solution.optimal ? "optimal" : "not proven to be optimal");
}

}  // namespace

int SolveRatioCommand(int argc, char** argv) {
  RatioFlags flags;
  CLI::App app("Choose the ratio of rows with more bits for each linear.",
               "bitwright-worker solve-ratio");
  AddRatioFlags(app, flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? kExitDone : kExitBadInput;
  }
  const absl::StatusOr<RatioInput> input = ReadRatioInput(flags);
  absl::Status status = input.status();
  absl::StatusOr<quant::RatioSolution> solution;
  if (status.ok()) {
    solution = quant::SolveRatios(input->problem, input->interactions);
    status = Annotate(solution.status(), flags.input);
  }
  if (!status.ok()) {
    absl::FPrintF(stderr, "solve-ratio: %s\n", status.message());
    return ExitCodeFor(status);
  }
  if (flags.json) {
    absl::PrintF("%s\n", RatioJson(*solution));
  } else {
    PrintRatios(input->problem, *solution);
  }
  return kExitDone;
}

}  // namespace bitwright
