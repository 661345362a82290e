#include "common/checkpoint/dtype.h"

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace bitwright {
namespace {

// From the definition of binary16, in float64.
double HalfValue(uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const double mantissa = bits & 1023;
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == 31) {
    return mantissa != 0 ? std::numeric_limits<double>::quiet_NaN()
                         : sign * std::numeric_limits<double>::infinity();
  }
  if (exponent == 0) return sign * std::ldexp(mantissa, -24);
  return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

TEST(DTypeTest, AllHalvesDecodeExactly) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const double expected = HalfValue(static_cast<uint16_t>(bits));
    const float value = HalfToFloat(static_cast<uint16_t>(bits));
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(value)) << bits;
      EXPECT_TRUE(std::isnan(HalfToFloat(FloatToHalf(value)))) << bits;
      continue;
    }
    ASSERT_EQ(value, expected) << bits;
    ASSERT_EQ(std::signbit(value), bits >= 0x8000) << bits;
    ASSERT_EQ(FloatToHalf(value), bits);
  }
}

// In bulk, eight at a time where the machine can, and the rest.
TEST(DTypeTest, EveryHalfIsConvertedInBulkAsAlone) {
  std::vector<uint16_t> halves(65536 + 5);
  for (size_t i = 0; i < halves.size(); ++i) {
    halves[i] = static_cast<uint16_t>(i);
  }
  std::vector<float> values(halves.size());
  ASSERT_TRUE(ToFloats(DType::kF16,
                       {reinterpret_cast<const char*>(halves.data()),
                        halves.size() * sizeof(uint16_t)},
                       absl::MakeSpan(values))
                  .ok());
  for (size_t i = 0; i < halves.size(); ++i) {
    const float want = HalfToFloat(halves[i]);
    if (std::isnan(want)) {
      EXPECT_TRUE(std::isnan(values[i])) << i;
    } else {
      EXPECT_EQ(std::bit_cast<uint32_t>(values[i]),
                std::bit_cast<uint32_t>(want))
          << i;
    }
  }
}

// Between neighbours a < b: the middle goes to the even one, everything else to
// the nearer one.
TEST(DTypeTest, HalfRoundsToNearestEven) {
  for (uint16_t bits = 0; bits < 0x7bff; ++bits) {
    const float low = HalfToFloat(bits), high = HalfToFloat(bits + 1);
    const float middle = low + (high - low) / 2;  // Exact in float.
    const uint16_t even = bits % 2 == 0 ? bits : bits + 1;
    ASSERT_EQ(FloatToHalf(middle), even) << bits;
    ASSERT_EQ(FloatToHalf(-middle), even | 0x8000) << bits;
    ASSERT_EQ(FloatToHalf(std::nextafterf(middle, 0)), bits) << bits;
    ASSERT_EQ(FloatToHalf(std::nextafterf(middle, 1e9f)), bits + 1) << bits;
  }
}

TEST(DTypeTest, HalfOverflowsToInfinity) {
  EXPECT_EQ(FloatToHalf(65504.0f), 0x7bff);
  EXPECT_EQ(FloatToHalf(std::nextafterf(65520.0f, 0)), 0x7bff);
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7c00);
  EXPECT_EQ(FloatToHalf(-1e30f), 0xfc00);
  EXPECT_EQ(FloatToHalf(std::numeric_limits<float>::denorm_min()), 0);
  EXPECT_EQ(FloatToHalf(-0x1p-25f), 0x8000);
  EXPECT_EQ(FloatToHalf(std::nextafterf(0x1p-25f, 1)), 1);
}

