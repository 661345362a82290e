#include "server/rpc/server_app.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/impl/server_builder_option.h>
#include <grpcpp/impl/server_builder_plugin.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/random/random.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "common/base/clock.h"
#include "common/base/status_macros.h"
#include "proto/grpc_lifetime.h"

namespace bitwright {
namespace {

constexpr int kMaxRequestBytes = 4 << 20;
constexpr int kMaxResponseBytes = 64 << 20;
constexpr absl::Duration kShutdownGrace = absl::Seconds(3);

// The reflection library enters itself into every server of a program that
// links it. This takes it out again.
class WithoutReflection : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>*
                         plugins) override {
    plugins->erase(std::remove_if(plugins->begin(), plugins->end(),
                                  [](const auto& plugin) {
                                    return absl::StrContains(plugin->name(),
                                                             "reflection");
                                  }),
                   plugins->end());
  }
};

void SetLimits(grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(kMaxRequestBytes);
  builder->SetMaxSendMessageSize(kMaxResponseBytes);
  // A second server on one port is an error, not a sharer of its traffic.
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // Clients ping every 30 s; peers that vanished are found within 80 s.
  builder->AddChannelArgument(
      GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60'000);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
}

std::string RandomInstance() {
  absl::BitGen random;
  return absl::StrFormat("%016x", absl::Uniform<uint64_t>(random));
}

}  // namespace

absl::StatusOr<std::unique_ptr<ServerApp>> ServerApp::Start(
    const ServerOptions& options) {
  std::unique_ptr<ServerApp> app(new ServerApp);
  BW_RETURN_IF_ERROR(app->ParseAddresses(options));
  BW_ASSIGN_OR_RETURN(app->roots_, ModelRoots::Create(options.model_roots));
  BW_RETURN_IF_ERROR(app->OpenStores(options));
  app->StartScheduler(options);
  BW_RETURN_IF_ERROR(app->Serve(options));
  if (!options.metrics_address.empty()) {
    BW_RETURN_IF_ERROR(
        app->metrics_.Serve(options.metrics_address, app->scheduler_.get()));
  }
  return app;
}

absl::Status ServerApp::ParseAddresses(const ServerOptions& options) {
  if (options.listen.empty()) {
    return absl::InvalidArgumentError("there is no address to listen on");
  }
  for (const std::string& text : options.listen) {
    BW_ASSIGN_OR_RETURN(ListenAddress address, ListenAddress::Parse(text));
    if (!address.is_local() && !options.insecure_allow_remote) {
      return absl::PermissionDeniedError(absl::StrCat(
          "other machines can reach ", text,
          ", and this version has neither TLS nor access tokens; listen on "
          "127.0.0.1 or a unix: socket, or give --insecure-allow-remote"));
    }
    listen_.push_back(std::move(address));
  }
  return absl::OkStatus();
}

absl::Status ServerApp::OpenStores(const ServerOptions& options) {
  const std::string& dir = options.state_dir;
  if (dir.empty()) {
    return absl::InvalidArgumentError("the state directory is empty");
  }
  BW_ASSIGN_OR_RETURN(lock_, StateLock::Acquire(dir));
  BW_ASSIGN_OR_RETURN(jobs_, OpenSqliteJobStore(absl::StrCat(dir, "/jobs.db")));
  BW_ASSIGN_OR_RETURN(blobs_, OpenFileBlobStore(absl::StrCat(dir, "/store")));
  BW_ASSIGN_OR_RETURN(DigestCache digests,
                      DigestCache::Open(absl::StrCat(dir, "/digests")));
  digests_ = std::make_unique<DigestCache>(std::move(digests));
  return absl::OkStatus();
}

