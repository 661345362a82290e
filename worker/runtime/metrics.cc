#include "worker/runtime/metrics.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/status_macros.h"
#include "prometheus/counter.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "prometheus/text_serializer.h"
#include "worker/runtime/http_page.h"

namespace bitwright {
namespace {

prometheus::Family<prometheus::Counter>& CounterFamily(
    prometheus::Registry& registry, const std::string& name,
    const std::string& help) {
  return prometheus::BuildCounter()
      .Name(absl::StrCat("bitwright_worker_", name))
      .Help(help)
      .Register(registry);
}

}  // namespace

struct WorkerMetrics::Impl {
  std::shared_ptr<prometheus::Registry> registry =
      std::make_shared<prometheus::Registry>();
  prometheus::Family<prometheus::Counter>& tasks = CounterFamily(
      *registry, "tasks_total", "Tasks that ended, by kind and outcome.");
  prometheus::Family<prometheus::Histogram>& seconds =
      prometheus::BuildHistogram()
          .Name("bitwright_worker_task_seconds")
          .Help("Time to compute a task, without its transfers.")
          .Register(*registry);
  prometheus::Counter& tokens =
      CounterFamily(*registry, "tokens_total", "Tokens processed.").Add({});
  prometheus::Counter& up =
      CounterFamily(*registry, "uploaded_bytes_total", "Bytes of results.")
          .Add({});
  prometheus::Counter& down =
      CounterFamily(*registry, "downloaded_bytes_total", "Bytes of inputs.")
          .Add({});
  prometheus::Counter& damping_retries =
      CounterFamily(*registry, "damping_retries_total",
                    "Factorizations repeated with more damping.")
          .Add({});
  prometheus::Counter& fallbacks =
      CounterFamily(*registry, "diagonal_fallbacks_total",
                    "Linears quantized with the Hessian's diagonal only.")
          .Add({});
  prometheus::Family<prometheus::Counter>& cache = CounterFamily(
      *registry, "cache_lookups_total", "Inputs looked up in the blob cache.");
  prometheus::Counter& hits = cache.Add({{"result", "hit"}});
  prometheus::Counter& misses = cache.Add({{"result", "miss"}});
  std::unique_ptr<HttpPage> page;
};

WorkerMetrics::WorkerMetrics() : impl_(std::make_unique<Impl>()) {}
WorkerMetrics::~WorkerMetrics() = default;

absl::Status WorkerMetrics::Serve(const std::string& address) {
  BW_ASSIGN_OR_RETURN(impl_->page, HttpPage::Serve(address, "/metrics", [this] {
                        return Render();
                      }));
  return absl::OkStatus();
}

void WorkerMetrics::CountTask(absl::string_view kind, absl::string_view outcome,
                              absl::Duration seconds) {
  impl_->tasks
      .Add({{"kind", std::string(kind)}, {"outcome", std::string(outcome)}})
      .Increment();
  if (seconds <= absl::ZeroDuration()) return;  // It never ran.
  static const auto* const kBuckets =
      new prometheus::Histogram::BucketBoundaries{0.01, 0.1, 0.3, 1,    3,   10,
                                                  30,   100, 300, 1000, 3000};
  impl_->seconds.Add({{"kind", std::string(kind)}}, *kBuckets)
      .Observe(absl::ToDoubleSeconds(seconds));
}

void WorkerMetrics::Count(const TaskCounters& counters) {
  impl_->tokens.Increment(counters.tokens);
  impl_->damping_retries.Increment(counters.damping_retries);
  impl_->fallbacks.Increment(counters.diagonal_fallbacks);
}

void WorkerMetrics::AddBytesUp(uint64_t bytes) { impl_->up.Increment(bytes); }
void WorkerMetrics::AddBytesDown(uint64_t bytes) {
  impl_->down.Increment(bytes);
}
void WorkerMetrics::CountCache(bool hit) {
  (hit ? impl_->hits : impl_->misses).Increment();
}

std::string WorkerMetrics::Render() const {
  return prometheus::TextSerializer().Serialize(impl_->registry->Collect());
}

std::string KindName(v1::TaskKind kind) {
  const std::string name = v1::TaskKind_Name(kind);
  return absl::AsciiStrToLower(absl::StripPrefix(name, "TASK_KIND_"));
}

}  // namespace bitwright
