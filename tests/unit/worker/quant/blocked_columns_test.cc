#include "worker/quant/blocked_columns.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "tests/unit/worker/quant/quant_test_util.h"

namespace bitwright::quant {
namespace {

constexpr int64_t kRows = 37;

// fn of the tests: leaves a column's share in its place.
template <typename Real>
void Halve(Real* t) {
  for (int64_t i = 0; i < kRows; ++i) t[i] = t[i] / 2 + 1;
}

// Columns of leaves, of whole and ragged halves, inside a wider matrix.
class BlockedColumnsTest : public testing::TestWithParam<int64_t> {
 protected:
  int64_t width() const { return GetParam(); }
  int64_t stride() const { return width() + 3; }

  // What every column held at its turn, by the definition, in float64.
  std::vector<double> ByDefinition(const std::vector<float>& a,
                                   std::vector<double> t) const {
    for (int64_t k = 0; k < width(); ++k) {
      double* column = t.data() + k * kRows;
      for (int64_t j = 0; j < k; ++j) {
        for (int64_t i = 0; i < kRows; ++i) {
          column[i] += a[k * stride() + j] * t[j * kRows + i];
        }
      }
      Halve(column);
    }
    return t;
  }

  void ExpectNear(const std::vector<float>& got,
                  const std::vector<double>& want) const {
    for (size_t i = 0; i < want.size(); ++i) {
      ASSERT_NEAR(got[i], want[i], 1e-4) << "column " << i / kRows;
    }
  }
};

TEST_P(BlockedColumnsTest, EachColumnReceivesWhatThoseBeforeItLeft) {
  const std::vector<float> a =
      RandomFloats(width() * stride(), 0.5f / std::sqrt(width()), 11);
  std::vector<float> t = RandomFloats(width() * kRows, 1.0f, 12);
  const std::vector<double> want =
      ByDefinition(a, std::vector<double>(t.begin(), t.end()));
  int64_t next = 5;
  VisitColumns(a.data(), stride(), 5, width(), kRows, t.data(),
               [&](int64_t k, float* column) {
                 EXPECT_EQ(k, next++);
                 Halve(column);
               });
  EXPECT_EQ(next, 5 + width());
  ExpectNear(t, want);
}

TEST_P(BlockedColumnsTest, ZeroColumnsAreNotRead) {
  const std::vector<float> a =
      RandomFloats(width() * stride(), 0.5f / std::sqrt(width()), 13);
  std::vector<float> t(width() * kRows,
                       std::numeric_limits<float>::quiet_NaN());
  int64_t next = 0;
  VisitZeroColumns(a.data(), stride(), width(), kRows, t.data(),
                   [&](int64_t k, float* column) {
                     EXPECT_EQ(k, next++);
                     Halve(column);
                   });
  EXPECT_EQ(next, width());
  ExpectNear(t, ByDefinition(a, std::vector<double>(width() * kRows)));
}

INSTANTIATE_TEST_SUITE_P(Widths, BlockedColumnsTest,
                         testing::Values(1, 31, 32, 33, 64, 65, 100, 128, 200),
                         testing::PrintToStringParamName());

}  // namespace
}  // namespace bitwright::quant
