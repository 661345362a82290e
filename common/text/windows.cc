#include "common/text/windows.h"

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"

namespace bitwright {
namespace {

class SplitMix64 {
 public:
  explicit SplitMix64(uint64_t seed) : state_(seed) {}

  uint64_t Next() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }

  // Uniform over [0, n), n > 0: draws at or above the largest multiple of n
  // that fits are thrown away.
  uint64_t Below(uint64_t n) {
    const uint64_t excess = (UINT64_MAX % n + 1) % n;  // 2^64 mod n.
    uint64_t draw = Next();
    while (draw > UINT64_MAX - excess) draw = Next();
    return draw % n;
  }

 private:
  uint64_t state_;
};

absl::Status CheckSeqlen(int64_t seqlen) {
  if (seqlen >= 2) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "seqlen must be at least 2 (a window of n tokens predicts n - 1), not ",
      seqlen));
}

}  // namespace

absl::StatusOr<std::vector<std::vector<int32_t>>> EvalWindows(
    absl::Span<const int32_t> tokens, int64_t seqlen) {
  BW_RETURN_IF_ERROR(CheckSeqlen(seqlen));
  const int64_t count = static_cast<int64_t>(tokens.size()) / seqlen;
  if (count == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the text has ", tokens.size(), " tokens, too few for one window of ",
        seqlen, "; give more text or a smaller seqlen"));
  }
  std::vector<std::vector<int32_t>> windows;
  windows.reserve(count);
  for (int64_t i = 0; i < count; ++i) {
    const auto window = tokens.subspan(i * seqlen, seqlen);
    windows.emplace_back(window.begin(), window.end());
  }
  return windows;
}

absl::StatusOr<std::vector<int64_t>> CalibrationStarts(int64_t num_tokens,
                                                       int64_t nsamples,
                                                       int64_t seqlen,
                                                       uint64_t seed) {
  BW_RETURN_IF_ERROR(CheckSeqlen(seqlen));
  if (nsamples < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("nsamples must be at least 1, not ", nsamples));
  }
  const int64_t starts = num_tokens > seqlen ? num_tokens - seqlen : 0;
  if (starts < nsamples) {
    return absl::InvalidArgumentError(absl::StrCat(
        "too little calibration text: ", nsamples, " windows of ", seqlen,
        " tokens were asked for, and its ", num_tokens, " tokens give ", starts,
        " with distinct starts (", num_tokens > 0 ? num_tokens / seqlen : 0,
        " without overlap); give more text, or a smaller nsamples or seqlen"));
  }
  SplitMix64 random(seed);
  // moved[i] is what a shuffle of 0, 1, 2, ... has at i, where that is not i.
  absl::flat_hash_map<int64_t, int64_t> moved;
  std::vector<int64_t> result;
  result.reserve(nsamples);
  for (int64_t i = 0; i < nsamples; ++i) {
    const int64_t j = i + static_cast<int64_t>(random.Below(starts - i));
    auto at = [&](int64_t k) {
      auto it = moved.find(k);
      return it == moved.end() ? k : it->second;
    };
    const int64_t chosen = at(j);
    moved[j] = at(i);
    result.push_back(chosen);
  }
  return result;
}

absl::StatusOr<std::vector<std::vector<int32_t>>> CalibrationWindows(
    absl::Span<const int32_t> tokens, int64_t nsamples, int64_t seqlen,
    uint64_t seed) {
  BW_ASSIGN_OR_RETURN(std::vector<int64_t> starts,
                      CalibrationStarts(static_cast<int64_t>(tokens.size()),
                                        nsamples, seqlen, seed));
  std::vector<std::vector<int32_t>> windows;
  windows.reserve(starts.size());
  for (int64_t start : starts) {
    const auto window = tokens.subspan(start, seqlen);
    windows.emplace_back(window.begin(), window.end());
  }
  return windows;
}

std::string JoinDocuments(absl::Span<const std::string> documents) {
  return absl::StrJoin(documents, "\n\n");
}

}  // namespace bitwright
