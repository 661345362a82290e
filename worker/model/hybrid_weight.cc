#include "worker/model/hybrid_weight.h"

#include <ATen/core/grad_mode.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/model/torch_util.h"
#include "worker/quant/gptq.h"
#include "worker/quant/grid.h"
#include "worker/quant/kernels.h"
#include "worker/quant/quantize_rows.h"

namespace bitwright::model {
namespace {

using quant::GridPoint;

// math.md §4: h(V) = clamp(1.2 σ(V) − 0.1, 0, 1).
constexpr double kStretch = 1.2, kShift = 0.1;
// σ(4) = 0.982: clipping begins with nearly the whole range.
constexpr double kFirstClip = 4;

// x on the way forward, with the gradient of `through`.
at::Tensor StraightThrough(const at::Tensor& x, const at::Tensor& through) {
  return through + (x - through).detach();
}

at::Tensor RoundToF16(const at::Tensor& x) {
  const at::Tensor f16 = x.detach().to(at::kHalf).to(at::kFloat);
  return StraightThrough(f16.clamp(-65504, 65504), x);
}

at::Tensor Leaf(at::Tensor values) {
  return std::move(values).detach().clone().set_requires_grad(true);
}

// What FakeQuantizeInSteps does, in one.
FakeQuantized FakeQuantizeOnCpu(const at::Tensor& weight,
                                const at::Tensor& scale, const at::Tensor& zero,
                                const at::Tensor& top, double edge_gradient) {
  FakeQuantized out{at::empty_like(weight), at::empty_like(weight)};
  const int64_t n = weight.size(2);
  for (int64_t row = 0; row < weight.size(0); ++row) {
    for (int64_t g = 0; g < weight.size(1); ++g) {
      const int64_t range = row * weight.size(1) + g;
      quant::FakeQuantizeRun(weight.data_ptr<float>() + range * n,
                             {.scale = scale.data_ptr<float>()[range],
                              .zero = zero.data_ptr<float>()[range],
                              .top = top.data_ptr<float>()[row],
                              .edge = static_cast<float>(edge_gradient)},
                             n, out.weight.data_ptr<float>() + range * n,
                             out.slope.data_ptr<float>() + range * n);
    }
  }
  return out;
}

}  // namespace

FakeQuantized FakeQuantize(const at::Tensor& weight, const at::Tensor& scale,
                           const at::Tensor& zero, const at::Tensor& top,
                           double edge_gradient) {
  if (weight.is_cpu()) {
    return FakeQuantizeOnCpu(weight.contiguous(), scale.contiguous(),
                             zero.contiguous(), top.contiguous(),
                             edge_gradient);
  }
  return FakeQuantizeInSteps(weight, scale, zero, top, edge_gradient);
}

FakeQuantized FakeQuantizeInSteps(const at::Tensor& weight,
                                  const at::Tensor& scale,
                                  const at::Tensor& zero, const at::Tensor& top,
                                  double edge_gradient) {
  const at::Tensor steps = weight / scale;
  at::Tensor codes = at::round(steps).add_(zero);
  const at::Tensor within = codes.ge(0).logical_and_(codes.le(top));
  const at::Tensor inside = codes.gt(0).logical_and_(codes.lt(top));
  const at::Tensor share = within.to(at::kFloat)
                               .mul_(edge_gradient)
                               .add_(inside.to(at::kFloat), 1 - edge_gradient);
  codes = at::clamp(codes, at::zeros_like(top), top).sub_(zero);
  return {codes * scale, codes - share.mul_(steps)};
}

// Rows are taken apart by what they learn. Of each kind, weights are
// [n, groups, group_size], padded with zeros, and ranges [n, groups, 1].
struct HybridWeight::Impl {
  int64_t rows = 0, cols = 0;
  at::Device device{at::kCPU};
  double round_weight = 0, edge_gradient = 0;
  std::vector<float> weight;                    // [rows, cols]
  quant::Grid grid;                             // The whole ranges.
  std::vector<uint16_t> levels;                 // [rows]
  std::vector<int64_t> clipped, rounded, kept;  // Row numbers.
  // [rows] All three, one after the other, and where each row is in that.
  at::Tensor order, inverse;

  at::Tensor clip_weight, clip_min, clip_max, clip_top, alpha, beta;
  at::Tensor round_floor, round_scale, round_zero, round_top, v;
  at::Tensor kept_weight;
  std::vector<std::unique_ptr<torch::optim::Optimizer>> optimizers;