TEST(DTypeTest, BFloat16RoundsToNearestEven) {
  for (uint32_t high = 0; high < 0x7f7f; ++high) {
    const uint32_t base = high << 16;
    auto round = [](uint32_t bits) {
      return FloatToBFloat16(std::bit_cast<float>(bits));
    };
    ASSERT_EQ(round(base), high);
    ASSERT_EQ(round(base | 0x7fff), high);
    ASSERT_EQ(round(base | 0x8000), high % 2 == 0 ? high : high + 1);
    ASSERT_EQ(round(base | 0x8001), high + 1);
    ASSERT_EQ(round(0x80000000 | base | 0x8001), (high + 1) | 0x8000);
    ASSERT_EQ(BFloat16ToFloat(static_cast<uint16_t>(high)),
              std::bit_cast<float>(base));
  }
  EXPECT_EQ(FloatToBFloat16(std::numeric_limits<float>::max()), 0x7f80);
  // A NaN whose payload is only in the low half must not become infinity.
  EXPECT_TRUE(std::isnan(
      BFloat16ToFloat(FloatToBFloat16(std::bit_cast<float>(0x7f800001u)))));
  EXPECT_TRUE(
      std::isnan(HalfToFloat(FloatToHalf(std::bit_cast<float>(0x7f800001u)))));
}

TEST(DTypeTest, NamesAndSizes) {
  for (const char* name : {"BOOL", "U8", "I8", "U16", "I16", "F16", "BF16",
                           "U32", "I32", "F32", "U64", "I64", "F64"}) {
    auto dtype = ParseDType(name);
    ASSERT_TRUE(dtype.ok()) << name;
    EXPECT_EQ(DTypeName(*dtype), name);
    EXPECT_GE(SizeOf(*dtype), 1u);
  }
  EXPECT_EQ(SizeOf(DType::kBF16), 2u);
  EXPECT_EQ(SizeOf(DType::kI64), 8u);
  for (const char* name : {"", "f16", "F8_E4M3", "F16 "}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseDType(name).status())) << name;
  }
}

TEST(DTypeTest, BulkConversions) {
  std::mt19937 random(3);
  std::vector<float> values(1001);
  for (float& value : values) {
    value = (static_cast<float>(random()) / 4e9f - 0.5f) * 10;
  }
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    std::string bytes = "x";  // Appended to, and so misaligned.
    ASSERT_TRUE(AppendFloats(dtype, values, &bytes).ok());
    ASSERT_EQ(bytes.size(), 1 + values.size() * SizeOf(dtype));
    std::vector<float> back(values.size());
    ASSERT_TRUE(ToFloats(dtype, absl::string_view(bytes).substr(1),
                         absl::MakeSpan(back))
                    .ok());
    for (size_t i = 0; i < values.size(); ++i) {
      const float expected =
          dtype == DType::kF16    ? HalfToFloat(FloatToHalf(values[i]))
          : dtype == DType::kBF16 ? BFloat16ToFloat(FloatToBFloat16(values[i]))
                                  : values[i];
      ASSERT_EQ(back[i], expected);
    }
  }
  const double third = 1.0 / 3;
  float rounded;
  ASSERT_TRUE(ToFloats(DType::kF64, {reinterpret_cast<const char*>(&third), 8},
                       absl::MakeSpan(&rounded, 1))
                  .ok());
  EXPECT_EQ(rounded, static_cast<float>(third));
}

TEST(DTypeTest, RoundToIsWriteAndReadBack) {
  std::mt19937 random(4);
  std::vector<float> values(500);
  for (float& value : values) value = static_cast<float>(random()) / 3e9f;
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    std::string bytes;
    ASSERT_TRUE(AppendFloats(dtype, values, &bytes).ok());
    std::vector<float> back(values.size()), rounded = values;
    ASSERT_TRUE(ToFloats(dtype, bytes, absl::MakeSpan(back)).ok());
    ASSERT_TRUE(RoundTo(dtype, absl::MakeSpan(rounded)).ok());
    EXPECT_EQ(rounded, back) << DTypeName(dtype);
    EXPECT_EQ(rounded == values, dtype == DType::kF32);
  }
  EXPECT_FALSE(RoundTo(DType::kI32, absl::MakeSpan(values)).ok());
}

TEST(DTypeTest, BulkConversionsRefuse) {
  std::vector<float> out(2);
  std::string bytes(8, '\0');
  EXPECT_FALSE(ToFloats(DType::kI32, bytes, absl::MakeSpan(out)).ok());
  EXPECT_FALSE(ToFloats(DType::kF16, bytes, absl::MakeSpan(out)).ok());
  EXPECT_FALSE(AppendFloats(DType::kF64, out, &bytes).ok());
  EXPECT_EQ(bytes.size(), 8u);
}

}  // namespace
}  // namespace bitwright
