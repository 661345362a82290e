// The one test here that includes torch: what it tests is private to the
// folder.
#include "worker/model/hybrid_weight.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace bitwright::model {
namespace {

// Two rows of four weights on grids of four values; in the first, codes 0 and 3
// are reached exactly and by clamping, in the second no code is at an end.
const at::Tensor kWeight =
    at::tensor({-0.6f, -0.2f, 0.31f, 0.9f, 0.02f, -0.03f, 0.11f, 0.14f})
        .view({2, 1, 4});
const at::Tensor kScale = at::tensor({0.2f, 0.1f}).view({2, 1, 1});
const at::Tensor kZero = at::tensor({1.0f, 1.0f}).view({2, 1, 1});
const at::Tensor kTop = at::tensor({3.0f, 3.0f}).view({2, 1, 1});

TEST(FakeQuantizeTest, SlopeIsTheDerivativeByTheScale) {
  for (const double edge : {0.0, 0.5, 1.0}) {
    const FakeQuantized found =
        FakeQuantize(kWeight, kScale, kZero, kTop, edge);
    for (int64_t i = 0; i < kWeight.numel(); ++i) {
      const double w = kWeight.flatten()[i].item<double>();
      const double s = kScale.flatten()[i / 4].item<double>();
      const double code = std::round(w / s) + 1;
      const double kept = std::clamp(code, 0.0, 3.0);
      const double passed = code < 0 || code > 3     ? 0
                            : code == 0 || code == 3 ? edge
                                                     : 1;
      EXPECT_NEAR(found.weight.flatten()[i].item<double>(), s * (kept - 1),
                  1e-6);
      EXPECT_NEAR(found.slope.flatten()[i].item<double>(),
                  kept - 1 - passed * w / s, 1e-5)
          << "entry " << i << ", edge " << edge;
    }
  }
}

TEST(FakeQuantizeTest, StepByStepItIsTheSame) {
  at::manual_seed(1);
  const at::Tensor weight = at::randn({7, 3, 40});
  const at::Tensor scale = at::rand({7, 3, 1}) + 0.3;  // Some are clamped.
  const at::Tensor zero = at::full({7, 3, 1}, 2.0f);
  const at::Tensor top = at::full({7, 1, 1}, 3.0f);
  for (const double edge : {0.0, 0.5, 1.0}) {
    const FakeQuantized fast = FakeQuantize(weight, scale, zero, top, edge);
    const FakeQuantized steps =
        FakeQuantizeInSteps(weight, scale, zero, top, edge);
    EXPECT_TRUE(at::equal(fast.weight, steps.weight));
    EXPECT_TRUE(at::allclose(fast.slope, steps.slope, 1e-6, 1e-6)) << edge;
  }
  EXPECT_GT(at::round(weight / scale).add(zero).gt(top).sum().item<int>(), 9);
}

TEST(FakeQuantizeTest, WithTheWholeEdgeGradientItIsThatOfAutograd) {
  at::Tensor scale = kScale.clone().set_requires_grad(true);
  const at::Tensor steps = kWeight / scale;
  // OmniQuant's: straight through round, then clamp.
  const at::Tensor codes = steps + (at::round(steps) - steps).detach() + kZero;
  const at::Tensor weight = (at::clamp(codes, 0, 3) - kZero) * scale;
  const at::Tensor gradient = at::arange(1, 9).to(at::kFloat).view({2, 1, 4});
  (weight * gradient).sum().backward();
  const at::Tensor slope = FakeQuantize(kWeight, kScale, kZero, kTop, 1).slope;
  EXPECT_TRUE(
      at::allclose(scale.grad(), (slope * gradient).sum(2, true), 1e-5, 1e-6));
}

}  // namespace
}  // namespace bitwright::model
