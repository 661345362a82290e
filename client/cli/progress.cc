#include "client/cli/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "client/cli/console.h"

namespace bitwright {
namespace {

constexpr int kLeastBarWidth = 10;
constexpr absl::Duration kLineInterval = absl::Seconds(5);

std::string ShortName(absl::string_view name, absl::string_view prefix) {
  absl::ConsumePrefix(&name, prefix);
  return absl::AsciiStrToLower(name);
}

// Rough cost of one task relative to the others: an evaluation runs every
// block, a forward two of them.
double Weight(v1::TaskKind kind, int blocks, const v1::JobSpec& spec) {
  switch (kind) {
    case v1::TASK_KIND_FORWARD:
      return 3;
    case v1::TASK_KIND_GRADIENT:
      return 4;
    case v1::TASK_KIND_EVALUATE:
      return std::max(1, blocks);
    case v1::TASK_KIND_RESPONSE:  // From its block on: half of them.
      return 2 * std::max(1, blocks);
    case v1::TASK_KIND_RECONSTRUCT: {
      // An iteration is a forward and a backward of its windows.
      const v1::HybridSpec& hybrid = spec.method().ratio().hybrid();
      const v1::CalibrationSpec& calibration = spec.calibration();
      const double windows = static_cast<double>(calibration.nsamples()) /
                             std::max(1, calibration.shards());
      return 3.0 * hybrid.iterations() * hybrid.batch() /
             std::max(1.0, windows);
    }
    default:
      return 1;
  }
}

}  // namespace

std::string JobStateName(v1::JobState state) {
  return ShortName(v1::JobState_Name(state), "JOB_STATE_");
}
std::string TaskStateName(v1::TaskState state) {
  return ShortName(v1::TaskState_Name(state), "TASK_STATE_");
}
std::string TaskKindName(v1::TaskKind kind) {
  return ShortName(v1::TaskKind_Name(kind), "TASK_KIND_");
}

JobProgress MeasureProgress(const v1::Job& job) {
  JobProgress progress;
  // Forwards may come twice for a block.
  int forwards = 0, gradients = 0;
  const int shards = std::max(1, job.spec().calibration().shards());
  for (const v1::PhaseProgress& phase : job.phases()) {
    if (phase.kind() == v1::TASK_KIND_FORWARD) forwards = phase.total();
    if (phase.kind() == v1::TASK_KIND_GRADIENT) gradients = phase.total();
  }
  const int blocks = (gradients > 0 ? gradients : forwards) / shards;
  double done = 0, total = 0;
  std::vector<std::string> running;
  for (const v1::PhaseProgress& phase : job.phases()) {
    const double weight = Weight(phase.kind(), blocks, job.spec());
    done += weight * (phase.done() + phase.running_done());
    total += weight * phase.total();
    progress.total += phase.total();
    progress.done += phase.done();
    progress.cached += phase.cached();
    if (phase.running() > 0) running.push_back(TaskKindName(phase.kind()));
    if (!phase.note().empty()) progress.note = phase.note();
  }
  progress.fraction = total > 0 ? done / total : 0;
  progress.phase = running.empty() || job.state() == v1::JOB_STATE_SUCCEEDED
                       ? JobStateName(job.state())
                       : absl::StrJoin(running, "+");
  return progress;
}

ProgressDisplay::Style ProgressDisplay::StderrStyle() {
  return isatty(STDERR_FILENO) ? Style::kBar : Style::kLines;
}

int ProgressDisplay::StderrColumns() {
  winsize size = {};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

std::optional<absl::Duration> ProgressDisplay::Eta(double fraction,
                                                   absl::Time now) const {
  const double gained = fraction - start_fraction_;
  if (gained <= 0 || now <= start_time_) return std::nullopt;
  return (now - start_time_) * std::max(0.0, (1 - fraction) / gained);
}

std::string ProgressDisplay::Describe(const JobProgress& progress,
                                      absl::Time now) const {
  std::string text = absl::StrFormat("%-18s %d/%d tasks", progress.phase,
                                     progress.done, progress.total);
  if (progress.cached > 0)
    absl::StrAppend(&text, ", ", progress.cached, " cached");
  absl::StrAppend(&text, ", ", HumanDuration(now - start_time_));
  if (std::optional<absl::Duration> eta = Eta(progress.fraction, now);
      eta.has_value() && progress.fraction < 1) {
    absl::StrAppend(&text, ", ETA ", HumanDuration(*eta));
  }
  if (!progress.note.empty()) absl::StrAppend(&text, ", ", progress.note);
  return text;
}

std::string ProgressDisplay::Bar(const JobProgress& progress, absl::Time now) {
  const std::string text =
      absl::StrFormat("] %3d%% ", static_cast<int>(progress.fraction * 100)) +
      Describe(progress, now);
  // A line that wraps could not be overwritten.
  const int size = static_cast<int>(text.size());
  const int room = columns_ == 0 ? 1 + bar_width_ + size : columns_ - 1;
  bar_width_ = std::max(kLeastBarWidth, std::min(bar_width_, room - 1 - size));
  const int filled = static_cast<int>(progress.fraction * bar_width_);
  return absl::StrCat("[", std::string(filled, '#'),
                      std::string(bar_width_ - filled, '.'), text)
      .substr(0, room);
}

void ProgressDisplay::Update(const v1::Job& job, absl::Time now) {
  if (style_ == Style::kNone) return;
  const JobProgress progress = MeasureProgress(job);
  if (start_time_ == absl::InfinitePast() || start_time_ > now) {
    start_time_ = now;
    start_fraction_ = progress.fraction;
  }
  if (style_ == Style::kBar) {
    *out_ << "\r\x1b[K" << Bar(progress, now) << std::flush;
    line_open_ = true;
    return;
  }
  if (progress.phase == last_phase_ && now - last_line_time_ < kLineInterval)
    return;
  if (now - last_line_time_ < absl::Seconds(1) &&
      progress.done != progress.total)
    return;
  last_phase_ = progress.phase;
  last_line_time_ = now;
  *out_ << Describe(progress, now) << std::endl;
}

void ProgressDisplay::Finish() {
  if (line_open_) *out_ << "\n" << std::flush;
  line_open_ = false;
}

}  // namespace bitwright
