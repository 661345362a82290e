// Causal attention of one sequence.
#ifndef BITWRIGHT_WORKER_MODEL_ATTENTION_H_
#define BITWRIGHT_WORKER_MODEL_ATTENTION_H_

#include <ATen/ATen.h>

#include <cstdint>

namespace bitwright::model {

// softmax(q kᵀ / √head_dim) v, each position seeing itself and what precedes
// it; with `window` > 0 only the last `window` positions, itself included.
// q is [seqlen, heads, head_dim]; k and v are [seqlen, kv_heads, head_dim],
// where kv_heads divides heads and query head h reads key head
// h / (heads / kv_heads). Returns [seqlen, heads * head_dim].
// Works through blocks of queries: its memory is bounded by a constant, and the
// future is not multiplied out.
at::Tensor CausalAttention(const at::Tensor& q, const at::Tensor& k,
                           const at::Tensor& v, int64_t window);

// What CausalAttention's arguments do to a loss, in their shapes.
struct AttentionGradients {
  at::Tensor q, k, v;
};

// `gradient` is d(loss)/d(what CausalAttention(q, k, v, window) returned),
// [seqlen, heads * head_dim]. Computes the weights again, block by block: its
// memory is bounded like CausalAttention's.
AttentionGradients CausalAttentionBackward(const at::Tensor& q,
                                           const at::Tensor& k,
                                           const at::Tensor& v, int64_t window,
                                           const at::Tensor& gradient);

// Turns channel pairs (c, c + half) of x [seqlen, heads, 2 * half] by the
// angles given as cos and sin [seqlen, 1, half] (rope.h). Its adjoint turns
// back: a gradient x at the output is Rotate(x, cos, -sin) at the input.
at::Tensor Rotate(const at::Tensor& x, const at::Tensor& cos,
                  const at::Tensor& sin);

}  // namespace bitwright::model

#endif  // BITWRIGHT_WORKER_MODEL_ATTENTION_H_
