// Cutting a tokenized text into the windows that a model sees.
//
//   BW_ASSIGN_OR_RETURN(auto eval, EvalWindows(ids, 512));       // In order.
//   BW_ASSIGN_OR_RETURN(auto calib,
//                       CalibrationWindows(ids, 128, 2048, /*seed=*/0));
//
// Everything here is a pure function of its arguments, the same on every
// machine and with every standard library: no std:: distribution, no global
// state.
#ifndef BITWRIGHT_COMMON_TEXT_WINDOWS_H_
#define BITWRIGHT_COMMON_TEXT_WINDOWS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace bitwright {

// math.md §5: non-overlapping windows of `seqlen` tokens from the start; the
// tail that does not fill one is dropped. INVALID_ARGUMENT if seqlen < 2 (a
// window predicts seqlen - 1 tokens) or the text does not fill one window.
absl::StatusOr<std::vector<std::vector<int32_t>>> EvalWindows(
    absl::Span<const int32_t> tokens, int64_t seqlen);

// The start of each of `nsamples` windows of `seqlen` tokens: distinct, uniform
// over [0, tokens - seqlen), in the order drawn. SplitMix64 (Steele, Lea and
// Flood 2014) from `seed`; a number below n is drawn by rejection, and distinct
// starts by the first steps of a Fisher-Yates shuffle. The first k of n starts
// are those of a draw of k.
// INVALID_ARGUMENT if nsamples < 1, seqlen < 2 or num_tokens < nsamples +
// seqlen, naming how many windows were asked for and how many the text gives.
absl::StatusOr<std::vector<int64_t>> CalibrationStarts(int64_t num_tokens,
                                                       int64_t nsamples,
                                                       int64_t seqlen,
                                                       uint64_t seed);

// The windows at CalibrationStarts, with its errors.
absl::StatusOr<std::vector<std::vector<int32_t>>> CalibrationWindows(
    absl::Span<const int32_t> tokens, int64_t nsamples, int64_t seqlen,
    uint64_t seed);

// The documents joined by "\n\n", as math.md §5 has it; one document is itself.
std::string JoinDocuments(absl::Span<const std::string> documents);

}  // namespace bitwright

#endif  // BITWRIGHT_COMMON_TEXT_WINDOWS_H_
