#include "common/checkpoint/native.h"

#include <chrono>
#include <cmath>
#include <cstring>
#include <random>
#include <set>

#include "common/checkpoint/dtype.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "test_model.h"

namespace bitwright {
namespace {

using ::testing::HasSubstr;
using testing_model::RandomLinear;

// Straight from formats.md, digit by digit, without any of the fast paths.
std::string ReferencePack(const std::vector<uint8_t>& codes, int levels) {
  std::string out;
  if (levels == 1) return out;
  int bits = 0;
  while ((1 << bits) < levels) ++bits;
  if ((1 << bits) == levels) {
    out.resize((codes.size() * bits + 7) / 8);
    for (size_t i = 0; i < codes.size() * bits; ++i) {
      if (codes[i / bits] >> (i % bits) & 1) out[i / 8] |= 1 << (i % 8);
    }
    return out;
  }
  size_t k = 0;
  for (unsigned __int128 p = levels; p <= (unsigned __int128)1 << 64;
       p *= levels) {
    ++k;
  }
  for (size_t i = 0; i < codes.size(); i += k) {
    uint64_t word = 0, place = 1;
    for (size_t j = i; j < std::min(i + k, codes.size()); ++j) {
      word += codes[j] * place;
      place *= levels;
    }
    out.append(reinterpret_cast<const char*>(&word), 8);
  }
  return out;
}

TEST(NativeTest, EveryLevelCountAndManyLengths) {
  std::mt19937 random(1);
  for (int levels = 1; levels <= 256; ++levels) {
    for (int count : {0, 1, 7, 8, 9, 39, 40, 41, 80, 81, 255, 1000}) {
      std::vector<uint8_t> codes(count);
      for (uint8_t& code : codes) code = random() % levels;
      if (count > 1) codes[0] = codes[count - 1] = levels - 1;
      std::string packed = "#";
      PackRun(codes, levels, &packed);
      packed.erase(0, 1);
      ASSERT_EQ(packed, ReferencePack(codes, levels)) << levels << " " << count;
      ASSERT_EQ(PackedRunBytes(count, levels),
                static_cast<int64_t>(packed.size()));
      std::vector<uint8_t> back(count, 77);
      ASSERT_TRUE(UnpackRun(packed, levels, absl::MakeSpan(back)).ok());
      ASSERT_EQ(back, codes) << levels << " " << count;
    }
    // All codes at their largest: the largest words there are.
    std::vector<uint8_t> largest(200, levels - 1), back(200);
    std::string packed;
    PackRun(largest, levels, &packed);
    ASSERT_TRUE(UnpackRun(packed, levels, absl::MakeSpan(back)).ok()) << levels;
    ASSERT_EQ(back, largest) << levels;
  }
}

// The figures that formats.md states.
TEST(NativeTest, CodesPerWordAsStated) {
  const struct {
    int levels, per_word;
  } kCases[] = {{3, 40}, {5, 27}, {6, 24}, {7, 22}, {9, 20}, {255, 8}};
  for (const auto& test : kCases) {
    EXPECT_EQ(PackedRunBytes(test.per_word, test.levels), 8) << test.levels;
    EXPECT_EQ(PackedRunBytes(test.per_word + 1, test.levels), 16)
        << test.levels;
  }
  EXPECT_EQ(PackedRunBytes(4000, 3) * 8, 4000 * 1.6);
  EXPECT_EQ(PackedRunBytes(1000, 9) * 8, 1000 * 3.2);
  EXPECT_EQ(PackedRunBytes(1000, 8) * 8, 3000);
  EXPECT_EQ(PackedRunBytes(1000, 1), 0);
  EXPECT_EQ(PackedRunBytes(3, 2), 1);
}

TEST(NativeTest, ImpossibleRunsAreDataLoss) {
  std::vector<uint8_t> codes(41);
  const std::string ones(16, '\xff');
  EXPECT_TRUE(absl::IsDataLoss(UnpackRun(ones, 3, absl::MakeSpan(codes))));
  // The padding of the last word: a 42nd code.
  std::string padded(16, '\0');
  padded[8] = 3;
  EXPECT_TRUE(absl::IsDataLoss(UnpackRun(padded, 3, absl::MakeSpan(codes))));
  padded[8] = 2;
  EXPECT_TRUE(UnpackRun(padded, 3, absl::MakeSpan(codes)).ok());
  EXPECT_EQ(codes[40], 2);
  std::vector<uint8_t> three(3);
  EXPECT_TRUE(UnpackRun("\x07", 2, absl::MakeSpan(three)).ok());
  EXPECT_TRUE(absl::IsDataLoss(UnpackRun("\x08", 2, absl::MakeSpan(three))));
  EXPECT_TRUE(absl::IsDataLoss(UnpackRun("", 2, absl::MakeSpan(three))));
  EXPECT_FALSE(UnpackRun("", 0, absl::MakeSpan(three)).ok());
  EXPECT_FALSE(UnpackRun("", 257, absl::MakeSpan(three)).ok());
}

TEST(NativeTest, ColumnsByLevelsThenIndex) {
  // Levels 4, 2, 1, 2: the runs are columns 1, 3 (2 levels), then 0.
  const std::vector<uint16_t> levels = {4, 2, 1, 2};
  const std::vector<uint8_t> codes = {3, 1, 0, 0,   //
                                      0, 0, 0, 1,   //
                                      2, 1, 0, 1};  // [3, 4]
  const std::string packed = PackCodes(codes, 3, levels);
  EXPECT_EQ(packed, std::string("\x05\x06\x23", 3));
  QuantizedLinear linear;
  linear.rows = 3;
  linear.cols = 4;
  linear.levels = levels;
  linear.range_min.assign(3, FloatToHalf(-1));
  linear.range_max.assign(3, FloatToHalf(2));
  linear.codes = packed;
  auto back = UnpackCodes(linear);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*back, codes);
  // 4 levels: scale 1, zero 1. 2 levels: scale 3, zero rint(1/3) = 0.
  EXPECT_EQ(*Dequantize(linear), (std::vector<float>{2, 3, 0, 0,   //
                                                     -1, 0, 0, 3,  //
                                                     1, 3, 0, 3}));
  EXPECT_DOUBLE_EQ(linear.CodeBitsPerWeight(), (2 + 1 + 0 + 1) / 4.0);
  EXPECT_DOUBLE_EQ(linear.FileBitsPerWeight(),
                   8.0 * (3 + 2 * 4 + 2 * 2 * 3) / 12);
}

TEST(NativeTest, DequantizesByTheFormula) {
  for (int64_t group_size : {0, 1, 16, 100, 1000}) {
    const int64_t rows = 37, cols = 150;
    const QuantizedLinear linear = RandomLinear(rows, cols, group_size, 5);
    auto codes = UnpackCodes(linear);
    ASSERT_TRUE(codes.ok()) << codes.status();
    auto weight = Dequantize(linear);
    ASSERT_TRUE(weight.ok()) << weight.status();
    const int64_t width = group_size == 0 ? cols : group_size;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) {
        const int64_t i = r * linear.groups() + c / width;
        float expected = 0;
        if (linear.levels[c] > 1) {
          const float low = HalfToFloat(linear.range_min[i]);
          const float high = HalfToFloat(linear.range_max[i]);
          const float scale = (high - low) / (linear.levels[c] - 1);
          const float zero = std::rint(-low / scale);
          expected = scale * ((*codes)[r * cols + c] - zero);
        }
        ASSERT_EQ((*weight)[r * cols + c], expected) << r << " " << c;
      }
    }
  }
}

