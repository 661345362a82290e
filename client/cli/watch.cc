#include "client/cli/watch.h"

#include <iostream>
#include <memory>
#include <optional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "client/cli/interrupt.h"
#include "client/cli/progress.h"
#include "common/base/status_macros.h"

namespace bitwright {
namespace {

constexpr absl::Duration kFrame = absl::Milliseconds(100);

// The stream's thread writes, the display's thread reads.
class LatestJob {
 public:
  // False once nobody looks any more.
  bool Set(const v1::Job& job) {
    absl::MutexLock lock(&mutex_);
    job_ = job;
    return !abandoned_;
  }
  void End(absl::StatusOr<v1::Job> result) {
    absl::MutexLock lock(&mutex_);
    result_ = std::move(result);
  }
  void Abandon() {
    absl::MutexLock lock(&mutex_);
    abandoned_ = true;
  }
  std::optional<v1::Job> job() const {
    absl::MutexLock lock(&mutex_);
    return job_;
  }
  // The watch's result, once there is one or `wait` has passed.
  std::optional<absl::StatusOr<v1::Job>> AwaitResult(
      absl::Duration wait) const {
    absl::MutexLock lock(&mutex_);
    mutex_.AwaitWithTimeout(
        absl::Condition(
            +[](const std::optional<absl::StatusOr<v1::Job>>* result) {
              return result->has_value();
            },
            &result_),
        wait);
    return result_;
  }

 private:
  mutable absl::Mutex mutex_;
  std::optional<v1::Job> job_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::StatusOr<v1::Job>> result_ ABSL_GUARDED_BY(mutex_);
  bool abandoned_ ABSL_GUARDED_BY(mutex_) = false;
};

absl::Status WhyStop(const WatchOptions& options, absl::Time deadline) {
  if (Interrupted() != 0) return absl::CancelledError("interrupted");
  if (absl::Now() > deadline) {
    return absl::DeadlineExceededError(
        absl::StrCat("the job did not end within ",
                     absl::FormatDuration(options.timeout), "; it goes on"));
  }
  return options.check ? options.check() : absl::OkStatus();
}

}  // namespace

absl::StatusOr<v1::Job> WatchToEnd(std::shared_ptr<Client> client,
                                   const std::string& job,
                                   const WatchOptions& options) {
  auto latest = std::make_shared<LatestJob>();
  // The stream may be silent for long, so it gets a thread of its own. When we
  // leave early the process ends soon after, and the thread is left behind; it
  // touches only what it shares the ownership of.
  std::thread stream([client, job, latest] {
    latest->End(client->WatchJob(
        job, 0, [&](const v1::Job& now) { return latest->Set(now); }));
  });
  ProgressDisplay display(options.quiet ? ProgressDisplay::Style::kNone
                                        : ProgressDisplay::StderrStyle(),
                          &std::cerr, ProgressDisplay::StderrColumns());
  const absl::Time deadline = absl::Now() + options.timeout;
  while (true) {
    std::optional<absl::StatusOr<v1::Job>> result = latest->AwaitResult(kFrame);
    if (std::optional<v1::Job> now = latest->job(); now.has_value()) {
      display.Update(*now, absl::Now());
    }
    if (result.has_value()) {
      display.Finish();
      stream.join();
      return *std::move(result);
    }
    if (absl::Status why = WhyStop(options, deadline); !why.ok()) {
      display.Finish();
      latest->Abandon();
      stream.detach();
      return why;
    }
  }
}

absl::StatusOr<v1::Job> CreateOrContinue(Client* client,
                                         const v1::CreateJobRequest& request) {
  BW_ASSIGN_OR_RETURN(v1::Job job, client->CreateJob(request));
  // A cancellation may still be waiting for a worker to let go.
  while (job.state() == v1::JOB_STATE_CANCELLING && Interrupted() == 0) {
    absl::SleepFor(kFrame);
    BW_ASSIGN_OR_RETURN(job, client->GetJob(job.name()));
  }
  if (job.state() == v1::JOB_STATE_FAILED ||
      job.state() == v1::JOB_STATE_CANCELLED) {
    return client->RetryJob(job.name());
  }
  return job;
}

bool IsTerminal(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED ||
         state == v1::JOB_STATE_CANCELLED;
}

}  // namespace bitwright
