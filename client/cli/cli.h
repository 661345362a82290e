// The command line: `bitwright quantize`, `submit`, `watch`, ... `bitwright
// --help`.
//
// Results go to stdout, progress and errors to stderr; exit codes are those of
// common/base/exit_code.h.
#ifndef BITWRIGHT_CLIENT_CLI_CLI_H_
#define BITWRIGHT_CLIENT_CLI_CLI_H_

namespace bitwright {

// Parses and runs one command. Returns the exit code.
int RunCli(int argc, char** argv);

}  // namespace bitwright

#endif  // BITWRIGHT_CLIENT_CLI_CLI_H_
