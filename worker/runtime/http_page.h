// One page over HTTP, for Prometheus to scrape.
//
//   BW_ASSIGN_OR_RETURN(auto server, HttpPage::Serve(
//       "127.0.0.1:9091", "/metrics", [&] { return registry_as_text; }));
//   server->port();
//
// prometheus-cpp's own server (civetweb) gives its threads 100 KiB stacks, less
// than the thread-local storage of the libraries that come with torch: in a
// worker no such thread can be started.
#ifndef BITWRIGHT_WORKER_RUNTIME_HTTP_PAGE_H_
#define BITWRIGHT_WORKER_RUNTIME_HTTP_PAGE_H_

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"

namespace bitwright {

// Answers one client at a time; one that is silent for 2 s is dropped.
class HttpPage {
 public:
  // "host:port", "[ipv6]:port" or "port" (all interfaces); port 0 means a free
  // one. `render` is called on a thread of this object. INVALID_ARGUMENT for
  // another form, UNAVAILABLE if the address cannot be had.
  static absl::StatusOr<std::unique_ptr<HttpPage>> Serve(
      const std::string& address, std::string path,
      std::function<std::string()> render);
  ~HttpPage();
  HttpPage(const HttpPage&) = delete;
  HttpPage& operator=(const HttpPage&) = delete;

  int port() const { return port_; }

 private:
  HttpPage(int listener, int port, std::string path,
           std::function<std::string()> render);
  void Loop();
  void Answer(int client);

  const int listener_, port_;
  const std::string path_;
  const std::function<std::string()> render_;
  int stop_[2] = {-1, -1};  // A pipe; closing its end stops the loop.
  std::thread thread_;
};

}  // namespace bitwright

#endif  // BITWRIGHT_WORKER_RUNTIME_HTTP_PAGE_H_
