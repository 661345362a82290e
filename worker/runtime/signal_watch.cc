#include "worker/runtime/signal_watch.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "common/base/exit_code.h"
#include "common/base/file.h"

namespace bitwright {
namespace {

// Written by the handler, read by the thread. A handler rather than a blocked
// signal: libraries start threads before main, with nothing blocked.
int g_pipe[2] = {-1, -1};

void Handle(int signal) {
  const int saved = errno;
  const char byte = static_cast<char>(signal);
  [[maybe_unused]] const ssize_t written = write(g_pipe[1], &byte, 1);
  errno = saved;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SignalWatch>> SignalWatch::Start() {
  if (pipe2(g_pipe, O_CLOEXEC) != 0) {
    return ErrnoStatus(errno, "create a pipe", "for signals");
  }
  std::unique_ptr<SignalWatch> watch(new SignalWatch);
  struct sigaction action = {};
  action.sa_handler = Handle;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (int signal : {SIGTERM, SIGINT}) sigaction(signal, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);
  return watch;
}

SignalWatch::~SignalWatch() {
  for (int number : {SIGTERM, SIGINT}) signal(number, SIG_DFL);
  Handle(0);  // Ends the thread.
  thread_.join();
  close(g_pipe[0]);
  close(g_pipe[1]);
}

void SignalWatch::OnSignal(std::function<void(int)> callback) {
  absl::MutexLock lock(&mutex_);
  callback_ = std::move(callback);
  if (received_ != 0 && callback_) callback_(received_);
}

void SignalWatch::Loop() {
  for (;;) {
    char byte = 0;
    const ssize_t got = read(g_pipe[0], &byte, 1);
    if (got < 0 && errno == EINTR) continue;
    if (got != 1 || byte == 0) return;
    absl::MutexLock lock(&mutex_);
    if (received_ != 0) _exit(kExitSignalBase + byte);
    received_ = byte;
    if (callback_) callback_(received_);
  }
}

}  // namespace bitwright
