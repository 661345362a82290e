// `bitwright-worker solve-ratio`: one choice of ratios (math.md §4), without a
// server.
//
//   bitwright-worker solve-ratio problem.json --interactions block --json
//
// Reads one object:
//   options       the ratios, ascending
//   bits_normal, bits_high   bits of a row
//   budget_bits   of all linears together
//   linears       [{"block": 0, "rows": 4096, "cols": 4096}, ...]
//   m             the loss matrix row by row, option fastest: one list, or one
//                 list for each row
//   interactions  which entries of m count: all, block or none; may be left out
//                 (all). --interactions goes before it.
// Prints a table, or with --json one object with `choice` (the index of each
// linear's option), `objective`, `bits` and `optimal`.
#ifndef BITWRIGHT_WORKER_RUNTIME_SOLVE_RATIO_COMMAND_H_
#define BITWRIGHT_WORKER_RUNTIME_SOLVE_RATIO_COMMAND_H_

namespace bitwright {

// argv[0] is the command's name. Returns an ExitCode (common/base/exit_code.h);
// errors go to stderr.
int SolveRatioCommand(int argc, char** argv);

}  // namespace bitwright

#endif  // BITWRIGHT_WORKER_RUNTIME_SOLVE_RATIO_COMMAND_H_
