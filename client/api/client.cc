#include "client/api/client.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/api/client_impl.h"
#include "common/base/status_macros.h"
#include "proto/grpc_lifetime.h"

namespace bitwright {
namespace {

// LeaseTasks answers list the inputs of many tasks.
constexpr int kMaxMessageBytes = 64 << 20;

grpc::ChannelArguments ChannelArguments(const std::string& address) {
  grpc::ChannelArguments args;
  args.SetMaxReceiveMessageSize(kMaxMessageBytes);
  args.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  args.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  args.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5'000);
  args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 3'000);
  // Each client has its own connection; a test's server may come back under one
  // address.
  args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  const bool local = absl::StartsWith(address, "unix:") ||
                     absl::StartsWith(address, "localhost:") ||
                     absl::StartsWith(address, "127.") ||
                     absl::StartsWith(address, "[::1]");
  // The environment's http_proxy is not meant for this machine.
  if (local) args.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return args;
}

}  // namespace

v1::BlobDigest ToProto(const Digest& digest) {
  v1::BlobDigest proto;
  proto.set_sha256(digest.sha256);
  proto.set_size_bytes(static_cast<int64_t>(digest.size));
  return proto;
}

Digest FromProto(const v1::BlobDigest& digest) {
  return {digest.sha256(), static_cast<uint64_t>(digest.size_bytes())};
}

absl::Status ClientCore::Convert(const grpc::Status& status) const {
  absl::Status converted = FromGrpcStatus(status);
  if (!absl::IsUnavailable(converted)) return converted;
  return Annotate(converted, absl::StrCat("server ", options.address));
}

Client::Client(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Client::~Client() = default;

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(
    ClientOptions options, absl::Duration connect_timeout) {
  if (options.address.empty()) {
    return absl::InvalidArgumentError(
        "the server's address is empty; give host:port or unix:/path");
  }
  KeepGrpcRunning();
  auto impl = std::make_unique<Impl>();
  impl->channel = grpc::CreateCustomChannel(options.address,
                                            grpc::InsecureChannelCredentials(),
                                            ChannelArguments(options.address));
  const absl::Time deadline = absl::Now() + connect_timeout;
  if (!impl->channel->WaitForConnected(absl::ToChronoTime(deadline))) {
    return absl::UnavailableError(
        absl::StrCat("cannot connect to server ", options.address, " within ",
                     absl::FormatDuration(connect_timeout),
                     "; is bitwright-server running there?"));
  }
  impl->jobs = v1::QuantizationService::NewStub(impl->channel);
  impl->blobs = v1::BlobService::NewStub(impl->channel);
  impl->checkpoints = v1::CheckpointService::NewStub(impl->channel);
  impl->info = v1::ServerInfoService::NewStub(impl->channel);
  impl->workers = v1::WorkerService::NewStub(impl->channel);
  impl->options = std::move(options);

  // Something answers; is it one of ours?
  v1::ServerInfo info;
  absl::Status status =
      impl->Call(impl->info.get(), &v1::ServerInfoService::Stub::GetServerInfo,
                 v1::GetServerInfoRequest(), &info,
                 std::max(deadline - absl::Now(), absl::Seconds(1)));
  if (!status.ok()) {
    return absl::UnavailableError(
        absl::StrCat("no Bitwright server answers at ", impl->options.address,
                     ": ", status.message()));
  }
  return std::unique_ptr<Client>(new Client(std::move(impl)));
}

absl::StatusOr<v1::ServerInfo> Client::GetServerInfo() {
  v1::ServerInfo info;
  BW_RETURN_IF_ERROR(impl_->Call(impl_->info.get(),
                                 &v1::ServerInfoService::Stub::GetServerInfo,
                                 v1::GetServerInfoRequest(), &info));
  return info;
}

}  // namespace bitwright
