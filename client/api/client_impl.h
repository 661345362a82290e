// What Client's files share: the stubs, and the one way in which a unary call
// is made.
#ifndef BITWRIGHT_CLIENT_API_CLIENT_IMPL_H_
#define BITWRIGHT_CLIENT_API_CLIENT_IMPL_H_

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <memory>
#include <string>

#include "absl/random/random.h"
#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "bitwright/v1/blob.grpc.pb.h"
#include "bitwright/v1/checkpoint.grpc.pb.h"
#include "bitwright/v1/job.grpc.pb.h"
#include "bitwright/v1/server_info.grpc.pb.h"
#include "bitwright/v1/worker.grpc.pb.h"
#include "client/api/client.h"
#include "proto/status_conversion.h"

namespace bitwright {

// Exponential backoff with jitter for one operation, bounded in time from the
// first failure after the last progress.
class Backoff {
 public:
  explicit Backoff(absl::Duration retry_for) : retry_for_(retry_for) {}

  // Sleeps and returns true, or false if the time is up.
  bool Wait() {
    const absl::Time now = absl::Now();
    if (first_failure_ == absl::InfinitePast()) first_failure_ = now;
    const absl::Duration left = first_failure_ + retry_for_ - now;
    if (left <= absl::ZeroDuration()) return false;
    absl::SleepFor(std::min(left, delay_ * absl::Uniform(random_, 0.5, 1.0)));
    delay_ = std::min(delay_ * 2, absl::Seconds(3));
    return true;
  }
  void Progress() {
    first_failure_ = absl::InfinitePast();
    delay_ = absl::Milliseconds(100);
  }

 private:
  const absl::Duration retry_for_;
  absl::Time first_failure_ = absl::InfinitePast();
  absl::Duration delay_ = absl::Milliseconds(100);
  absl::BitGen random_;
};

struct ClientCore {
  ClientOptions options;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::QuantizationService::Stub> jobs;
  std::unique_ptr<v1::BlobService::Stub> blobs;
  std::unique_ptr<v1::CheckpointService::Stub> checkpoints;
  std::unique_ptr<v1::ServerInfoService::Stub> info;
  std::unique_ptr<v1::WorkerService::Stub> workers;

  static void SetTimeout(grpc::ClientContext* context, absl::Duration timeout) {
    context->set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  }

  // The server's message; UNAVAILABLE also names the address.
  absl::Status Convert(const grpc::Status& status) const;

  // stub->*method with the given deadline for each attempt, again while
  // UNAVAILABLE.
  template <typename Stub, typename Request, typename Response>
  absl::Status Call(Stub* stub,
                    grpc::Status (Stub::*method)(grpc::ClientContext*,
                                                 const Request&, Response*),
                    const Request& request, Response* response,
                    absl::Duration timeout) const {
    Backoff backoff(options.retry_for);
    while (true) {
      grpc::ClientContext context;
      SetTimeout(&context, timeout);
      absl::Status status =
          Convert((stub->*method)(&context, request, response));
      if (!absl::IsUnavailable(status) || !backoff.Wait()) return status;
    }
  }
  template <typename Stub, typename Request, typename Response>
  absl::Status Call(Stub* stub,
                    grpc::Status (Stub::*method)(grpc::ClientContext*,
                                                 const Request&, Response*),
                    const Request& request, Response* response) const {
    return Call(stub, method, request, response, options.call_timeout);
  }
};

struct Client::Impl : ClientCore {};

}  // namespace bitwright

#endif  // BITWRIGHT_CLIENT_API_CLIENT_IMPL_H_