TEST(NativeTest, DamagedPartsAreNamed) {
  const QuantizedLinear good = RandomLinear(20, 30, 8, 9);
  ASSERT_TRUE(Dequantize(good).ok());
  auto message = [&](auto damage) {
    QuantizedLinear bad = good;
    damage(&bad);
    const absl::Status status = Dequantize(bad).status();
    EXPECT_FALSE(status.ok());
    return std::string(status.message());
  };
  EXPECT_THAT(message([](QuantizedLinear* l) { l->levels.pop_back(); }),
              HasSubstr("weight_levels"));
  EXPECT_THAT(message([](QuantizedLinear* l) { l->levels[3] = 0; }),
              HasSubstr("column 3 has 0 levels"));
  EXPECT_THAT(message([](QuantizedLinear* l) { l->levels[3] = 257; }),
              HasSubstr("257"));
  EXPECT_THAT(message([](QuantizedLinear* l) { l->codes += 'x'; }),
              HasSubstr("weight_codes"));
  EXPECT_THAT(message([](QuantizedLinear* l) { l->range_min.pop_back(); }),
              HasSubstr("weight_min"));
  EXPECT_THAT(message([](QuantizedLinear* l) { l->range_max[5] = 0x7c00; }),
              HasSubstr("row 1, group 1"));
  EXPECT_THAT(
      message([](QuantizedLinear* l) { l->range_min[0] = l->range_max[0]; }),
      HasSubstr("impossible range"));
  EXPECT_THAT(message([](QuantizedLinear* l) { l->rows = -1; }),
              HasSubstr("impossible shape"));
  EXPECT_THAT(message([](QuantizedLinear* l) { l->rows = int64_t{1} << 62; }),
              HasSubstr("impossible shape"));
}

