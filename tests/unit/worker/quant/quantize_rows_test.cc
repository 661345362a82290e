#include "worker/quant/quantize_rows.h"

#include <cmath>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/quant/grid.h"
#include "worker/quant/quantizer.h"

namespace bitwright::quant {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kRows = 11, kColumns = 37;

// Correlated inputs, and a weight.
struct Layer {
  std::vector<float> weight, hessian;
  LinearProblem Problem() const {
    return {.weight = weight.data(),
            .rows = static_cast<int64_t>(weight.size()) / kColumns,
            .columns = kColumns,
            .hessian = hessian};
  }
};

Layer RandomLayer(int64_t rows = kRows) {
  std::mt19937 bits(7);
  std::normal_distribution<double> normal;
  std::vector<double> x(4 * kColumns * kColumns);
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = normal(bits) + (i % kColumns > 0 ? 0.7 * x[i - 1] : 0);
  }
  Layer layer;
  layer.hessian.resize(kColumns * kColumns);
  for (int64_t i = 0; i < kColumns; ++i) {
    for (int64_t j = 0; j < kColumns; ++j) {
      double sum = 0;
      for (size_t t = 0; t < x.size(); t += kColumns)
        sum += x[t + i] * x[t + j];
      layer.hessian[i * kColumns + j] = static_cast<float>(sum);
    }
  }
  for (int64_t i = 0; i < rows * kColumns; ++i) {
    layer.weight.push_back(static_cast<float>(normal(bits)));
  }
  return layer;
}

QuantizeOptions ByRows(std::vector<uint8_t> row_bits) {
  QuantizeOptions options{.method = Method::kGptq, .bits = 2};
  options.row_bits = std::move(row_bits);
  return options;
}

std::vector<uint8_t> Alternating(int64_t rows, uint8_t even, uint8_t odd) {
  std::vector<uint8_t> bits;
  for (int64_t r = 0; r < rows; ++r) bits.push_back(r % 2 == 0 ? even : odd);
  return bits;
}

TEST(QuantizeRowsTest, OneCountForAllRowsIsGptq) {
  const Layer layer = RandomLayer();
  for (int bits : {1, 3, 8}) {
    const auto plain = QuantizeLinear(
        layer.Problem(),
        {.method = Method::kGptq, .bits = static_cast<double>(bits)});
    const auto by_rows = QuantizeLinear(
        layer.Problem(),
        ByRows(std::vector<uint8_t>(kRows, static_cast<uint8_t>(bits))));
    ASSERT_TRUE(plain.ok() && by_rows.ok()) << by_rows.status();
    EXPECT_EQ(by_rows->codes, plain->codes);
    EXPECT_EQ(DequantizeResult(*by_rows), DequantizeResult(*plain));
    EXPECT_DOUBLE_EQ(by_rows->loss, plain->loss);
    EXPECT_DOUBLE_EQ(by_rows->code_bits, bits + 1.0 / kColumns);
  }
}

// Rows do not touch each other: each is what it would be with all at its bits.
TEST(QuantizeRowsTest, EveryRowIsAsInAPassOfItsOwnBits) {
  const Layer layer = RandomLayer();
  QuantizeOptions options = ByRows(Alternating(kRows, 2, 5));
  options.group_size = 16;
  const auto mixed = QuantizeLinear(layer.Problem(), options);
  ASSERT_TRUE(mixed.ok()) << mixed.status();
  const std::vector<float> got = DequantizeResult(*mixed);
  for (uint8_t bits : {2, 5}) {
    options.row_bits.assign(kRows, bits);
    const auto pure = QuantizeLinear(layer.Problem(), options);
    ASSERT_TRUE(pure.ok());
    const std::vector<float> want = DequantizeResult(*pure);
    for (int64_t r = bits == 2 ? 0 : 1; r < kRows; r += 2) {
      for (int64_t j = 0; j < kColumns; ++j) {
        EXPECT_EQ(got[r * kColumns + j], want[r * kColumns + j]) << r;
      }
    }
  }
}

TEST(QuantizeRowsTest, RowsOfSixteenBitsKeepTheirValues) {
  const Layer layer = RandomLayer();
  for (const bool all : {false, true}) {
    const auto result = QuantizeLinear(
        layer.Problem(), ByRows(Alternating(kRows, all ? 16 : 3, 16)));
    ASSERT_TRUE(result.ok()) << result.status();
    const std::vector<float> got = DequantizeResult(*result);
    for (int64_t r = all ? 0 : 1; r < kRows; r += all ? 1 : 2) {
      for (int64_t j = 0; j < kColumns; ++j) {
        EXPECT_EQ(got[r * kColumns + j],
                  RoundToF16(layer.weight[r * kColumns + j]));
      }
    }
    const auto h = HessianView::Create(layer.hessian, kColumns, 1.0);
    ASSERT_TRUE(h.ok());
    const double direct =
        QuadraticLoss(layer.weight.data(), got.data(), kRows, *h);
    EXPECT_NEAR(result->loss, direct, 2e-3 * direct);
  }
}

