#include "client/cli/cli.h"

#include <cstdlib>
#include <vector>

#include "client/cli/commands.h"
#include "common/base/exit_code.h"
#include "common/base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bitwright {
namespace {

using testing::HasSubstr;
using testing::Not;

// Runs the CLI in this process and captures what it prints.
struct Outcome {
  int code;
  std::string out, err;
};
Outcome RunBitwright(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "bitwright");
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  Outcome outcome;
  outcome.code = RunCli(argv.size(), argv.data());
  outcome.out = testing::internal::GetCapturedStdout();
  outcome.err = testing::internal::GetCapturedStderr();
  return outcome;
}

TEST(CliTest, HelpGoesToStdoutAndNamesEveryCommand) {
  const Outcome outcome = RunBitwright({"--help"});
  EXPECT_EQ(outcome.code, kExitDone);
  for (const char* command :
       {"quantize", "eval", "submit", "watch", "jobs", "job", "tasks", "cancel",
        "retry", "delete", "workers", "inspect", "verify", "export"}) {
    EXPECT_THAT(outcome.out, HasSubstr(command));
  }
}

TEST(CliTest, UsageErrorsAreBadInput) {
  EXPECT_EQ(RunBitwright({}).code, kExitBadInput);
  EXPECT_EQ(RunBitwright({"frobnicate"}).code, kExitBadInput);
  const Outcome outcome =
      RunBitwright({"quantize", "m", "-o", "x", "--method", "magic"});
  EXPECT_EQ(outcome.code, kExitBadInput);
  EXPECT_THAT(outcome.err, HasSubstr("magic"));
  EXPECT_EQ(outcome.out, "");
}

TEST(CliTest, UnknownServerIsElevenAndNamesTheAddress) {
  const Outcome outcome =
      RunBitwright({"jobs", "--server", "unix:/nowhere/x.sock"});
  EXPECT_EQ(outcome.code, kExitCannotConnect);
  EXPECT_THAT(outcome.err, HasSubstr("/nowhere/x.sock"));
}

TEST(CliTest, FlagOverEnvironmentOverConfigFile) {
  auto directory = TempDirectory::Create("cli-");
  ASSERT_TRUE(directory.ok());
  const std::string config = directory->path() + "/config.toml";
  ASSERT_TRUE(
      WriteFileAtomically(config, "[jobs]\nserver = \"unix:/from/config\"\n")
          .ok());
  EXPECT_THAT(RunBitwright({"--config", config, "jobs"}).err,
              HasSubstr("/from/config"));
  setenv("BITWRIGHT_SERVER", "unix:/from/environment", 1);
  EXPECT_THAT(RunBitwright({"--config", config, "jobs"}).err,
              HasSubstr("/from/environment"));
  EXPECT_THAT(
      RunBitwright({"--config", config, "jobs", "--server", "unix:/from/flag"})
          .err,
      HasSubstr("/from/flag"));
  unsetenv("BITWRIGHT_SERVER");
}

TEST(CliTest, EnvironmentReachesFlagsInGroups) {
  setenv("BITWRIGHT_METHOD", "magic", 1);
  EXPECT_THAT(RunBitwright({"quantize", "m", "-o", "x"}).err,
              HasSubstr("magic"));
  unsetenv("BITWRIGHT_METHOD");
}

TEST(ReportJobEndTest, ExitCodes) {
  v1::Job job;
  job.set_state(v1::JOB_STATE_SUCCEEDED);
  EXPECT_EQ(ReportJobEnd(job), kExitDone);
  job.set_state(v1::JOB_STATE_RUNNING);
  EXPECT_EQ(ReportJobEnd(job), kExitStillRunning);
  job.set_state(v1::JOB_STATE_CANCELLED);
  EXPECT_EQ(ReportJobEnd(job), kExitJobFailed);
  job.set_state(v1::JOB_STATE_FAILED);
  job.mutable_error()->set_code(static_cast<int>(absl::StatusCode::kInternal));
  EXPECT_EQ(ReportJobEnd(job), kExitJobFailed);
  job.mutable_error()->set_code(
      static_cast<int>(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(ReportJobEnd(job), kExitBadInput);
  job.mutable_error()->set_code(
      static_cast<int>(absl::StatusCode::kResourceExhausted));
  EXPECT_EQ(ReportJobEnd(job), kExitInfrastructure);
}

}  // namespace
}  // namespace bitwright
