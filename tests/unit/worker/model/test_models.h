// What the tests of this folder share: the fixtures, and one block in float64
// by plain loops.
#ifndef BITWRIGHT_TESTS_UNIT_WORKER_MODEL_TEST_MODELS_H_
#define BITWRIGHT_TESTS_UNIT_WORKER_MODEL_TEST_MODELS_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/checkpoint/model_directory.h"
#include "worker/model/decoder_model.h"

namespace bitwright::model {

// The value; aborts the test if there is none.
template <typename T>
T Must(absl::StatusOr<T> value) {
  if (!value.ok()) {
    ADD_FAILURE() << value.status();
    std::abort();
  }
  return *std::move(value);
}

std::string FixturePath(const std::string& name);

// Runs with so many threads while it lives.
class ScopedThreads {
 public:
  explicit ScopedThreads(int threads);
  ~ScopedThreads();
};

// A model over `path`. Aborts the test if it is damaged.
struct LoadedModel {
  explicit LoadedModel(const std::string& path,
                       const std::string& device = "cpu");
  std::unique_ptr<ModelDirectory> directory;
  std::unique_ptr<DecoderModel> model;
};

// A fixture's directory and a model over it. Aborts the test if it is damaged.
struct Fixture {
  explicit Fixture(const std::string& name);
  std::unique_ptr<ModelDirectory> directory;
  std::unique_ptr<DecoderModel> model;
  std::vector<int32_t> tokens;  // [sequences, seqlen]
  int64_t sequences = 0, seqlen = 0;
  std::vector<float> logits;  // [sequences, seqlen, vocab_size]

  HiddenStates Embed() const;
};

// A Llama with norms of weight 1 and all else random, in F32.
void WriteRandomLlama(const std::string& directory, int64_t vocab_size,
                      int64_t width, int64_t blocks = 1);

using Matrix = std::vector<std::vector<double>>;

// Weights by name ("model.layers.0.self_attn.q_proj") that stand in for the
// model's own.
using Weights = std::map<std::string, std::vector<float>>;

// One block over one sequence in float64, Llama or Mistral (plain RoPE, no
// biases) or OPT (norm before): an independent implementation.
struct ReferenceBlock {
  ReferenceBlock(const ModelDirectory& directory, int64_t block,
                 const Weights& weights, const float* x, int64_t seqlen);
  std::map<std::string, Matrix> inputs;  // By Hessian group; [seqlen][cols].
  Matrix output;                         // [seqlen][width]
};

// The lower triangle of Σ x xᵀ, packed by rows.
void AddOuterProducts(const Matrix& x, std::vector<double>* packed);

}  // namespace bitwright::model

#endif  // BITWRIGHT_TESTS_UNIT_WORKER_MODEL_TEST_MODELS_H_
