// A block and its Hessian sums on the GPU against the CPU, through the module
// and through torch alone. Skips where there is no GPU.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/unit/worker/model/test_models.h"
#include "worker/quant/hessian_cuda.h"

namespace bitwright::model {
namespace {

// max|got − want| / max|want|.
double WorstDifference(const std::vector<float>& got,
                       const std::vector<float>& want) {
  EXPECT_EQ(got.size(), want.size());
  double worst = 0, largest = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    worst = std::max(worst, std::abs(static_cast<double>(got[i]) - want[i]));
    largest = std::max(largest, std::abs(static_cast<double>(want[i])));
  }
  return largest == 0 ? worst : worst / largest;
}

class BlockOnGpuTest : public testing::TestWithParam<quant::CudaHessianMode> {};

TEST_P(BlockOnGpuTest, EqualsTheCpu) {
  if (const auto device = ResolveDevice("cuda"); !device.ok()) {
    GTEST_SKIP() << device.status().message();
  }
  quant::SetCudaHessianMode(GetParam());
  for (const char* name : {"llama_plain", "llama_gqa_bias_bf16", "opt_before",
                           "opt_after_projected", "qwen2"}) {
    SCOPED_TRACE(name);
    const Fixture fixture(name);
    const LoadedModel gpu(FixturePath(name), "cuda");
    HiddenStates on_cpu = fixture.Embed(), on_gpu = on_cpu;
    const auto sums = gpu.model->BlockHessians(0, nullptr, on_gpu);
    ASSERT_TRUE(sums.ok()) << sums.status();
    std::vector<HessianSum> cpu_sums, gpu_sums;
    ASSERT_EQ(fixture.model->RunBlock(0, nullptr, &on_cpu, &cpu_sums),
              absl::OkStatus());
    ASSERT_EQ(gpu.model->RunBlock(0, nullptr, &on_gpu, &gpu_sums),
              absl::OkStatus());
    EXPECT_LT(WorstDifference(on_gpu.data, on_cpu.data), 1e-5);
    ASSERT_EQ(gpu_sums.size(), cpu_sums.size());
    for (size_t i = 0; i < cpu_sums.size(); ++i) {
      EXPECT_EQ(gpu_sums[i].group, cpu_sums[i].group);
      EXPECT_LT(
          WorstDifference(gpu_sums[i].packed_lower, cpu_sums[i].packed_lower),
          3e-5)
          << cpu_sums[i].group;
      EXPECT_EQ((*sums)[i].packed_lower, gpu_sums[i].packed_lower);
    }
  }
  quant::SetCudaHessianMode(quant::CudaHessianMode::kFloat32);
}

// What 16 bits leave: 8 of significand in bfloat16.
TEST(StoredProductsTest, AreNearlyThoseOfFloat32) {
  if (const auto device = ResolveDevice("cuda"); !device.ok()) {
    GTEST_SKIP() << device.status().message();
  }
  const Fixture fixture("llama_gqa_bias_bf16");
  HiddenStates on_cpu = fixture.Embed(), on_gpu = on_cpu;
  SetCudaProducts(CudaProducts::kStored);
  const LoadedModel gpu(FixturePath("llama_gqa_bias_bf16"), "cuda");
  EXPECT_EQ(gpu.model->RunBlock(0, nullptr, &on_gpu, nullptr),
            absl::OkStatus());
  SetCudaProducts(CudaProducts::kFloat32);
  ASSERT_EQ(fixture.model->RunBlock(0, nullptr, &on_cpu, nullptr),
            absl::OkStatus());
  const double difference = WorstDifference(on_gpu.data, on_cpu.data);
  EXPECT_LT(difference, 0x1p-6);
  EXPECT_GT(difference, 0x1p-20);  // It was not float32 after all.
}

// Many more sequences than are on their way at once, in place.
TEST(SequencesTest, EachComesBackToItsPlace) {
  if (const auto device = ResolveDevice("cuda"); !device.ok()) {
    GTEST_SKIP() << device.status().message();
  }
  const Fixture fixture("llama_plain");
  const LoadedModel gpu(FixturePath("llama_plain"), "cuda");
  HiddenStates one = fixture.Embed(), many = one;
  many.sequences *= 40;
  many.data.clear();
  for (int copy = 0; copy < 40; ++copy) {  // No two alike.
    for (const float value : one.data)
      many.data.push_back(value + 0.01f * static_cast<float>(copy));
  }
  HiddenStates on_cpu = many;
  const auto sums = gpu.model->BlockHessians(0, nullptr, many);
  ASSERT_TRUE(sums.ok()) << sums.status();
  std::vector<HessianSum> cpu_sums;
  ASSERT_EQ(gpu.model->RunBlock(0, nullptr, &many, nullptr), absl::OkStatus());
  ASSERT_EQ(fixture.model->RunBlock(0, nullptr, &on_cpu, &cpu_sums),
            absl::OkStatus());
  EXPECT_LT(WorstDifference(many.data, on_cpu.data), 1e-5);
  for (size_t i = 0; i < cpu_sums.size(); ++i) {
    EXPECT_LT(
        WorstDifference((*sums)[i].packed_lower, cpu_sums[i].packed_lower),
        3e-5);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Modes, BlockOnGpuTest,
    testing::Values(quant::CudaHessianMode::kFloat32,
                    quant::CudaHessianMode::kSplitBfloat16),
    [](const auto& info) {
      return info.param == quant::CudaHessianMode::kFloat32 ? "Float32"
                                                            : "SplitBfloat16";
    });

}  // namespace
}  // namespace bitwright::model
