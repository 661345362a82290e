#include "worker/model/attention.h"

#include <c10/util/accumulate.h>

#include <algorithm>
#include <cmath>
#include <limits>

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

}  // namespace

at::Tensor CausalAttention(const at::Tensor& q, const at::Tensor& k,
                           const at::Tensor& v, int64_t window) {
  const int64_t seqlen = q.size(0), heads = q.size(1), dim = q.size(2);
  const int64_t kv_heads = k.size(1), group = heads / kv_heads;
  const double scale = 1 / std::sqrt(static_cast<double>(dim));
  // [kv_heads, seqlen * group, dim]: a block of queries is a run of rows.
  const at::Tensor queries = (q * scale)
                                 .view({seqlen, kv_heads, group, dim})
                                 .transpose(0, 1)
                                 .reshape({kv_heads, seqlen * group, dim});
  const at::Tensor keys = k.transpose(0, 1).contiguous();
  const at::Tensor values = v.transpose(0, 1).contiguous();
  const at::Tensor mixed = at::empty_like(queries);

  const int64_t together = q.is_cpu() ? 1 : kv_heads;  // Key heads a step.
  const int64_t step = std::clamp<int64_t>(
      MaxScores(q.device()) / (together * group * seqlen), 16, 256);
  const int64_t most = together * group * std::min(step, seqlen) * seqlen;
  const at::Tensor score_buffer = at::empty({most}, q.options());
  const at::Tensor weight_buffer = at::empty({most}, q.options());
  for (int64_t begin = 0; begin < seqlen; begin += step) {
    const int64_t n = std::min(step, seqlen - begin), end = begin + n;
    const int64_t first =
        window > 0 ? std::max<int64_t>(0, begin - window + 1) : 0;
    const int64_t span = end - first;
    // Without a window only the block's own positions hide anything.
    const int64_t masked = window > 0 ? first : begin;
    const at::Tensor mask =
        Mask(begin, n, masked, end - masked, window, q.device()).unsqueeze(1);
    at::Tensor scores = Carve(score_buffer, {together, n * group, span});
    at::Tensor weights = Carve(weight_buffer, {together, n * group, span});
    for (int64_t h = 0; h < kv_heads; h += together) {
      const auto block = [&](const at::Tensor& x) {
        return x.narrow(0, h, together).narrow(1, begin * group, n * group);
      };
      const auto seen = [&](const at::Tensor& x) {
        return x.narrow(0, h, together).narrow(1, first, span);
      };
      at::bmm_out(scores, block(queries), seen(keys).transpose(1, 2));
      scores.view({together, n, group, span})
          .narrow(3, masked - first, end - masked)
          .add_(mask);
      at::_softmax_out(weights, scores, -1, /*half_to_float=*/false);
      block(mixed).copy_(at::bmm(weights, seen(values)));
    }
  }
  return mixed.view({kv_heads, seqlen, group, dim})
      .transpose(0, 1)
      .reshape({seqlen, heads * dim});
}

at::Tensor Rotate(const at::Tensor& x, const at::Tensor& cos,
                  const at::Tensor& sin) {
  const int64_t half = x.size(2) / 2;
  const at::Tensor a = x.narrow(2, 0, half), b = x.narrow(2, half, half);
  return at::cat({a * cos - b * sin, b * cos + a * sin}, 2);
}

}  // namespace bitwright::model