  // Of the last Forward. With what leads to the parameters: the scale of the
  // clipped rows, the rounded rows' weight, h(V).
  at::Tensor clip_scale, clip_slope, rounded_weight, h;

  // [rows in `which`, groups, group_size].
  at::Tensor Pick(const std::vector<int64_t>& which) const;
  // [rows in `which`, groups, 1] of values [rows, groups].
  at::Tensor PickRanges(const std::vector<int64_t>& which,
                        const std::vector<float>& values) const;
  at::Tensor PickTops(const std::vector<int64_t>& which) const;

  void PrepareClipping(const ReconstructOptions& options);
  void PrepareRounding(const ReconstructOptions& options);
  void PrepareKept();
  // The ends of the clipped rows' ranges.
  std::pair<at::Tensor, at::Tensor> ClippedRange() const;
  // Both set what Backward needs of them.
  at::Tensor Clipped();
  at::Tensor Rounded();
  // [n, groups, group_size] of values [rows, cols]: of the n rows from `begin`
  // on in `order`.
  at::Tensor PickFrom(const at::Tensor& values, int64_t begin, size_t n) const;
};

at::Tensor HybridWeight::Impl::Pick(const std::vector<int64_t>& which) const {
  const int64_t n = static_cast<int64_t>(which.size());
  const int64_t padded = grid.groups * grid.group_size;
  std::vector<float> picked(n * padded);
  for (int64_t i = 0; i < n; ++i) {
    std::copy_n(weight.begin() + which[i] * cols, cols,
                picked.begin() + i * padded);
  }
  return ToTensor(std::move(picked), {n, grid.groups, grid.group_size}, device);
}

at::Tensor HybridWeight::Impl::PickRanges(
    const std::vector<int64_t>& which, const std::vector<float>& values) const {
  std::vector<float> picked;
  for (const int64_t r : which) {
    const auto row = values.begin() + r * grid.groups;
    picked.insert(picked.end(), row, row + grid.groups);
  }
  return ToTensor(std::move(picked),
                  {static_cast<int64_t>(which.size()), grid.groups, 1}, device);
}

at::Tensor HybridWeight::Impl::PickTops(
    const std::vector<int64_t>& which) const {
  std::vector<float> tops;
  for (const int64_t r : which) {
    tops.push_back(static_cast<float>(levels[r] - 1));
  }
  const int64_t n = static_cast<int64_t>(tops.size());
  return ToTensor(std::move(tops), {n, 1, 1}, device);
}

void HybridWeight::Impl::PrepareClipping(const ReconstructOptions& options) {
  if (clipped.empty()) return;
  clip_weight = Pick(clipped);
  clip_min = PickRanges(clipped, grid.min);
  clip_max = PickRanges(clipped, grid.max);
  clip_top = PickTops(clipped);
  alpha = Leaf(at::full_like(clip_max, kFirstClip));
  beta = Leaf(at::full_like(clip_min, kFirstClip));
  // OmniQuant's: no weight decay, which would pull α and β to 0.
  optimizers.push_back(std::make_unique<torch::optim::AdamW>(
      std::vector<at::Tensor>{alpha, beta},
      torch::optim::AdamWOptions(options.clip_rate).weight_decay(0)));
}

void HybridWeight::Impl::PrepareRounding(const ReconstructOptions& options) {
  if (rounded.empty()) return;
  const at::Tensor min = PickRanges(rounded, grid.min);
  round_top = PickTops(rounded);
  round_scale = (PickRanges(rounded, grid.max) - min) / round_top;
  round_zero = at::round(-min / round_scale);
  const at::Tensor steps = Pick(rounded) / round_scale;
  round_floor = at::floor(steps);
  // V such that h(V) is the fractional part.
  const at::Tensor sigma = (steps - round_floor + kShift) / kStretch;
  v = Leaf(at::log(sigma / (1 - sigma)));
  optimizers.push_back(std::make_unique<torch::optim::Adam>(
      std::vector<at::Tensor>{v}, torch::optim::AdamOptions(options.round_rate)
                                      .weight_decay(options.round_decay)));
}

void HybridWeight::Impl::PrepareKept() {
  if (kept.empty()) return;
  kept_weight = Pick(kept).to(at::kHalf).to(at::kFloat);
}

std::pair<at::Tensor, at::Tensor> HybridWeight::Impl::ClippedRange() const {
  const at::Tensor min = RoundToF16(at::sigmoid(beta) * clip_min);
  const at::Tensor max = RoundToF16(at::sigmoid(alpha) * clip_max);
  // A range that has been clipped to nothing is whole again.
  const at::Tensor empty = max.le(min);
  return {at::where(empty, clip_min, min), at::where(empty, clip_max, max)};
}

at::Tensor HybridWeight::Impl::Clipped() {
  const auto [min, max] = ClippedRange();
  clip_scale = (max - min) / clip_top;
  at::NoGradGuard no_gradient;
  FakeQuantized quantized =
      FakeQuantize(clip_weight, clip_scale, at::round(-min / clip_scale),
                   clip_top, edge_gradient);
  clip_slope = std::move(quantized.slope);
  return std::move(quantized.weight);
}

at::Tensor HybridWeight::Impl::Rounded() {
  h = at::clamp(kStretch * at::sigmoid(v) - kShift, 0, 1);
  const at::Tensor codes =
      at::minimum(at::clamp_min(round_floor + h + round_zero, 0), round_top);
  rounded_weight = round_scale * (codes - round_zero);
  return rounded_weight.detach();
}

at::Tensor HybridWeight::Impl::PickFrom(const at::Tensor& values, int64_t begin,
                                        size_t n) const {
  const int64_t picked = static_cast<int64_t>(n);
  const int64_t padding = grid.groups * grid.group_size - cols;
  at::Tensor found = values.index_select(0, order.narrow(0, begin, picked));
  if (padding > 0) found = at::constant_pad_nd(found, {0, padding});
  return found.view({picked, grid.groups, grid.group_size});
}

HybridWeight::HybridWeight(std::unique_ptr<Impl> impl)
    : impl_(std::move(impl)) {}
HybridWeight::~HybridWeight() = default;

absl::StatusOr<std::unique_ptr<HybridWeight>> HybridWeight::Create(
    std::vector<float> weight, int64_t rows, int64_t cols,
    const RowsToLearn& rows_to_learn, const ReconstructOptions& options,
    const at::Device& device) {
  if (static_cast<int64_t>(weight.size()) != rows * cols) {
    return absl::InvalidArgumentError(
        absl::StrCat(weight.size(), " weights for [", rows, ", ", cols, "]"));
  }
  BW_RETURN_IF_ERROR(quant::CheckRowBits(rows_to_learn.bits, rows));
  auto impl = std::make_unique<Impl>();
  impl->rows = rows;
  impl->cols = cols;
  impl->device = device;
  impl->round_weight = options.round_weight;
  impl->edge_gradient = options.edge_gradient;
  impl->weight = std::move(weight);
  impl->levels = quant::RowLevels(rows_to_learn.bits);
  BW_ASSIGN_OR_RETURN(impl->grid,
                      quant::MakeGrid(impl->weight.data(), rows, cols,
                                      {.group_size = options.group_size,
                                       .row_levels = impl->levels,
                                       .f16 = true}));
  for (int64_t r = 0; r < rows; ++r) {
    const int bits = rows_to_learn.bits[r];
    (bits == quant::kF16Bits              ? impl->kept
     : bits == rows_to_learn.bits_rounded ? impl->rounded
                                          : impl->clipped)
        .push_back(r);
  }
  at::Tensor order = at::empty({rows}, at::kLong);
  int64_t* next = order.data_ptr<int64_t>();
  for (const auto* which : {&impl->clipped, &impl->rounded, &impl->kept}) {
    next = std::copy(which->begin(), which->end(), next);
  }
  impl->order = order.to(device);
  impl->inverse = at::argsort(order).to(device);
  impl->PrepareClipping(options);
  impl->PrepareRounding(options);
  impl->PrepareKept();
  return std::unique_ptr<HybridWeight>(new HybridWeight(std::move(impl)));
}

int64_t HybridWeight::rounded_entries() const {
  return static_cast<int64_t>(impl_->rounded.size()) * impl_->cols;
}

at::Tensor HybridWeight::Forward() {
  std::vector<at::Tensor> parts;
  {
    at::AutoGradMode with_gradient(true);
    if (!impl_->clipped.empty()) parts.push_back(impl_->Clipped());
    if (!impl_->rounded.empty()) parts.push_back(impl_->Rounded());
  }
  at::NoGradGuard no_gradient;
  if (!impl_->kept.empty()) parts.push_back(impl_->kept_weight);
  return at::cat(parts, 0)
      .index_select(0, impl_->inverse)
      .view({impl_->rows, -1})
      .narrow(1, 0, impl_->cols)
      .contiguous();
}

void HybridWeight::Backward(const at::Tensor& gradient, double gamma) {
  if (impl_->optimizers.empty()) return;  // All rows are kept.
  at::AutoGradMode with_gradient(true);
  at::Tensor objective = at::zeros({}, impl_->device);
  if (!impl_->clipped.empty()) {
    const at::Tensor by_scale =
        impl_->PickFrom(gradient, 0, impl_->clipped.size())
            .mul_(impl_->clip_slope);
    objective = objective + (impl_->clip_scale * by_scale.sum(2, true)).sum();
  }
  if (!impl_->rounded.empty()) {
    objective = objective + (impl_->rounded_weight *
                             impl_->PickFrom(gradient, impl_->clipped.size(),
                                             impl_->rounded.size()))
                                .sum();
    if (gamma > 0) {
      const at::Tensor undecided = 1 - (2 * impl_->h - 1).abs().pow(gamma);
      objective = objective + impl_->round_weight * undecided.sum();
    }
  }
  objective.backward();
  impl_->clip_scale = impl_->clip_slope = at::Tensor();
  impl_->rounded_weight = impl_->h = at::Tensor();
}

void HybridWeight::Step() {
  for (const auto& optimizer : impl_->optimizers) {
    optimizer->step();
    optimizer->zero_grad();
  }
}

LearnedLinear HybridWeight::Harden() const {
  const quant::Grid& whole = impl_->grid;
  LearnedLinear learned{.groups = whole.groups,
                        .range_min = whole.min,
                        .range_max = whole.max,
                        .codes = {}};
  learned.codes.assign(impl_->rows * impl_->cols, 0);
  if (!impl_->clipped.empty()) {
    const auto [min, max] = impl_->ClippedRange();
    std::vector<float> ends(min.numel());
    for (const auto& [tensor, out] : {std::pair{min, &learned.range_min},
                                      std::pair{max, &learned.range_max}}) {
      CopyFromTensor(tensor.flatten(), ends.data());
      for (size_t i = 0; i < impl_->clipped.size(); ++i) {
        std::copy_n(ends.begin() + i * whole.groups, whole.groups,
                    out->begin() + impl_->clipped[i] * whole.groups);
      }
    }
  }
  const auto encode = [&](int64_t r, auto code) {
    for (int64_t j = 0; j < impl_->cols; ++j) {
      const int64_t range = r * whole.groups + whole.GroupOf(j);
      const GridPoint p = quant::MakeGridPoint(
          learned.range_min[range], learned.range_max[range], impl_->levels[r]);
      learned.codes[r * impl_->cols + j] =
          code(impl_->weight[r * impl_->cols + j], p, j);
    }
  };
  for (const int64_t r : impl_->clipped) {
    encode(r, [](float w, const GridPoint& p, int64_t) {
      return quant::Encode(w, p);
    });
  }
  if (impl_->rounded.empty()) return learned;
  std::vector<float> v(impl_->v.numel());
  CopyFromTensor(impl_->v.detach(), v.data());
  const int64_t padded = whole.groups * whole.group_size;
  for (size_t i = 0; i < impl_->rounded.size(); ++i) {
    encode(impl_->rounded[i], [&](float w, const GridPoint& p, int64_t j) {
      const float up = v[i * padded + j] >= 0 ? 1.0f : 0.0f;
      const float code = std::floor(w / p.scale) + up + p.zero;
      return static_cast<uint8_t>(std::min(std::max(code, 0.0f), p.top));
    });
  }
  return learned;
}

at::Tensor HybridWeight::Decode(const LearnedLinear& learned) const {
  quant::Grid grid = impl_->grid;
  grid.min = learned.range_min;
  grid.max = learned.range_max;
  std::vector<float> decoded =
      quant::Dequantize(learned.codes, grid, /*levels=*/{}, impl_->levels);
  for (const int64_t r : impl_->kept) {
    for (int64_t j = r * impl_->cols; j < (r + 1) * impl_->cols; ++j) {
      decoded[j] = quant::RoundToF16(impl_->weight[j]);
    }
  }
  return ToTensor(std::move(decoded), {impl_->rows, impl_->cols},
                  impl_->device);
}

}  // namespace bitwright::model
