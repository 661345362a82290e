// The private service behind `bitwright quantize`: the ordinary server and
// workers, as child processes over a Unix socket in the state directory.
//
//   BW_ASSIGN_OR_RETURN(auto service, LocalService::Start({.state_dir = dir,
//   .workers = 1}));
//   ... Client::Connect({.address = service->address()}) ...
//   service.reset();   // Takes the children down.
//
// A child that dies is started again, a few times: tasks are pure, so nothing
// is lost. The children end with this process, however it ends.
#ifndef BITWRIGHT_CLIENT_CLI_LOCAL_SERVICE_H_
#define BITWRIGHT_CLIENT_CLI_LOCAL_SERVICE_H_

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace bitwright {

struct LocalServiceOptions {
  std::string state_dir;  // Made if absent.
  int workers = 1;
  int threads = 0;  // For each worker; 0: the cores shared out.
  std::string device = "auto";
  std::string binary_dir;  // Empty: beside this program's own binary.
  absl::Duration start_timeout = absl::Seconds(20);
  int max_restarts = 10;  // Of all children together.
};

// $XDG_STATE_HOME/bitwright, else ~/.local/state/bitwright.
std::string DefaultStateDir();

class LocalService {
 public:
  // Returns once the server answers. RESOURCE_EXHAUSTED... and other file
  // errors name the path; ABORTED if another command uses the state directory
  // (with its process id); INTERNAL, with the end of its log, if the server
  // does not start.
  static absl::StatusOr<std::unique_ptr<LocalService>> Start(
      const LocalServiceOptions& options);
  ~LocalService();

  const std::string& address() const;
  // Not OK once children died more often than allowed.
  absl::Status health() const;

 private:
  class Impl;
  explicit LocalService(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace bitwright

#endif  // BITWRIGHT_CLIENT_CLI_LOCAL_SERVICE_H_
