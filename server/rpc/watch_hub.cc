#include "server/rpc/watch_hub.h"

#include <utility>
#include <vector>

#include "proto/status_conversion.h"

namespace bitwright {
namespace {

bool IsTerminal(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_FAILED ||
         state == v1::JOB_STATE_CANCELLED;
}

}  // namespace

// One stream. gRPC may call back on the thread that starts an operation, so no
// operation is started under the mutex: what to do is decided there, and done
// after it.
class WatchHub::Watcher : public grpc::ServerWriteReactor<v1::Job> {
 public:
  Watcher(WatchHub* hub, const v1::WatchJobRequest& request)
      : hub_(hub), job_name_(request.name()), sent_(request.after_sequence()) {}

  const std::string& job_name() const { return job_name_; }

  // Sends the snapshot unless it is old or another one is on its way.
  void Offer(const v1::Job& job) {
    bool write, last;
    {
      absl::MutexLock lock(&mutex_);
      if (finished_ || writing_) return;
      write = job.sequence() > sent_;
      last = IsTerminal(job.state());
      if (!write && !last) return;
      if (write) {
        sent_ = job.sequence();
        job_ = job;
        writing_ = true;
      }
      finished_ = last;
    }
    if (write && last) {
      StartWriteAndFinish(&job_, grpc::WriteOptions(), grpc::Status::OK);
    } else if (write) {
      StartWrite(&job_);
    } else {
      Finish(grpc::Status::OK);
    }
  }

  // Ends the stream once no write is on its way.
  void End(const grpc::Status& status) {
    {
      absl::MutexLock lock(&mutex_);
      if (finished_) return;
      if (writing_) {
        if (!ending_) end_status_ = status;
        ending_ = true;
        return;
      }
      finished_ = true;
    }
    Finish(status);
  }

  void OnWriteDone(bool ok) override {
    bool end;
    grpc::Status status;
    {
      absl::MutexLock lock(&mutex_);
      writing_ = false;
      end = !finished_ && (ending_ || !ok);
      if (end) finished_ = true;
      status = ending_ ? end_status_ : grpc::Status::CANCELLED;
    }
    if (end) {
      Finish(status);
    } else {
      hub_->Changed();  // There may be a newer snapshot by now.
    }
  }
  void OnCancel() override { End(grpc::Status::CANCELLED); }
  void OnDone() override { hub_->Remove(this); }

 private:
  WatchHub* const hub_;
  const std::string job_name_;
  absl::Mutex mutex_;
  int64_t sent_ ABSL_GUARDED_BY(mutex_);  // Sequence.
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;    // As soon as writing ends.
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;  // Finish is called.
  grpc::Status end_status_ ABSL_GUARDED_BY(mutex_);
  v1::Job job_;  // Unchanged while writing_.
};

WatchHub::WatchHub(Scheduler* scheduler)
    : scheduler_(scheduler), loop_([this] { return Sweep(); }) {}

grpc::ServerWriteReactor<v1::Job>* WatchHub::Watch(
    const v1::WatchJobRequest& request) {
  auto watcher = std::make_shared<Watcher>(this, request);
  bool stopped;
  {
    absl::MutexLock lock(&mutex_);
    watchers_[watcher.get()] = watcher;
    stopped = stopped_;
  }
  if (stopped) {
    watcher->End(
        ToGrpcStatus(absl::UnavailableError("the server is shutting down")));
  } else {
    loop_.Wake();
  }
  return watcher.get();  // Until OnDone.
}

void WatchHub::Remove(Watcher* watcher) {
  std::shared_ptr<Watcher> removed;  // Destroyed after the lock.
  absl::MutexLock lock(&mutex_);
  auto it = watchers_.find(watcher);
  if (it == watchers_.end()) return;
  removed = std::move(it->second);
  watchers_.erase(it);
}

void WatchHub::Stop() {
  loop_.Stop();
  std::vector<std::shared_ptr<Watcher>> watchers;
  {
    absl::MutexLock lock(&mutex_);
    stopped_ = true;
    for (auto& [unused, watcher] : watchers_) watchers.push_back(watcher);
  }
  for (auto& watcher : watchers) {
    watcher->End(
        ToGrpcStatus(absl::UnavailableError("the server is shutting down")));
  }
}

WakeableLoop::Next WatchHub::Sweep() {
  absl::flat_hash_map<std::string, std::vector<std::shared_ptr<Watcher>>>
      by_job;
  {
    absl::MutexLock lock(&mutex_);
    for (auto& [unused, watcher] : watchers_) {
      by_job[watcher->job_name()].push_back(watcher);
    }
  }
  for (auto& [name, watchers] : by_job) {
    const absl::StatusOr<v1::Job> job = scheduler_->GetJob(name);
    for (auto& watcher : watchers) {
      if (job.ok()) {
        watcher->Offer(*job);
      } else {
        watcher->End(ToGrpcStatus(job.status()));
      }
    }
  }
  return {.earliest = absl::Milliseconds(200), .latest = absl::Seconds(1)};
}

}  // namespace bitwright
