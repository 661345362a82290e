#include "worker/quant/blas_kernels.h"

#include <gtest/gtest.h>

namespace bitwright::quant {
namespace {

TEST(FasterBlasKernelsTest, OnlyTheLastResortIsReplaced) {
  EXPECT_EQ(FasterBlasKernels("Prescott", true, true), "SkylakeX");
  EXPECT_EQ(FasterBlasKernels("Prescott", true, false), "Haswell");
  EXPECT_EQ(FasterBlasKernels("Prescott", false, false), "");
  EXPECT_EQ(FasterBlasKernels("Haswell", true, true), "");
  EXPECT_EQ(FasterBlasKernels("Zen", true, false), "");
}

}  // namespace
}  // namespace bitwright::quant
