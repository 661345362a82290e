// The scheduler's counters and the states of jobs and tasks, read when the
// metrics page is.
#ifndef BITWRIGHT_SERVER_RPC_SCHEDULER_COLLECTOR_H_
#define BITWRIGHT_SERVER_RPC_SCHEDULER_COLLECTOR_H_

#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>

#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/scheduler/scheduler.h"

namespace bitwright {

// Thread-safe.
class SchedulerCollector : public prometheus::Collectable {
 public:
  explicit SchedulerCollector(Scheduler* scheduler) : scheduler_(scheduler) {}
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  prometheus::MetricFamily Tasks() const;
  // Counting jobs reads them all: done again after ten seconds only.
  prometheus::MetricFamily Jobs() const;

  Scheduler* const scheduler_;
  mutable absl::Mutex mutex_;
  mutable prometheus::MetricFamily jobs_ ABSL_GUARDED_BY(mutex_);
  mutable absl::Time jobs_time_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
};

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_RPC_SCHEDULER_COLLECTOR_H_
