#include "client/cli/interrupt.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>

namespace bitwright {
namespace {

std::atomic<int> g_signal{0};

void OnSignal(int signal_number) {
  if (g_signal.exchange(signal_number) != 0) _exit(128 + signal_number);
}

}  // namespace

void CatchInterrupts() {
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  sigemptyset(&action.sa_mask);
  for (int signal_number : {SIGINT, SIGTERM, SIGHUP}) {
    sigaction(signal_number, &action, nullptr);
  }
  signal(SIGPIPE, SIG_IGN);
}

int Interrupted() { return g_signal.load(); }

}  // namespace bitwright
