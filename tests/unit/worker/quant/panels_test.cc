#include "worker/quant/panels.h"

#include <cstdint>
#include <vector>

#include "gtest/gtest.h"

namespace bitwright::quant {
namespace {

template <typename T>
class PanelsTest : public testing::Test {};
using Types = testing::Types<uint8_t, float, double>;
TYPED_TEST_SUITE(PanelsTest, Types);

// Widths and heights that fill a tile, leave some of it, and are smaller.
TYPED_TEST(PanelsTest, PackingTransposesEachPanelAndUnpackingUndoesIt) {
  for (const int64_t rows : {1, 7, 16, 130, 300, 520}) {
    for (const int64_t columns : {1, 5, 64, 70}) {
      SCOPED_TRACE(testing::Message() << rows << "x" << columns);
      const RowPanels panels(rows, columns);
      std::vector<TypeParam> in(rows * columns), packed(in), back(in);
      for (size_t i = 0; i < in.size(); ++i) {
        in[i] = static_cast<TypeParam>(i * 7 % 251);
      }
      PackPanels(in.data(), panels, packed.data());
      for (int64_t p = 0; p < panels.count(); ++p) {
        for (int64_t r = 0; r < panels.Height(p); ++r) {
          for (int64_t j = 0; j < columns; ++j) {
            ASSERT_EQ(packed[panels.At(p, j) + r],
                      in[(panels.First(p) + r) * columns + j])
                << "panel " << p << " row " << r << " column " << j;
          }
        }
      }
      UnpackPanels(packed.data(), panels, back.data());
      EXPECT_EQ(back, in);
    }
  }
}

// What lies between the rows of the output stays as it is.
TYPED_TEST(PanelsTest, TransposesIntoAWiderMatrix) {
  const int64_t rows = 70, columns = 33, stride = 75;
  std::vector<TypeParam> in(rows * columns), out(columns * stride, 99);
  for (size_t i = 0; i < in.size(); ++i) in[i] = i * 7 % 97;
  Transpose(in.data(), rows, columns, out.data(), stride);
  for (int64_t j = 0; j < columns; ++j) {
    for (int64_t r = 0; r < stride; ++r) {
      ASSERT_EQ(out[j * stride + r], r < rows ? in[r * columns + j] : 99)
          << "row " << r << " column " << j;
    }
  }
}

}  // namespace
}  // namespace bitwright::quant
