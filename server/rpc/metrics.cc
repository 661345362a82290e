#include "server/rpc/metrics.h"

#include <exception>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/rpc/scheduler_collector.h"

namespace bitwright {
namespace {

const prometheus::Histogram::BucketBoundaries kLatencyBuckets = {
    0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100};

class LatencyInterceptor : public grpc::experimental::Interceptor {
 public:
  LatencyInterceptor(Metrics* metrics, std::string method)
      : metrics_(metrics), method_(std::move(method)) {}
  ~LatencyInterceptor() override {
    metrics_->CallDone(method_, code_, absl::Now() - start_);
  }

  void Intercept(
      grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(
            grpc::experimental::InterceptionHookPoints::PRE_SEND_STATUS)) {
      code_ = methods->GetSendStatus().error_code();
    }
    methods->Proceed();
  }

 private:
  Metrics* const metrics_;
  const std::string method_;
  const absl::Time start_ = absl::Now();
  grpc::StatusCode code_ = grpc::StatusCode::CANCELLED;  // No status was sent.
};

class LatencyInterceptorFactory
    : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit LatencyInterceptorFactory(Metrics* metrics) : metrics_(metrics) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    return new LatencyInterceptor(metrics_, info->method());
  }

 private:
  Metrics* const metrics_;
};

}  // namespace

Metrics::Metrics() : registry_(std::make_shared<prometheus::Registry>()) {
  auto& bytes = prometheus::BuildCounter()
                    .Name("bitwright_blob_bytes_total")
                    .Help("Bytes of blobs sent and received.")
                    .Register(*registry_);
  bytes_in_ = &bytes.Add({{"direction", "in"}});
  bytes_out_ = &bytes.Add({{"direction", "out"}});
  latency_ = &prometheus::BuildHistogram()
                  .Name("bitwright_rpc_seconds")
                  .Help("Time from a call's start to its end, by method.")
                  .Register(*registry_);
  calls_ = &prometheus::BuildCounter()
                .Name("bitwright_rpcs_total")
                .Help("Calls by method and status code.")
                .Register(*registry_);
  prometheus::BuildGauge()
      .Name("bitwright_build_info")
      .Help("1, with the version as a label.")
      .Register(*registry_)
      .Add({{"version", BITWRIGHT_VERSION}, {"process", "server"}})
      .Set(1);
}

Metrics::~Metrics() = default;

absl::Status Metrics::Serve(const std::string& address, Scheduler* scheduler) {
  try {
    exposer_ = std::make_unique<prometheus::Exposer>(address);
    collector_ = std::make_shared<SchedulerCollector>(scheduler);
    exposer_->RegisterCollectable(registry_);
    exposer_->RegisterCollectable(collector_);
    const std::vector<int> ports = exposer_->GetListeningPorts();
    const std::string host = address.substr(0, address.rfind(':') + 1);
    address_ = ports.empty() ? address : absl::StrCat(host, ports.front());
  } catch (const std::exception& error) {
    return absl::AbortedError(
        absl::StrCat("cannot serve metrics on ", address, ": ", error.what()));
  }
  return absl::OkStatus();
}

std::vector<
    std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>>
Metrics::Interceptors() {
  std::vector<
      std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>>
      creators;
  creators.push_back(std::make_unique<LatencyInterceptorFactory>(this));
  return creators;
}

void Metrics::CallDone(const std::string& method, grpc::StatusCode code,
                       absl::Duration latency) {
  latency_->Add({{"method", method}}, kLatencyBuckets)
      .Observe(absl::ToDoubleSeconds(latency));
  calls_->Add({{"method", method}, {"code", absl::StrCat(code)}}).Increment();
}

}  // namespace bitwright
