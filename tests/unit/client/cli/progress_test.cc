#include "client/cli/progress.h"

#include <sstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bitwright {
namespace {

using testing::HasSubstr;

v1::Job JobAt(int forwards_done, int cached = 0) {
  v1::Job job;
  job.set_state(v1::JOB_STATE_RUNNING);
  job.mutable_spec()->mutable_calibration()->set_shards(4);
  v1::PhaseProgress* phase = job.add_phases();
  phase->set_kind(v1::TASK_KIND_FORWARD);
  phase->set_total(16);
  phase->set_done(forwards_done);
  phase->set_cached(cached);
  phase->set_running(forwards_done < 16 ? 1 : 0);
  return job;
}

TEST(MeasureProgressTest, CountsAndNamesThePhase) {
  const JobProgress progress = MeasureProgress(JobAt(4, 2));
  EXPECT_EQ(progress.total, 16);
  EXPECT_EQ(progress.done, 4);
  EXPECT_EQ(progress.cached, 2);
  EXPECT_DOUBLE_EQ(progress.fraction, 0.25);
  EXPECT_EQ(progress.phase, "forward");
}

TEST(MeasureProgressTest, CountsWhatRunningTasksHaveDone) {
  v1::Job job = JobAt(4);
  job.mutable_phases(0)->set_running_done(0.5);
  job.mutable_phases(0)->set_note("loss 3");
  EXPECT_DOUBLE_EQ(MeasureProgress(job).fraction, 4.5 / 16);
  EXPECT_EQ(MeasureProgress(job).note, "loss 3");
}

TEST(MeasureProgressTest, JobWithoutTasksIsAtTheStart) {
  v1::Job job;
  job.set_state(v1::JOB_STATE_PLANNING);
  EXPECT_EQ(MeasureProgress(job).fraction, 0);
  EXPECT_EQ(MeasureProgress(job).phase, "planning");
}

TEST(MeasureProgressTest, AnEvaluationWeighsAsManyTasksAsThereAreBlocks) {
  v1::Job job = JobAt(16);
  v1::PhaseProgress* evaluate = job.add_phases();
  evaluate->set_kind(v1::TASK_KIND_EVALUATE);
  evaluate->set_total(4);
  EXPECT_DOUBLE_EQ(MeasureProgress(job).fraction, 48.0 / (48 + 16));
}

TEST(ProgressDisplayTest, EtaIsNeverNegativeAndWaitsForEvidence) {
  std::ostringstream out;
  ProgressDisplay display(ProgressDisplay::Style::kLines, &out);
  const absl::Time start = absl::FromUnixSeconds(1000);
  display.Update(JobAt(8), start);
  EXPECT_FALSE(display.Eta(0.5, start + absl::Seconds(10)).has_value());
  EXPECT_EQ(display.Eta(0.75, start + absl::Seconds(10)), absl::Seconds(10));
  EXPECT_EQ(display.Eta(1.0, start + absl::Seconds(10)), absl::ZeroDuration());
  EXPECT_FALSE(display.Eta(0.4, start + absl::Seconds(10)).has_value());
}

TEST(ProgressDisplayTest, PlainLinesWhenNotOnATerminal) {
  std::ostringstream out;
  ProgressDisplay display(ProgressDisplay::Style::kLines, &out);
  const absl::Time start = absl::FromUnixSeconds(1000);
  display.Update(JobAt(0), start);
  for (int i = 1; i < 40; ++i)
    display.Update(JobAt(1), start + absl::Milliseconds(100 * i));
  display.Update(JobAt(8, 3), start + absl::Seconds(6));
  const std::string text = out.str();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2) << text;
  EXPECT_EQ(text.find('\r'), std::string::npos);
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  EXPECT_THAT(text, HasSubstr("8/16 tasks, 3 cached, 6.0s, ETA 6.0s"));
}

TEST(ProgressDisplayTest, OneLiveLineOnATerminal) {
  std::ostringstream out;
  ProgressDisplay display(ProgressDisplay::Style::kBar, &out);
  display.Update(JobAt(4), absl::FromUnixSeconds(1000));
  display.Update(JobAt(8), absl::FromUnixSeconds(1001));
  EXPECT_EQ(out.str().find('\n'), std::string::npos);
  EXPECT_THAT(out.str(), HasSubstr("[##############..............]  50% "));
  display.Finish();
  EXPECT_EQ(out.str().back(), '\n');
}

TEST(ProgressDisplayTest, ABarKeepsToTheTerminal) {
  v1::Job job = JobAt(8);
  job.mutable_phases(0)->set_note("iteration 1500 of 5000, loss 0.0123");
  const auto bar = [&](int columns) {
    std::ostringstream out;
    ProgressDisplay display(ProgressDisplay::Style::kBar, &out, columns);
    display.Update(job, absl::FromUnixSeconds(1000));
    return out.str().substr(std::string("\r\x1b[K").size());
  };
  EXPECT_THAT(bar(0), HasSubstr("..]  50% "));
  EXPECT_THAT(bar(0), HasSubstr(", loss 0.0123"));
  EXPECT_THAT(bar(90), HasSubstr("[#####.....]  50% "));
  EXPECT_EQ(bar(90).size(), 89u);
  EXPECT_EQ(bar(40).size(), 39u);
  EXPECT_EQ(bar(200), bar(0));
}

TEST(ProgressDisplayTest, QuietSaysNothing) {
  std::ostringstream out;
  ProgressDisplay display(ProgressDisplay::Style::kNone, &out);
  display.Update(JobAt(4), absl::FromUnixSeconds(1000));
  display.Finish();
  EXPECT_EQ(out.str(), "");
}

}  // namespace
}  // namespace bitwright