TEST(NativeTest, BlobRoundTrip) {
  LinearBlob blob;
  blob.name = "model.layers.0.fc1";
  blob.linear = RandomLinear(11, 13, 4, 2);
  blob.report = "{\"loss\": 0.5}";
  const std::string bytes = SerializeLinearBlob(blob);
  EXPECT_EQ(bytes, SerializeLinearBlob(blob));
  auto back = ParseLinearBlob(bytes, "blob");
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->name, blob.name);
  EXPECT_EQ(back->report, blob.report);
  EXPECT_EQ(back->linear.group_size, 4);
  EXPECT_EQ(back->linear.levels, blob.linear.levels);
  EXPECT_EQ(back->linear.range_min, blob.linear.range_min);
  EXPECT_EQ(back->linear.range_max, blob.linear.range_max);
  EXPECT_EQ(back->linear.codes, blob.linear.codes);
}

TEST(NativeTest, BadBlobsAreRefused) {
  LinearBlob blob;
  blob.name = "p";
  blob.linear = RandomLinear(4, 6, 0, 2);
  const std::vector<Tensor> tensors = ToTensors(blob.linear, "p");
  const std::map<std::string, std::string> metadata = {
      {"name", "p"}, {"rows", "4"}, {"cols", "6"}, {"group_size", "0"}};
  ASSERT_TRUE(
      ParseLinearBlob(SerializeSafetensors(tensors, metadata), "b").ok());
  auto fails = [&](const std::vector<Tensor>& t,
                   std::map<std::string, std::string> m) {
    auto result = ParseLinearBlob(SerializeSafetensors(t, m), "b");
    EXPECT_FALSE(result.ok());
    return !result.ok();
  };
  for (const char* key : {"name", "rows", "cols", "group_size"}) {
    auto without = metadata;
    without.erase(key);
    EXPECT_TRUE(fails(tensors, without)) << key;
  }
  auto changed = metadata;
  changed["rows"] = "5";
  EXPECT_TRUE(fails(tensors, changed));
  changed["rows"] = "99999999999999999999";
  EXPECT_TRUE(fails(tensors, changed));
  for (size_t i = 0; i < tensors.size(); ++i) {
    auto fewer = tensors;
    fewer.erase(fewer.begin() + i);
    EXPECT_TRUE(fails(fewer, metadata)) << i;
    auto other = tensors;
    other[i].spec.dtype = i == 3 ? DType::kI8 : DType::kI16;
    EXPECT_TRUE(fails(other, metadata)) << i;
  }
  EXPECT_FALSE(ParseLinearBlob("junk", "b").ok());
}

// Not timed against a limit: only printed, for whoever looks.
TEST(NativeTest, LargeLayerRoundTrip) {
  const int64_t n = 2048;
  const QuantizedLinear linear = RandomLinear(n, n, 128, 3);
  auto seconds = [](auto start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() -
                                         start)
        .count();
  };
  auto start = std::chrono::steady_clock::now();
  auto codes = UnpackCodes(linear);
  ASSERT_TRUE(codes.ok());
  const double unpack = seconds(start);
  start = std::chrono::steady_clock::now();
  EXPECT_EQ(PackCodes(*codes, n, linear.levels), linear.codes);
  const double pack = seconds(start);
  start = std::chrono::steady_clock::now();
  EXPECT_TRUE(Dequantize(linear).ok());
  const double dequantize = seconds(start);
  std::printf("2048x2048: unpack %.3f s, pack %.3f s, dequantize %.3f s\n",
              unpack, pack, dequantize);
}

}  // namespace
}  // namespace bitwright
