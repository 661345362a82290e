#include "worker/runtime/solve_ratio_command.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/base/exit_code.h"
#include "common/base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace bitwright {
namespace {

using ::testing::HasSubstr;

// Two linears of [10, 4] in two blocks: 94 or 110 bits each.
nlohmann::json Problem() {
  return {{"options", {0.1, 0.5}},
          {"bits_normal", 2},
          {"bits_high", 3},
          {"budget_bits", 94 + 110},
          {"linears",
           {{{"block", 0}, {"rows", 10}, {"cols", 4}},
            {{"block", 1}, {"rows", 10}, {"cols", 4}}}},
          {"m",
           {{5.1, 0, 0, -4},  //
            {0, 4, -9, 0},
            {0, -9, 9, 0},
            {-4, 0, 0, 3}}}};
}

class SolveRatioCommandTest : public testing::Test {
 protected:
  int Run(const std::string& text, std::vector<std::string> arguments) {
    const absl::Status written = WriteFileAtomically(path_, text);
    EXPECT_TRUE(written.ok()) << written;
    arguments.insert(arguments.begin(), {"solve-ratio", path_});
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    const int code =
        SolveRatioCommand(static_cast<int>(argv.size()), argv.data());
    out_ = testing::internal::GetCapturedStdout();
    err_ = testing::internal::GetCapturedStderr();
    return code;
  }

  nlohmann::json Solve(const nlohmann::json& problem,
                       std::vector<std::string> arguments = {}) {
    arguments.push_back("--json");
    EXPECT_EQ(Run(problem.dump(), arguments), kExitDone) << err_;
    return nlohmann::json::parse(out_);
  }

  void ExpectRefused(const std::string& text, const std::string& message,
                     std::vector<std::string> arguments = {}) {
    EXPECT_EQ(Run(text, arguments), kExitBadInput);
    EXPECT_EQ(out_, "");
    EXPECT_THAT(err_, HasSubstr(message));
    if (arguments.empty()) {
      EXPECT_THAT(err_, HasSubstr(path_));
    }
  }

  TempDirectory directory_ = *TempDirectory::Create("solve-ratio-");
  const std::string path_ = directory_.path() + "/problem.json";
  std::string out_, err_;
};

TEST_F(SolveRatioCommandTest, PrintsTheChoice) {
  // Both options of both linears fit, but not 110 + 110.
  EXPECT_EQ(Solve(Problem()), nlohmann::json::parse(R"(
    {"choice": [1, 0], "objective": -5.0, "bits": 204, "optimal": true})"));
}

TEST_F(SolveRatioCommandTest, ObjectivesHaveAllDigits) {
  nlohmann::json problem = Problem();
  EXPECT_EQ(
      Solve(problem, {"--interactions", "none"})["objective"].get<double>(),
      5.1 + 3);
}

TEST_F(SolveRatioCommandTest, InteractionsMayBeChosen) {
  nlohmann::json problem = Problem();
  for (const char* name : {"none", "block"}) {
    problem["interactions"] = name;
    EXPECT_EQ(Solve(problem)["choice"], nlohmann::json({0, 1})) << name;
  }
  // The flag goes before the file.
  EXPECT_EQ(Solve(problem, {"--interactions", "all"})["choice"],
            nlohmann::json({1, 0}));
}

TEST_F(SolveRatioCommandTest, TheMatrixMayBeOneList) {
  nlohmann::json problem = Problem(), flat = nlohmann::json::array();
  for (const nlohmann::json& row : problem["m"]) {
    for (const nlohmann::json& value : row) flat.push_back(value);
  }
  const nlohmann::json expected = Solve(problem);
  problem["m"] = flat;
  EXPECT_EQ(Solve(problem), expected);
}

TEST_F(SolveRatioCommandTest, PrintsATable) {
  EXPECT_EQ(Run(Problem().dump(), {}), kExitDone) << err_;
  EXPECT_THAT(out_, HasSubstr("linear   block  ratio\n"
                              "     0       0  0.5\n"
                              "     1       1  0.1\n"));
  EXPECT_THAT(out_, HasSubstr("204 of 204 bits (2.5500 per weight), optimal"));
}

TEST_F(SolveRatioCommandTest, RefusesWhatIsNoProblem) {
  ExpectRefused("{", "not valid JSON");
  ExpectRefused("[]", "expected a JSON object");
  ExpectRefused(Problem().dump(), "--interactions: \"some\"",
                {"--interactions", "some"});
  ExpectRefused(Problem().dump(), "--unknown", {"--unknown"});
  nlohmann::json problem = Problem();
  problem["interactions"] = "some";
  ExpectRefused(problem.dump(), "problem.json.interactions: \"some\"");
  problem = Problem();
  problem["budget"] = 7;
  ExpectRefused(problem.dump(), "\"budget\" is not supported");
  problem = Problem();
  problem["linears"][1]["name"] = "x";
  ExpectRefused(problem.dump(), "linears[1]: the setting \"name\"");
}

TEST_F(SolveRatioCommandTest, NamesTheFieldThatIsWrong) {
  for (const char* field :
       {"options", "bits_normal", "bits_high", "budget_bits", "linears", "m"}) {
    nlohmann::json problem = Problem();
    problem.erase(field);
    ExpectRefused(problem.dump(), std::string("problem.json.") + field + ": ");
    problem[field] = "text";
    ExpectRefused(problem.dump(), std::string("problem.json.") + field + ": ");
  }
  nlohmann::json problem = Problem();
  problem["budget_bits"] = 204.5;
  ExpectRefused(problem.dump(), "budget_bits: expected a whole number");
  problem["budget_bits"] = 18446744073709551615u;
  ExpectRefused(problem.dump(), "18446744073709551615 is too large");
  problem["budget_bits"] = 10;
  ExpectRefused(problem.dump(), "from 188");
  problem = Problem();
  problem["m"][2][1] = nullptr;
  ExpectRefused(problem.dump(), "m[2][1]: expected a number");
  problem = Problem();
  problem["m"][2].push_back(1);
  ExpectRefused(problem.dump(), "m[2]: 5 values, where 4 are needed");
  problem["m"].erase(1);
  ExpectRefused(problem.dump(), "m: 3 rows, where 4 are needed");
}

TEST_F(SolveRatioCommandTest, AFileThatIsMissing) {
  std::string name = "solve-ratio", path = directory_.path() + "/none.json";
  char* argv[] = {name.data(), path.data()};
  testing::internal::CaptureStderr();
  EXPECT_EQ(SolveRatioCommand(2, argv), kExitBadInput);
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr(path));
}

}  // namespace
}  // namespace bitwright