void ServerApp::StartScheduler(const ServerOptions& options) {
  scheduler_ =
      std::make_unique<Scheduler>(jobs_.get(), blobs_.get(), Clock::Real(),
                                  options.scheduler, [this] { Changed(); });
  dispatcher_ = std::make_unique<LeaseDispatcher>(scheduler_.get());
  hub_ = std::make_unique<WatchHub>(scheduler_.get());
  planning_ = std::make_unique<PlanningLoop>(scheduler_.get(), blobs_.get(),
                                             &roots_, digests_.get());
  reaper_ = std::make_unique<WakeableLoop>([this] {
    absl::Status status = scheduler_->Reap();
    if (!status.ok()) {
      spdlog::error("cannot look for expired leases: {}",
                    std::string(status.message()));
    }
    return WakeableLoop::Next{.latest = absl::Seconds(1)};
  });
  started_.store(true);
  Changed();  // What came while they were made.
  quantization_service_ = std::make_unique<QuantizationServiceImpl>(
      scheduler_.get(), blobs_.get(), &roots_, hub_.get());
  worker_service_ =
      std::make_unique<WorkerServiceImpl>(scheduler_.get(), dispatcher_.get());
  blob_service_ = std::make_unique<BlobServiceImpl>(blobs_.get(), &metrics_);
  checkpoint_service_ =
      std::make_unique<CheckpointServiceImpl>(scheduler_.get(), blobs_.get());
  info_service_ = std::make_unique<ServerInfoServiceImpl>(RandomInstance());
}

void ServerApp::Changed() {
  if (!started_.load()) return;
  dispatcher_->Changed();
  hub_->Changed();
  planning_->Changed();
}

absl::Status ServerApp::Serve(const ServerOptions& options) {
  KeepGrpcRunning();
  grpc::EnableDefaultHealthCheckService(true);
  if (options.enable_reflection) {
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  }
  grpc::ServerBuilder builder;
  SetLimits(&builder);
  if (!options.enable_reflection) {
    builder.SetOption(std::make_unique<WithoutReflection>());
  }
  std::vector<int> ports(listen_.size(), 0);
  for (size_t i = 0; i < listen_.size(); ++i) {
    if (listen_[i].is_unix()) {
      BW_RETURN_IF_ERROR(CheckSocketFree(listen_[i].socket_path));
    }
    builder.AddListeningPort(listen_[i].ToString(),
                             grpc::InsecureServerCredentials(), &ports[i]);
  }
  const std::vector<grpc::Service*> services = {
      quantization_service_.get(), worker_service_.get(), blob_service_.get(),
      checkpoint_service_.get(), info_service_.get()};
  for (grpc::Service* service : services) builder.RegisterService(service);
  builder.experimental().SetInterceptorCreators(metrics_.Interceptors());

  // A Unix socket is its owner's only, from the moment it exists.
  const mode_t mask = umask(0177);
  server_ = builder.BuildAndStart();
  umask(mask);
  for (size_t i = 0; i < listen_.size(); ++i) {
    if (server_ == nullptr || ports[i] == 0) {
      return absl::AbortedError(absl::StrCat("cannot listen on ",
                                             listen_[i].ToString(),
                                             "; the address may be in use"));
    }
    if (!listen_[i].is_unix()) listen_[i].port = ports[i];
    addresses_.push_back(listen_[i].ToString());
  }
  grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
  health->SetServingStatus(true);
  for (const char* name : {v1::QuantizationService::service_full_name(),
                           v1::WorkerService::service_full_name(),
                           v1::BlobService::service_full_name(),
                           v1::CheckpointService::service_full_name(),
                           v1::ServerInfoService::service_full_name()}) {
    health->SetServingStatus(name, true);
  }
  return absl::OkStatus();
}

void ServerApp::Shutdown() {
  if (server_ != nullptr) {
    server_->GetHealthCheckService()->SetServingStatus(false);
  }
  if (dispatcher_ != nullptr) dispatcher_->Stop();
  if (hub_ != nullptr) hub_->Stop();
  if (server_ != nullptr) {
    server_->Shutdown(absl::ToChronoTime(absl::Now() + kShutdownGrace));
    server_->Wait();
    server_.reset();
    for (const ListenAddress& address : listen_) {
      if (address.is_unix()) unlink(address.socket_path.c_str());
    }
  }
  if (planning_ != nullptr) planning_->Stop();
  if (reaper_ != nullptr) reaper_->Stop();
}

}  // namespace bitwright
