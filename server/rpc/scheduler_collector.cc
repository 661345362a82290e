#include "server/rpc/scheduler_collector.h"

#include <map>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"

namespace bitwright {
namespace {

constexpr absl::Duration kJobsLifetime = absl::Seconds(10);
constexpr int kPageSize = 1000;

prometheus::MetricFamily Family(std::string name, std::string help,
                                prometheus::MetricType type) {
  prometheus::MetricFamily family;
  family.name = std::move(name);
  family.help = std::move(help);
  family.type = type;
  return family;
}

prometheus::MetricFamily Counter(std::string name, std::string help,
                                 int64_t value) {
  prometheus::MetricFamily family =
      Family(std::move(name), std::move(help), prometheus::MetricType::Counter);
  prometheus::ClientMetric metric;
  metric.counter.value = static_cast<double>(value);
  family.metric.push_back(metric);
  return family;
}

// "JOB_STATE_RUNNING" -> "running".
std::string StateLabel(absl::string_view name, absl::string_view prefix) {
  return absl::AsciiStrToLower(absl::StripPrefix(name, prefix));
}

void AddGauge(prometheus::MetricFamily* family, const std::string& state,
              int64_t value) {
  prometheus::ClientMetric metric;
  metric.label.push_back({"state", state});
  metric.gauge.value = static_cast<double>(value);
  family->metric.push_back(metric);
}

}  // namespace

prometheus::MetricFamily SchedulerCollector::Tasks() const {
  prometheus::MetricFamily family =
      Family("bitwright_tasks", "Tasks of unfinished jobs, by state.",
             prometheus::MetricType::Gauge);
  auto counts = scheduler_->CountTasks();
  if (!counts.ok()) return family;
  for (const auto& [state, count] : *counts) {
    AddGauge(&family, StateLabel(v1::TaskState_Name(state), "TASK_STATE_"),
             count);
  }
  return family;
}

prometheus::MetricFamily SchedulerCollector::Jobs() const {
  absl::MutexLock lock(&mutex_);
  if (absl::Now() - jobs_time_ < kJobsLifetime) return jobs_;
  std::map<v1::JobState, int64_t> counts;
  v1::ListJobsRequest request;
  request.set_page_size(kPageSize);
  do {
    absl::StatusOr<v1::ListJobsResponse> page = scheduler_->ListJobs(request);
    if (!page.ok()) break;
    for (const v1::Job& job : page->jobs()) ++counts[job.state()];
    request.set_page_token(page->next_page_token());
  } while (!request.page_token().empty());
  jobs_ =
      Family("bitwright_jobs", "Jobs by state.", prometheus::MetricType::Gauge);
  for (const auto& [state, count] : counts) {
    AddGauge(&jobs_, StateLabel(v1::JobState_Name(state), "JOB_STATE_"), count);
  }
  jobs_time_ = absl::Now();
  return jobs_;
}

std::vector<prometheus::MetricFamily> SchedulerCollector::Collect() const {
  const SchedulerStats stats = scheduler_->stats();
  return {
      Tasks(),
      Jobs(),
      Counter("bitwright_leases_granted_total", "Leases given to workers.",
              stats.leases_granted),
      Counter("bitwright_leases_expired_total",
              "Leases that ran out without a result.", stats.leases_expired),
      Counter("bitwright_tasks_completed_total", "Tasks that workers finished.",
              stats.tasks_completed),
      Counter("bitwright_tasks_cached_total",
              "Tasks whose result was on record already.", stats.tasks_cached),
      Counter("bitwright_tasks_failed_total", "Attempts that failed.",
              stats.tasks_failed),
      Counter("bitwright_stale_results_total",
              "Results that came under a lease that was no longer valid.",
              stats.stale_results),
      Counter("bitwright_damping_retries_total",
              "Factorizations that needed more damping.",
              stats.damping_retries),
      Counter("bitwright_diagonal_fallbacks_total",
              "Layers quantized with the Hessian's diagonal only.",
              stats.diagonal_fallbacks)};
}

}  // namespace bitwright
