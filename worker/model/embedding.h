// The two ends of a model: tokens to hidden states, hidden states to logits.
#ifndef BITWRIGHT_WORKER_MODEL_EMBEDDING_H_
#define BITWRIGHT_WORKER_MODEL_EMBEDDING_H_

#include <ATen/ATen.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/model/weights.h"

namespace bitwright::model {

// Holds the embedding rows of the tokens it was loaded for, and no others. All
// functions may throw what torch throws; the const ones are thread-safe.
class Embedding {
 public:
  // INVALID_ARGUMENT for a token outside the vocabulary, or a seqlen beyond a
  // learned position table.
  static absl::StatusOr<Embedding> Load(const WeightReader& reader,
                                        const ModelConfig& config,
                                        absl::Span<const int32_t> tokens,
                                        int64_t seqlen);

  // The hidden states [seqlen, hidden_size] of one sequence, whose tokens are
  // among those loaded.
  at::Tensor operator()(absl::Span<const int32_t> tokens) const;

 private:
  Embedding() = default;
  absl::flat_hash_map<int32_t, int64_t> row_of_;  // token -> row of rows_
  at::Tensor rows_;                               // [distinct, embed dim]
  at::Tensor positions_;      // [seqlen, hidden_size]; undefined: none
  LinearWeights project_in_;  // weight undefined: none
};

// Final norm, output projection and the vocabulary matrix, the last in pieces
// of kChunk rows.
class Head {
 public:
  static constexpr int64_t kChunk = 4096;

  static absl::StatusOr<Head> Load(const WeightReader& reader,
                                   const ModelConfig& config);

  // x [seqlen, hidden_size] -> what the vocabulary matrix multiplies.
  at::Tensor Normalize(const at::Tensor& x) const;
  // From a gradient at Normalize(x) to the one at x.
  at::Tensor NormalizeBackward(const at::Tensor& x,
                               const at::Tensor& gradient) const;

  // Columns of the vocabulary matrix.
  int64_t dim() const { return dim_; }
  int64_t num_chunks() const { return (vocab_ + kChunk - 1) / kChunk; }
  int64_t ChunkBegin(int64_t chunk) const { return chunk * kChunk; }
  // Rows [ChunkBegin(chunk), ...) of the vocabulary matrix, [rows, embed dim].
  absl::StatusOr<at::Tensor> Chunk(const WeightReader& reader,
                                   int64_t chunk) const;
  // Its rows of `tokens`, in that order.
  absl::StatusOr<at::Tensor> Rows(const WeightReader& reader,
                                  absl::Span<const int32_t> tokens) const;

 private:
  Head() = default;
  std::string name_;
  int64_t vocab_ = 0, dim_ = 0;
  bool rms_ = true;
  NormWeights norm_;           // weight undefined: none
  LinearWeights project_out_;  // weight undefined: none
};

// log Σ exp(logit) over the vocabulary, chunk by chunk, and the logit of the
// token that came: per position of one sequence, in double. Not thread-safe.
class NllSum {
 public:
  // `targets`: what positions 0 .. n-1 should predict; borrowed.
  explicit NllSum(absl::Span<const int32_t> targets);

  // Logits [n, rows] of tokens first_token, first_token + 1, ...; in order.
  // Overwrites them.
  void Add(at::Tensor logits, int64_t first_token);

  // Σ over positions of −log p(target), in nats.
  double Total() const;

 private:
  absl::Span<const int32_t> targets_;
  std::vector<double> log_sum_, target_logit_;
};

// Σ_token p(token) · (row of the vocabulary matrix), the part of d(NLL)/d(what
// that matrix multiplies) that needs the whole vocabulary, chunk by chunk in
// one pass: exponentials are taken relative to the largest logit so far, and
// what is summed already is scaled down when a larger one comes. Not
// thread-safe.
class ExpectedRow {
 public:
  // Logits [n, rows] of some tokens and their rows of the matrix [rows, dim].
  // Overwrites the logits.
  void Add(at::Tensor logits, const at::Tensor& rows);

  // [n, dim]; the object is empty afterwards.
  at::Tensor Take();

 private:
  at::Tensor largest_, sum_;  // [n, 1]; undefined: nothing added yet.
  at::Tensor mixed_;          // [n, dim]: Σ exp(logit − largest_) · row
};

}  // namespace bitwright::model

#endif  // BITWRIGHT_WORKER_MODEL_EMBEDDING_H_
