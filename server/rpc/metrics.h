// The server's metrics page: what Prometheus reads from /metrics.
//
//   Metrics metrics;
//   builder.experimental().SetInterceptorCreators(metrics.Interceptors());
//   BW_RETURN_IF_ERROR(metrics.Serve("127.0.0.1:9464", &scheduler));
#ifndef BITWRIGHT_SERVER_RPC_METRICS_H_
#define BITWRIGHT_SERVER_RPC_METRICS_H_

#include <grpcpp/support/server_interceptor.h>
#include <prometheus/counter.h>
#include <prometheus/exposer.h>
#include <prometheus/family.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/scheduler/scheduler.h"

namespace bitwright {

class SchedulerCollector;

// Thread-safe.
class Metrics {
 public:
  Metrics();
  ~Metrics();

  // Serves /metrics on "host:port"; port 0 takes a free one, see address().
  // ABORTED if it cannot listen there. `scheduler` must outlive this object.
  absl::Status Serve(const std::string& address, Scheduler* scheduler);
  const std::string& address() const { return address_; }

  void BlobBytesIn(uint64_t bytes) { bytes_in_->Increment(bytes); }
  void BlobBytesOut(uint64_t bytes) { bytes_out_->Increment(bytes); }

  // Measures every call, unary and streaming, by method. The metrics must
  // outlive the gRPC server.
  std::vector<
      std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>>
  Interceptors();
  void CallDone(const std::string& method, grpc::StatusCode code,
                absl::Duration latency);

 private:
  std::shared_ptr<prometheus::Registry> registry_;
  prometheus::Counter* bytes_in_;
  prometheus::Counter* bytes_out_;
  prometheus::Family<prometheus::Histogram>* latency_;
  prometheus::Family<prometheus::Counter>* calls_;
  std::shared_ptr<SchedulerCollector> collector_;
  std::unique_ptr<prometheus::Exposer> exposer_;
  std::string address_;
};

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_RPC_METRICS_H_
