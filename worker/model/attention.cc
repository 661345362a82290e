#include "worker/model/attention.h"

#include <c10/util/accumulate.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/functional/function_ref.h"

namespace bitwright::model {
namespace {

// Scores held at once: on the CPU they stay in a core's cache, elsewhere the
// fewer steps the better.
int64_t MaxScores(const at::Device& device) {
  return device.is_cpu() ? 1 << 17 : 1 << 26;
}

// `count` floats of the buffer, as `shape`.
at::Tensor Carve(const at::Tensor& buffer, at::IntArrayRef shape) {
  return buffer.narrow(0, 0, c10::multiply_integers(shape)).view(shape);
}

// [queries, keys]: 0 where query first_query + i may see key first_key + j,
// else -infinity.
at::Tensor Mask(int64_t first_query, int64_t queries, int64_t first_key,
                int64_t keys, int64_t window, const at::Device& device) {
  const auto integers = at::TensorOptions().dtype(at::kLong).device(device);
  const at::Tensor query =
      at::arange(first_query, first_query + queries, integers).unsqueeze(1);
  const at::Tensor key =
      at::arange(first_key, first_key + keys, integers).unsqueeze(0);
  at::Tensor hidden = key.gt(query);
  if (window > 0) hidden = hidden.logical_or(key.le(query - window));
  return at::zeros({queries, keys},
                   at::TensorOptions().dtype(at::kFloat).device(device))
      .masked_fill_(hidden, -std::numeric_limits<float>::infinity());
}

// [seqlen, heads, dim] -> [kv_heads, seqlen * group, dim], the heads of a group
// side by side: a block of queries is a run of rows.
at::Tensor ByKeyHead(const at::Tensor& x, int64_t kv_heads) {
  const int64_t seqlen = x.size(0), group = x.size(1) / kv_heads;
  return x.view({seqlen, kv_heads, group, x.size(2)})
      .transpose(0, 1)
      .reshape({kv_heads, seqlen * group, x.size(2)});
}

// The way back, to [seqlen, heads * dim].
at::Tensor BySequence(const at::Tensor& x, int64_t seqlen) {
  const int64_t kv_heads = x.size(0), dim = x.size(2);
  const int64_t heads = kv_heads * (x.size(1) / seqlen);
  return x.view({kv_heads, seqlen, heads / kv_heads, dim})
      .transpose(0, 1)
      .reshape({seqlen, heads * dim});
}

// A run of queries of some key heads, and the keys that any of them may see.
struct Block {
  int64_t head, heads, row, rows, key, keys;
  at::Tensor Queries(const at::Tensor& x) const {
    return x.narrow(0, head, heads).narrow(1, row, rows);
  }
  at::Tensor Keys(const at::Tensor& x) const {
    return x.narrow(0, head, heads).narrow(1, key, keys);
  }
};

// Calls `use(block, weights, spare)` for blocks that cover all queries, with
// the attention weights [heads, rows, keys] and a tensor of that shape to write
// to; both are overwritten by the next block. `queries` are scaled and, like
// `keys`, by key head.
using UseWeights =
    absl::FunctionRef<void(const Block&, const at::Tensor&, const at::Tensor&)>;
void ForEachBlock(const at::Tensor& queries, const at::Tensor& keys,
                  int64_t window, UseWeights use) {
  const int64_t kv_heads = keys.size(0), seqlen = keys.size(1);
  const int64_t group = queries.size(1) / seqlen;
  const int64_t together = keys.is_cpu() ? 1 : kv_heads;  // Key heads a step.
  const int64_t step = std::clamp<int64_t>(
      MaxScores(keys.device()) / (together * group * seqlen), 16, 256);
  const int64_t most = together * group * std::min(step, seqlen) * seqlen;
  const at::Tensor score_buffer = at::empty({most}, queries.options());
  const at::Tensor weight_buffer = at::empty({most}, queries.options());
  for (int64_t begin = 0; begin < seqlen; begin += step) {
    const int64_t n = std::min(step, seqlen - begin), end = begin + n;
    const int64_t first =
        window > 0 ? std::max<int64_t>(0, begin - window + 1) : 0;
    const int64_t span = end - first;
    // Without a window only the block's own positions hide anything.
    const int64_t masked = window > 0 ? first : begin;
    const at::Tensor mask =
        Mask(begin, n, masked, end - masked, window, keys.device())
            .unsqueeze(1);
    at::Tensor scores = Carve(score_buffer, {together, n * group, span});
    at::Tensor weights = Carve(weight_buffer, {together, n * group, span});
    for (int64_t h = 0; h < kv_heads; h += together) {
      const Block block{h, together, begin * group, n * group, first, span};
      at::bmm_out(scores, block.Queries(queries),
                  block.Keys(keys).transpose(1, 2));
      scores.view({together, n, group, span})
          .narrow(3, masked - first, end - masked)
          .add_(mask);
      at::_softmax_out(weights, scores, -1, /*half_to_float=*/false);
      use(block, weights, scores);
    }
  }
}

double ScoreScale(const at::Tensor& q) {
  return 1 / std::sqrt(static_cast<double>(q.size(2)));
}

}  // namespace

at::Tensor CausalAttention(const at::Tensor& q, const at::Tensor& k,
                           const at::Tensor& v, int64_t window) {
  const at::Tensor queries = ByKeyHead(q * ScoreScale(q), k.size(1));
  const at::Tensor keys = k.transpose(0, 1).contiguous();
  const at::Tensor values = v.transpose(0, 1).contiguous();
  const at::Tensor mixed = at::empty_like(queries);
  ForEachBlock(
      queries, keys, window,
      [&](const Block& block, const at::Tensor& weights,
          const at::Tensor& /*spare*/) {
        block.Queries(mixed).copy_(at::bmm(weights, block.Keys(values)));
      });
  return BySequence(mixed, q.size(0));
}

AttentionGradients CausalAttentionBackward(const at::Tensor& q,
                                           const at::Tensor& k,
                                           const at::Tensor& v, int64_t window,
                                           const at::Tensor& gradient) {
  const at::Tensor queries = ByKeyHead(q * ScoreScale(q), k.size(1));
  const at::Tensor keys = k.transpose(0, 1).contiguous();
  const at::Tensor values = v.transpose(0, 1).contiguous();
  const at::Tensor mixed =
      ByKeyHead(gradient.reshape({q.size(0), q.size(1), q.size(2)}), k.size(1));
  const at::Tensor d_queries = at::empty_like(queries);
  const at::Tensor d_keys = at::zeros_like(keys);
  const at::Tensor d_values = at::zeros_like(values);
  ForEachBlock(
      queries, keys, window,
      [&](const Block& block, const at::Tensor& weights,
          const at::Tensor& spare) {
        const at::Tensor d_mixed = block.Queries(mixed);
        block.Keys(d_values).baddbmm_(weights.transpose(1, 2), d_mixed);
        at::Tensor d_weights = spare;
        at::bmm_out(d_weights, d_mixed, block.Keys(values).transpose(1, 2));
        const at::Tensor d_scores =
            at::_softmax_backward_data(d_weights, weights, -1, at::kFloat);
        block.Queries(d_queries).copy_(at::bmm(d_scores, block.Keys(keys)));
        block.Keys(d_keys).baddbmm_(d_scores.transpose(1, 2),
                                    block.Queries(queries));
      });
  return {BySequence(d_queries, q.size(0)).view(q.sizes()).mul_(ScoreScale(q)),
          d_keys.transpose(0, 1), d_values.transpose(0, 1)};
}

at::Tensor Rotate(const at::Tensor& x, const at::Tensor& cos,
                  const at::Tensor& sin) {
  const int64_t half = x.size(2) / 2;
  const at::Tensor a = x.narrow(2, 0, half), b = x.narrow(2, half, half);
  return at::cat({a * cos - b * sin, b * cos + a * sin}, 2);
}

}  // namespace bitwright::model
