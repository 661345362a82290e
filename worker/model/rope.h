// Rotary position embeddings: the angles of one window, with the scaling
// variants of the Llama family. Plain C++, no torch.
//
//   RopeTables t = MakeRopeTables(config, /*seqlen=*/2048);
//   // channel c < half of a head at position p turns by
//   x[c]        = x[c] * t.cos[p*half + c] - x[c + half] * t.sin[p*half + c];
//   x[c + half] = x[c + half] * t.cos[p*half + c] + x[c] * t.sin[p*half + c];
#ifndef BITWRIGHT_WORKER_MODEL_ROPE_H_
#define BITWRIGHT_WORKER_MODEL_ROPE_H_

#include <cstdint>
#include <vector>

#include "common/checkpoint/model_config.h"

namespace bitwright::model {

// The radians that each channel pair turns by per position, [head_dim / 2], in
// double: theta^(-2c/head_dim), then
//   linear   divided by factor;
//   dynamic  theta raised once seqlen is beyond max_position (NTK-aware);
//   llama3   long waves divided by factor, short ones kept, a linear blend
//            between;
//   yarn     the same idea, blended over channels (arXiv 2309.00071).
std::vector<double> RopeFrequencies(const ModelConfig& config, int64_t seqlen);

// What cosines and sines are multiplied by: 1 except for yarn.
double RopeAttentionFactor(const RopeScaling& scaling);

struct RopeTables {
  int64_t seqlen = 0, half = 0;  // half = head_dim / 2
  std::vector<float> cos, sin;   // [seqlen, half]
};

// Angles are float32 products of a float32 frequency and the position, as
// models are trained and evaluated with.
RopeTables MakeRopeTables(const ModelConfig& config, int64_t seqlen);

}  // namespace bitwright::model

#endif  // BITWRIGHT_WORKER_MODEL_ROPE_H_