TEST(QuantizeRowsTest, FileBitsCountEveryTensor) {
  const Layer layer = RandomLayer();
  QuantizeOptions options = ByRows(Alternating(kRows, 3, 16));
  options.group_size = 16;  // Three groups.
  const auto result = QuantizeLinear(layer.Problem(), options);
  ASSERT_TRUE(result.ok());
  // Six rows of 3 bits in 14 bytes, five of F16; a byte and 3 ranges each.
  const int64_t bytes = 6 * 14 + 5 * 2 * kColumns + kRows * (1 + 3 * 4);
  EXPECT_DOUBLE_EQ(result->file_bits, 8.0 * bytes / (kRows * kColumns));
  EXPECT_EQ(RowBitsFileBits(kRows, kColumns, 3, 5, 3, 16), 8 * bytes);
}

TEST(QuantizeRowsTest, RoundRowsIsNearestAtEachRowsBits) {
  const Layer layer = RandomLayer();
  const std::vector<uint8_t> bits = Alternating(kRows, 2, 16);
  const auto rounded =
      RoundRows(layer.weight.data(), kRows, kColumns, 16, bits);
  ASSERT_TRUE(rounded.ok());
  const auto grid = MakeGrid(layer.weight.data(), kRows, kColumns,
                             {.group_size = 16, .levels = 4, .f16 = true});
  ASSERT_TRUE(grid.ok());
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t j = 0; j < kColumns; ++j) {
      const float w = layer.weight[r * kColumns + j];
      const GridPoint p =
          MakeGridPoint(grid->Min(r, j / 16), grid->Max(r, j / 16), 4);
      EXPECT_EQ((*rounded)[r * kColumns + j],
                bits[r] == 16 ? RoundToF16(w) : Decode(Encode(w, p), p));
    }
  }
}

TEST(QuantizeRowsTest, RefinementDoesNotMakeItWorse) {
  const Layer layer = RandomLayer();
  QuantizeOptions options = ByRows(Alternating(kRows, 2, 3));
  const auto plain = QuantizeLinear(layer.Problem(), options);
  options.refine_sweeps = 2;
  const auto refined = QuantizeLinear(layer.Problem(), options);
  ASSERT_TRUE(plain.ok() && refined.ok());
  EXPECT_LT(refined->loss, plain->loss);
}

TEST(QuantizeRowsTest, GivenCodesAreDescribedAsTheyWouldHaveBeenFound) {
  const Layer layer = RandomLayer();
  std::vector<uint8_t> bits = Alternating(kRows, 2, 3);
  bits[4] = 16;
  QuantizeOptions options = ByRows(bits);
  options.group_size = 10;
  const QuantizedResult found = *QuantizeLinear(layer.Problem(), options);
  const QuantizedResult given = *DescribeCodes(layer.Problem(), bits, 10,
                                               {.range_min = found.range_min,
                                                .range_max = found.range_max,
                                                .codes = found.codes});
  EXPECT_EQ(DequantizeResult(given), DequantizeResult(found));
  EXPECT_NEAR(given.loss, found.loss, 1e-4 * found.loss);
  EXPECT_EQ(given.code_bits, found.code_bits);
  EXPECT_EQ(given.file_bits, found.file_bits);
  const std::vector<float> decoded = DequantizeResult(given);
  double error = 0;
  for (int64_t r = 0; r < kRows; ++r) {
    const int64_t at = r * kColumns + 5;
    error += std::pow(double{layer.weight[at]} - decoded[at], 2);
  }
  const double diagonal = layer.hessian[5 * kColumns + 5];
  EXPECT_NEAR(given.column_loss[5], 0.5 * diagonal * error,
              1e-6 * diagonal * error);
  EXPECT_FALSE(DescribeCodes(layer.Problem(), bits, 0,
                             {.range_min = found.range_min,
                              .range_max = found.range_max,
                              .codes = found.codes})
                   .ok());
}

TEST(QuantizeRowsTest, BadRowBitsAreRefused) {
  const Layer layer = RandomLayer();
  EXPECT_THAT(
      QuantizeLinear(layer.Problem(), ByRows({2, 3})).status().message(),
      HasSubstr("2 row bits for 11 rows"));
  EXPECT_THAT(QuantizeLinear(layer.Problem(), ByRows(Alternating(kRows, 2, 9)))
                  .status()
                  .message(),
              HasSubstr("row 1 has 9 bits"));
  QuantizeOptions baq = ByRows(Alternating(kRows, 2, 3));
  baq.method = Method::kBaq;
  EXPECT_THAT(QuantizeLinear(layer.Problem(), baq).status().message(),
              HasSubstr("gptq only"));
}

}  // namespace
}  // namespace bitwright::quant
