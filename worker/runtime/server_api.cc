#include "worker/runtime/server_api.h"

#include <utility>

#include "client/api/client.h"

namespace bitwright {
namespace {

class ClientServerApi : public ServerApi {
 public:
  explicit ClientServerApi(std::unique_ptr<Client> client)
      : client_(std::move(client)) {}

  absl::StatusOr<v1::Session> OpenSession(
      const v1::OpenSessionRequest& request) override {
    return client_->OpenSession(request);
  }
  absl::StatusOr<v1::LeaseTasksResponse> LeaseTasks(
      const v1::LeaseTasksRequest& request) override {
    return client_->LeaseTasks(request);
  }
  absl::StatusOr<v1::RenewLeasesResponse> RenewLeases(
      const v1::RenewLeasesRequest& request) override {
    return client_->RenewLeases(request);
  }
  absl::Status CompleteTask(const v1::CompleteTaskRequest& request) override {
    return client_->CompleteTask(request);
  }
  absl::Status FailTask(const v1::FailTaskRequest& request) override {
    return client_->FailTask(request);
  }
  absl::Status ReleaseLeases(const v1::ReleaseLeasesRequest& request) override {
    return client_->ReleaseLeases(request);
  }
  absl::Status CloseSession(const std::string& session) override {
    return client_->CloseSession(session);
  }
  absl::StatusOr<Digest> UploadFile(const std::string& path) override {
    return client_->UploadFile(path);
  }
  absl::Status DownloadFile(const Digest& digest,
                            const std::string& path) override {
    return client_->DownloadFile(digest, path);
  }

 private:
  const std::unique_ptr<Client> client_;
};

}  // namespace

std::unique_ptr<ServerApi> MakeServerApi(std::unique_ptr<Client> client) {
  return std::make_unique<ClientServerApi>(std::move(client));
}

}  // namespace bitwright
