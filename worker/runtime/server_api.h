// What a worker asks of a server: the narrow seam between this folder and
// client/api, so that tests can stand in for a server.
#ifndef BITWRIGHT_WORKER_RUNTIME_SERVER_API_H_
#define BITWRIGHT_WORKER_RUNTIME_SERVER_API_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bitwright/v1/worker.pb.h"
#include "common/base/digest.h"

namespace bitwright {

class Client;

// Thread-safe. Calls mean and return what worker.proto and client.h say.
class ServerApi {
 public:
  virtual ~ServerApi() = default;

  virtual absl::StatusOr<v1::Session> OpenSession(
      const v1::OpenSessionRequest& request) = 0;
  virtual absl::StatusOr<v1::LeaseTasksResponse> LeaseTasks(
      const v1::LeaseTasksRequest& request) = 0;
  virtual absl::StatusOr<v1::RenewLeasesResponse> RenewLeases(
      const v1::RenewLeasesRequest& request) = 0;
  virtual absl::Status CompleteTask(const v1::CompleteTaskRequest& request) = 0;
  virtual absl::Status FailTask(const v1::FailTaskRequest& request) = 0;
  virtual absl::Status ReleaseLeases(
      const v1::ReleaseLeasesRequest& request) = 0;
  virtual absl::Status CloseSession(const std::string& session) = 0;

  virtual absl::StatusOr<Digest> UploadFile(const std::string& path) = 0;
  virtual absl::Status DownloadFile(const Digest& digest,
                                    const std::string& path) = 0;
};

std::unique_ptr<ServerApi> MakeServerApi(std::unique_ptr<Client> client);

}  // namespace bitwright

#endif  // BITWRIGHT_WORKER_RUNTIME_SERVER_API_H_
