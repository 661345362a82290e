// What a worker counts, for Prometheus.
//
//   WorkerMetrics metrics;
//   BW_RETURN_IF_ERROR(metrics.Serve("127.0.0.1:9091"));   // GET /metrics
//   metrics.CountTask("quantize", "succeeded", absl::Seconds(2));
//
// bitwright_worker_tasks_total{kind, outcome}      outcome: succeeded, failed,
//                                                  released, cancelled
// bitwright_worker_task_seconds{kind}              histogram
// bitwright_worker_tokens_total
// bitwright_worker_uploaded_bytes_total, ..._downloaded_bytes_total
// bitwright_worker_damping_retries_total
// bitwright_worker_diagonal_fallbacks_total        (math.md §1)
// bitwright_worker_cache_lookups_total{result}     result: hit, miss
#ifndef BITWRIGHT_WORKER_RUNTIME_METRICS_H_
#define BITWRIGHT_WORKER_RUNTIME_METRICS_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "worker/runtime/executor.h"

namespace bitwright {

// Thread-safe.
class WorkerMetrics {
 public:
  WorkerMetrics();
  ~WorkerMetrics();

  // Answers HTTP on "host:port" until destroyed. UNAVAILABLE if the address
  // cannot be had. Call at most once.
  absl::Status Serve(const std::string& address);

  void CountTask(absl::string_view kind, absl::string_view outcome,
                 absl::Duration seconds);
  void Count(const TaskCounters& counters);
  void AddBytesUp(uint64_t bytes);
  void AddBytesDown(uint64_t bytes);
  void CountCache(bool hit);

  // The page, as text.
  std::string Render() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// "forward" for TASK_KIND_FORWARD.
std::string KindName(v1::TaskKind kind);

}  // namespace bitwright

#endif  // BITWRIGHT_WORKER_RUNTIME_METRICS_H_
