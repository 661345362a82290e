// Hessian sums on the device against float64. Skips where there is no GPU.
#include "worker/quant/hessian.h"

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <ostream>
#include <random>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "worker/quant/hessian_cuda.h"
#include "worker/quant/layer_engine_cuda.h"

namespace bitwright::quant {
namespace {

#define SKIP_WITHOUT_GPU()                                      \
  if (absl::Status status = CudaDeviceStatus(); !status.ok()) { \
    GTEST_SKIP() << status.message();                           \
  }

// Activations of unequal sizes, with a common part.
std::vector<float> Activations(int64_t tokens, int64_t columns) {
  std::mt19937 bits(5);
  std::vector<float> x(tokens * columns);
  for (int64_t t = 0; t < tokens; ++t) {
    const float common = static_cast<float>(bits()) * 0x1p-32f - 0.5f;
    for (int64_t j = 0; j < columns; ++j) {
      const float own = static_cast<float>(bits()) * 0x1p-32f - 0.5f;
      x[t * columns + j] =
          (own + 0.5f * common) * static_cast<float>(1 + j * 7919 % 13);
    }
  }
  return x;
}

std::vector<double> Reference(const std::vector<float>& x, int64_t columns) {
  const int64_t tokens = static_cast<int64_t>(x.size()) / columns;
  std::vector<double> sum(PackedSize(columns), 0.0);
  for (int64_t t = 0; t < tokens; ++t) {
    const float* row = x.data() + t * columns;
    for (int64_t i = 0; i < columns; ++i) {
      double* out = sum.data() + i * (i + 1) / 2;
      for (int64_t j = 0; j <= i; ++j) {
        out[j] += static_cast<double>(row[i]) * row[j];
      }
    }
  }
  return sum;
}

// ‖got − want‖ / ‖want‖.
double RelativeError(const std::vector<float>& got,
                     const std::vector<double>& want) {
  EXPECT_EQ(got.size(), want.size());
  double different = 0, all = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    different += (got[i] - want[i]) * (got[i] - want[i]);
    all += want[i] * want[i];
  }
  return std::sqrt(different / all);
}

// A copy on the device.
class OnDevice {
 public:
  explicit OnDevice(const std::vector<float>& values) {
    EXPECT_EQ(cudaMalloc(&data_, values.size() * sizeof(float)), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(data_, values.data(), values.size() * sizeof(float),
                         cudaMemcpyHostToDevice),
              cudaSuccess);
  }
  ~OnDevice() { cudaFree(data_); }
  const float* get() const { return static_cast<const float*>(data_); }

 private:
  void* data_ = nullptr;
};

std::vector<float> SumOf(const OnDevice& x, int64_t columns,
                         const std::vector<int64_t>& batches,
                         CudaHessianMode mode) {
  auto sum = CudaHessianAccumulator::Create(columns, mode);
  EXPECT_TRUE(sum.ok()) << sum.status();
  int64_t begin = 0;
  for (int64_t tokens : batches) {
    EXPECT_EQ((*sum)->Add(x.get() + begin * columns, tokens, nullptr),
              absl::OkStatus());
    begin += tokens;
  }
  EXPECT_EQ((*sum)->tokens(), begin);
  auto packed = (*sum)->Packed();
  EXPECT_TRUE(packed.ok()) << packed.status();
  return *std::move(packed);
}

struct Mode {
  CudaHessianMode mode;
  double tolerance;

  const char* name() const {
    return mode == CudaHessianMode::kFloat32 ? "Float32" : "SplitBfloat16";
  }
  friend std::ostream& operator<<(std::ostream& out, const Mode& m) {
    return out << m.name();
  }
};

class CudaHessianTest : public testing::TestWithParam<Mode> {};

TEST_P(CudaHessianTest, MatchesFloat64) {
  SKIP_WITHOUT_GPU();
  for (int64_t columns : {1, 7, 96, 300, 1030}) {
    const std::vector<float> x = Activations(200, columns);
    const std::vector<float> sum =
        SumOf(OnDevice(x), columns, {130, 0, 70}, GetParam().mode);
    const double error = RelativeError(sum, Reference(x, columns));
    EXPECT_LT(error, GetParam().tolerance) << columns << " columns";
    RecordProperty(absl::StrCat("error_", columns), absl::StrCat(error));
  }
}

TEST_P(CudaHessianTest, SameBytesEveryTime) {
  SKIP_WITHOUT_GPU();
  const int64_t columns = 520;
  const OnDevice x(Activations(300, columns));
  const std::vector<float> first =
      SumOf(x, columns, {100, 200}, GetParam().mode);
  for (int run = 0; run < 3; ++run) {
    EXPECT_EQ(SumOf(x, columns, {100, 200}, GetParam().mode), first);
  }
}

INSTANTIATE_TEST_SUITE_P(Modes, CudaHessianTest,
                         testing::Values(Mode{CudaHessianMode::kFloat32, 2e-6},
                                         Mode{CudaHessianMode::kSplitBfloat16,
                                              1e-5}),
                         [](const auto& info) { return info.param.name(); });

TEST(CudaHessianTest, RefusesNegativeTokens) {
  SKIP_WITHOUT_GPU();
  auto sum = CudaHessianAccumulator::Create(2, CudaHessianMode::kFloat32);
  ASSERT_TRUE(sum.ok()) << sum.status();
  EXPECT_EQ((*sum)->Add(nullptr, -1, nullptr).code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace bitwright::quant
