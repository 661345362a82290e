// Ctrl-C as a flag instead of sudden death, so that commands can clean up.
#ifndef BITWRIGHT_CLIENT_CLI_INTERRUPT_H_
#define BITWRIGHT_CLIENT_CLI_INTERRUPT_H_

namespace bitwright {

// SIGINT, SIGTERM and SIGHUP set the flag from now on; a second one ends the
// process at once. SIGPIPE is ignored.
void CatchInterrupts();

// The signal that came, or 0.
int Interrupted();

}  // namespace bitwright

#endif  // BITWRIGHT_CLIENT_CLI_INTERRUPT_H_
