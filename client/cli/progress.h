// Progress of a job on stderr: one live line with a bar and an ETA on a
// terminal, plain lines otherwise.
//
//   ProgressDisplay display(ProgressDisplay::StderrStyle(), &std::cerr);
//   display.Update(job, absl::Now());   // As often as you like.
//   display.Finish();
#ifndef BITWRIGHT_CLIENT_CLI_PROGRESS_H_
#define BITWRIGHT_CLIENT_CLI_PROGRESS_H_

#include <optional>
#include <ostream>
#include <string>

#include "absl/time/time.h"
#include "bitwright/v1/job.pb.h"

namespace bitwright {

std::string JobStateName(v1::JobState state);    // "running"
std::string TaskStateName(v1::TaskState state);  // "ready"
std::string TaskKindName(v1::TaskKind kind);     // "forward"

// How far the job is, from its phases. Kinds weigh differently.
struct JobProgress {
  int total = 0, done = 0, cached = 0;
  double fraction = 0;  // Weighted, in [0, 1].
  std::string phase;    // Kinds that are running, or the job's state.
  std::string note;     // What a running task says of itself.
};
JobProgress MeasureProgress(const v1::Job& job);

class ProgressDisplay {
 public:
  enum class Style { kNone, kLines, kBar };
  // kBar if stderr is a terminal.
  static Style StderrStyle();

  // The terminal's width; 0 if stderr is none.
  static int StderrColumns();

  // A bar's line is kept to `columns`, unless that is 0.
  ProgressDisplay(Style style, std::ostream* out, int columns = 0)
      : style_(style), columns_(columns), out_(out) {}
  void Update(const v1::Job& job, absl::Time now);
  // Leaves the cursor at the start of a fresh line.
  void Finish();

  // Time to the end at the rate since the first update; nullopt until there is
  // something to go by.
  std::optional<absl::Duration> Eta(double fraction, absl::Time now) const;

 private:
  std::string Describe(const JobProgress& progress, absl::Time now) const;
  std::string Bar(const JobProgress& progress, absl::Time now);

  Style style_;
  int columns_;
  int bar_width_ = 28;  // Only ever shrinks.
  std::ostream* out_;
  absl::Time start_time_ = absl::InfinitePast();
  double start_fraction_ = 0;
  absl::Time last_line_time_ = absl::InfinitePast();
  std::string last_phase_;
  bool line_open_ = false;
};

}  // namespace bitwright

#endif  // BITWRIGHT_CLIENT_CLI_PROGRESS_H_
