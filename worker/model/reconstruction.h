// Block reconstruction (math.md §4, hybrid quantizer): the codes and ranges of
// a block's linears are learned, so that the quantized block gives what the
// block gave at full precision.
//
//   ReconstructProblem problem{.block = 3, .sequences = 128, .seqlen = 2048,
//                              .read = ReadSequence, .linears = rows};
//   ReconstructOptions options{.iterations = 5000};
//   BW_ASSIGN_OR_RETURN(ReconstructedBlock block,
//                       ReconstructBlock(model, problem, options));
//   block.linears[0].codes ...
//
// The loss is the mean squared error of the block's output. Rows with the
// higher bits learn whether each entry is rounded up or down (AdaRound, arXiv
// 2004.10568), the others how far their ranges are clipped (OmniQuant, arXiv
// 2308.13137). Every `check_every` iterations the block is measured as files
// will hold it, on all sequences; the best of those states is the result, so
// that it is never worse than the start.
//
// Memory: one block with its parameters and Adam's, and for each sequence in
// flight, as many as there are threads, its states, what its linears read, the
// gradients at their outputs and of their weights. Determinism: the same bytes
// for any number of threads. With a batch of 1 threads share the weights'
// gradients and roundings, but not the pass through the block.
#ifndef BITWRIGHT_WORKER_MODEL_RECONSTRUCTION_H_
#define BITWRIGHT_WORKER_MODEL_RECONSTRUCTION_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/model/decoder_model.h"

namespace bitwright::model {

struct ReconstructOptions {
  int iterations = 5000;  // >= 1
  int batch = 1;          // Sequences an iteration, >= 1.
  // Adam's learning rates, > 0.
  double round_rate = 1e-3;   // AdaRound's V
  double clip_rate = 1e-2;    // α and β
  double round_decay = 1e-5;  // L2 on V
  // Share of the gradient that passes a code at either end of a clipped range,
  // 0..1. OmniQuant's is 1; half is better on most models
  // (tests/bench/RATIO.md).
  double edge_gradient = 0.5;
  // λ of the regulariser Σ 1 − |2h − 1|^γ. The loss is scaled so that the
  // entries that AdaRound rounds share a start of 1 each.
  double round_weight = 10;
  // γ goes from the first to the second, after a fifth of the iterations
  // without regulariser.
  double gamma_first = 20, gamma_last = 2;
  // Iterations between two measurements of the whole set.
  int check_every = 250;
  // Stops at the first measurement after so many iterations in which the loss
  // has not fallen by 0.1 % in all; 0: never. Where entries are rounded it
  // counts from the second half on: their gain comes as γ falls.
  int patience = 1000;
  uint64_t seed = 0;       // Of the order of the sequences.
  int64_t group_size = 0;  // Columns a range; 0: one range a row.
};

// Which rows of a linear learn what.
struct RowsToLearn {
  std::vector<uint8_t> bits;  // [rows] 1..8, or 16 for rows that are kept.
  // Rows of these bits learn their rounding, other ones their clipping.
  int bits_rounded = 0;
};

// Codes of one linear, and the ranges that they are on.
struct LearnedLinear {
  int64_t groups = 0;
  std::vector<float> range_min, range_max;  // [rows, groups], values of F16
  std::vector<uint8_t> codes;  // [rows, cols]; 0 in rows that are kept
};

struct ReconstructProblem {
  int64_t block = 0;
  int64_t sequences = 0, seqlen = 0;
  // Sequence i: what enters the block, and what should leave it, each
  // [seqlen, width]. Called from several threads at once.
  std::function<absl::Status(int64_t i, absl::Span<float> input,
                             absl::Span<float> target)>
      read = nullptr;
  std::vector<RowsToLearn> linears = {};  // As BlockLinears.
  // Told after every iteration and during long ones, with the last measured
  // loss (NaN before there is one); an error ends the reconstruction. May be
  // null.
  std::function<absl::Status(int iteration, double loss)> watch = nullptr;
};

struct ReconstructedBlock {
  std::vector<LearnedLinear> linears;  // As BlockLinears.
  // Mean squared error of the block's output before the first iteration, and
  // in the state that was kept.
  double first_loss = 0, loss = 0;
  int iterations = 0;      // Done; fewer than asked for where it went flat.
  int kept_iteration = 0;  // Whose state was kept.
};

// INVALID_ARGUMENT: an option out of range, rows that do not fit the model, a
// loss or gradient that is not a finite number (the message says at which
// iteration). Otherwise the errors of DecoderModel, `read` and `watch`.
absl::StatusOr<ReconstructedBlock> ReconstructBlock(
    const DecoderModel& model, const ReconstructProblem& problem,
    const ReconstructOptions& options);

}  // namespace bitwright::model

#endif  // BITWRIGHT_WORKER_MODEL_RECONSTRUCTION_H_
