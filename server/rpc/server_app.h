// The whole coordinator in one object: stores, scheduler, background work and
// the gRPC server. main.cc adds a command line and signals, nothing else.
//
//   BW_ASSIGN_OR_RETURN(auto server, ServerApp::Start(options));
//   ... server->addresses() ...
//   server->Shutdown();
#ifndef BITWRIGHT_SERVER_RPC_SERVER_APP_H_
#define BITWRIGHT_SERVER_RPC_SERVER_APP_H_

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/rpc/blob_service.h"
#include "server/rpc/checkpoint_service.h"
#include "server/rpc/digest_cache.h"
#include "server/rpc/lease_dispatcher.h"
#include "server/rpc/listen_address.h"
#include "server/rpc/metrics.h"
#include "server/rpc/model_source.h"
#include "server/rpc/planning_loop.h"
#include "server/rpc/quantization_service.h"
#include "server/rpc/server_options.h"
#include "server/rpc/state_lock.h"
#include "server/rpc/wakeable_loop.h"
#include "server/rpc/watch_hub.h"
#include "server/rpc/worker_service.h"
#include "server/scheduler/scheduler.h"
#include "server/store/blob_store.h"
#include "server/store/job_store.h"

namespace bitwright {

class ServerApp {
 public:
  // Serves when it returns. INVALID_ARGUMENT: bad options; PERMISSION_DENIED: a
  // remote address without consent, or the state directory; anything else: the
  // machine does not allow it now (directory or address in use, disk full).
  static absl::StatusOr<std::unique_ptr<ServerApp>> Start(
      const ServerOptions& options);
  ~ServerApp() { Shutdown(); }

  // As bound, with real port numbers.
  const std::vector<std::string>& addresses() const { return addresses_; }
  const std::string& metrics_address() const { return metrics_.address(); }

  // Ends long polls and watches with UNAVAILABLE, gives other calls three
  // seconds, and stops. Leases stay: workers go on when the server is back.
  void Shutdown();

 private:
  ServerApp() = default;
  absl::Status ParseAddresses(const ServerOptions& options);
  absl::Status OpenStores(const ServerOptions& options);
  void StartScheduler(const ServerOptions& options);
  absl::Status Serve(const ServerOptions& options);
  // A job changed, or there is work.
  void Changed();

  std::vector<ListenAddress> listen_;
  std::vector<std::string> addresses_;
  std::unique_ptr<StateLock> lock_;
  std::unique_ptr<JobStore> jobs_;
  std::unique_ptr<BlobStore> blobs_;
  std::unique_ptr<DigestCache> digests_;
  ModelRoots roots_;
  Metrics metrics_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unique_ptr<LeaseDispatcher> dispatcher_;
  std::unique_ptr<WatchHub> hub_;
  std::unique_ptr<PlanningLoop> planning_;
  std::unique_ptr<WakeableLoop> reaper_;
  std::atomic<bool> started_{false};  // All of the above exist.
  std::unique_ptr<QuantizationServiceImpl> quantization_service_;
  std::unique_ptr<WorkerServiceImpl> worker_service_;
  std::unique_ptr<BlobServiceImpl> blob_service_;
  std::unique_ptr<CheckpointServiceImpl> checkpoint_service_;
  std::unique_ptr<ServerInfoServiceImpl> info_service_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_RPC_SERVER_APP_H_
