// Linears with bits by rows (weight_row_bits): native.h, and the checkpoints
// that hold them.
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "absl/strings/str_join.h"
#include "common/base/file.h"
#include "common/checkpoint/checkpoint_writer.h"
#include "common/checkpoint/dtype.h"
#include "common/checkpoint/native.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "test_model.h"

namespace bitwright {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing_model::RandomLinear;
using testing_model::RandomMixedLinear;
using testing_model::RandomRowLinear;

// Row by row from formats.md, without the codec.
struct Reference {
  std::string packed;
  std::vector<uint8_t> codes;
  std::vector<float> weight;
};
Reference ReferenceRows(const QuantizedLinear& linear, std::mt19937& random) {
  const int64_t rows = linear.rows, cols = linear.cols;
  Reference out{"", std::vector<uint8_t>(rows * cols),
                std::vector<float>(rows * cols)};
  const int64_t width = linear.group_size == 0 ? cols : linear.group_size;
  for (int bits = 1; bits <= 16; ++bits) {
    for (int64_t r = 0; r < rows; ++r) {
      if (linear.row_bits[r] != bits) continue;
      std::vector<bool> stream;
      for (int64_t c = 0; c < cols; ++c) {
        uint32_t code = random() % (1 << bits);
        const int64_t i = r * linear.groups() + c / width;
        if (bits == 16) {
          code &= 0xbbff;  // Finite.
          out.weight[r * cols + c] = HalfToFloat(code);
        } else {
          out.codes[r * cols + c] = code;
          const float low = HalfToFloat(linear.range_min[i]);
          const float high = HalfToFloat(linear.range_max[i]);
          const float scale = (high - low) / ((1 << bits) - 1);
          out.weight[r * cols + c] = scale * (code - std::rint(-low / scale));
        }
        for (int b = 0; b < bits; ++b) stream.push_back(code >> b & 1);
      }
      std::string bytes((stream.size() + 7) / 8, '\0');
      for (size_t k = 0; k < stream.size(); ++k) {
        if (stream[k]) bytes[k / 8] |= static_cast<char>(1 << k % 8);
      }
      out.packed += bytes;
    }
  }
  return out;
}

TEST(NativeRowsTest, EqualsTheFormatBitForBit) {
  std::mt19937 random(1);
  for (int64_t rows : {1, 3, 8, 37}) {
    for (int64_t cols : {1, 7, 8, 9, 33, 150}) {
      for (int64_t group_size : {0, 1, 16, 1000}) {
        QuantizedLinear linear = RandomRowLinear(rows, cols, group_size, 5);
        const Reference want = ReferenceRows(linear, random);
        linear.codes = want.packed;
        auto codes = UnpackCodes(linear);
        ASSERT_TRUE(codes.ok()) << codes.status();
        EXPECT_EQ(*codes, want.codes);
        auto weight = Dequantize(linear);
        ASSERT_TRUE(weight.ok()) << weight.status();
        ASSERT_EQ(std::memcmp(weight->data(), want.weight.data(),
                              want.weight.size() * sizeof(float)),
                  0);
        std::vector<float> f16_rows;
        for (int64_t r = 0; r < rows; ++r) {
          if (linear.row_bits[r] != 16) continue;
          f16_rows.insert(f16_rows.end(), weight->begin() + r * cols,
                          weight->begin() + (r + 1) * cols);
        }
        EXPECT_EQ(PackRowCodes(*codes, cols, linear.row_bits, f16_rows),
                  want.packed);
      }
    }
  }
}

TEST(NativeRowsTest, RowsByBitsThenIndex) {
  // Bits 2, 1, 16, 1: the runs are rows 1, 3 (1 bit), 0, then 2.
  QuantizedLinear linear;
  linear.rows = 4;
  linear.cols = 3;
  linear.row_bits = {2, 1, 16, 1};
  linear.range_min.assign(4, FloatToHalf(-1));
  linear.range_max.assign(4, FloatToHalf(2));
  const std::vector<uint8_t> codes = {3, 0, 2,  //
                                      1, 0, 1,  //
                                      0, 0, 0,  //
                                      0, 1, 1};
  linear.codes =
      PackRowCodes(codes, 3, linear.row_bits, std::vector<float>{1, -2, 0.5f});
  EXPECT_EQ(linear.codes,
            std::string("\x05\x06\x23\x00\x3c\x00\xc0\x00\x38", 9));
  EXPECT_EQ(*UnpackCodes(linear), codes);
  // 2 bits: scale 1, zero 1. 1 bit: scale 3, zero 0.
  EXPECT_EQ(*Dequantize(linear), (std::vector<float>{2, -1, 1,     //
                                                     3, 0, 3,      //
                                                     1, -2, 0.5f,  //
                                                     0, 3, 3}));
  // The mean of the bits, and a flag for each row.
  EXPECT_DOUBLE_EQ(linear.CodeBitsPerWeight(), (20 * 3 + 4) / 12.0);
  EXPECT_DOUBLE_EQ(linear.FileBitsPerWeight(), 8.0 * (9 + 4 + 2 * 2 * 4) / 12);
}

TEST(NativeRowsTest, DamagedPartsAreNamed) {
  QuantizedLinear good = RandomRowLinear(6, 30, 8, 9);
  good.row_bits = {3, 8, 16, 1, 3, 16};
  std::vector<uint8_t> codes(6 * 30, 1);
  good.codes =
      PackRowCodes(codes, 30, good.row_bits, std::vector<float>(2 * 30, 0.25f));
  ASSERT_TRUE(Dequantize(good).ok());
  auto message = [&](auto damage) {
    QuantizedLinear bad = good;
    damage(&bad);
    const absl::Status status = Dequantize(bad).status();
    EXPECT_FALSE(status.ok());
    EXPECT_EQ(UnpackCodes(bad).status(), status);
    return std::string(status.message());
  };
  EXPECT_THAT(message([](QuantizedLinear* l) { l->levels.assign(30, 2); }),
              HasSubstr("weight_levels and weight_row_bits are both there"));
  EXPECT_THAT(message([](QuantizedLinear* l) { l->row_bits.clear(); }),
              HasSubstr("weight_levels and weight_row_bits are both empty"));
  EXPECT_THAT(message([](QuantizedLinear* l) { l->row_bits.pop_back(); }),
              HasSubstr("weight_row_bits has 5 entries for 6 rows"));
  for (int bits : {0, 9, 15, 17, 255}) {
    EXPECT_THAT(
        message([bits](QuantizedLinear* l) { l->row_bits[4] = bits; }),
        HasSubstr(absl::StrCat("weight_row_bits: row 4 has ", bits, " bits")));
  }
  EXPECT_THAT(message([](QuantizedLinear* l) { l->codes += 'x'; }),
              HasSubstr("weight_codes has"));
  EXPECT_THAT(message([](QuantizedLinear* l) { l->codes.pop_back(); }),
              HasSubstr("the row bits and 30 columns need"));
  EXPECT_THAT(message([](QuantizedLinear* l) { l->range_max[5] = 0x7c00; }),
              HasSubstr("row 1, group 1"));
  // Rows 3 (4 bytes), 0, 4 (12 each), 1 (30), 2, 5 (60 each).
  EXPECT_THAT(message([](QuantizedLinear* l) { l->codes[3] |= 0x40; }),
              HasSubstr("weight_codes of row 3 (1 bits)"));
  EXPECT_THAT(message([](QuantizedLinear* l) { l->codes[27] |= 0x40; }),
              HasSubstr("weight_codes of row 4 (3 bits)"));
  EXPECT_THAT(message([](QuantizedLinear* l) {
                l->codes.replace(58 + 60 + 14, 2, "\x01\x7e", 2);
              }),
              AllOf(HasSubstr("weight_codes of row 5 (16 bits)"),
                    HasSubstr("nan at column 7")));
  EXPECT_THAT(message([](QuantizedLinear* l) {
                l->codes.replace(58, 2, std::string("\x00\xfc", 2));
              }),
              HasSubstr("row 2 (16 bits) holds -inf at column 0"));
}

TEST(NativeRowsTest, BlobRoundTrip) {
  const LinearBlob blob{.name = "model.layers.0.fc1",
                        .linear = RandomRowLinear(11, 13, 4, 2),
                        .report = "{}"};
  auto back = ParseLinearBlob(SerializeLinearBlob(blob), "blob");
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->linear.runs(), CodeRuns::kRows);
  EXPECT_EQ(back->linear.rows, 11);
  EXPECT_EQ(back->linear.cols, 13);
  EXPECT_EQ(back->linear.row_bits, blob.linear.row_bits);
  EXPECT_TRUE(back->linear.levels.empty());
  EXPECT_EQ(back->linear.range_min, blob.linear.range_min);
  EXPECT_EQ(back->linear.range_max, blob.linear.range_max);
  EXPECT_EQ(back->linear.codes, blob.linear.codes);
}

TEST(NativeRowsTest, BadBlobsAreRefused) {
  const std::vector<Tensor> tensors =
      ToTensors(RandomRowLinear(4, 6, 0, 2), "p");
  auto message = [](std::vector<Tensor> changed) {
    auto blob = ParseLinearBlob(
        SerializeSafetensors(
            changed,
            {{"name", "p"}, {"rows", "4"}, {"cols", "6"}, {"group_size", "0"}}),
        "b");
    return std::string(blob.status().message());
  };
  EXPECT_EQ(message(tensors), "");
  auto changed = tensors;
  changed.push_back(ToTensors(RandomLinear(4, 6, 0, 2), "p")[0]);
  EXPECT_THAT(message(changed),
              AllOf(HasSubstr("p.weight_levels"),
                    HasSubstr("p.weight_row_bits"), HasSubstr("both there")));
  changed = tensors;
  changed.erase(changed.begin());
  EXPECT_THAT(message(changed), HasSubstr("p.weight_row_bits"));
  changed = tensors;
  changed[0].spec.dtype = DType::kI8;
  EXPECT_THAT(message(changed), HasSubstr("weight_row_bits has the dtype I8"));
  changed = tensors;
  changed[0].spec.shape = {3};
  changed[0].bytes.pop_back();
  EXPECT_THAT(message(changed), HasSubstr("p.weight_row_bits has 3 bytes"));
}

class RowsCheckpointTest : public testing::Test {
 protected:
  RowsCheckpointTest() : temporary_(*TempDirectory::Create("native_rows")) {
    testing_model::WriteModel(Path("source"));
    source_ = *ModelDirectory::Open(Path("source"));
  }
  std::string Path(const std::string& name) {
    return temporary_.path() + "/" + name;
  }
  void Write(int64_t group_size = 0) {
    CheckpointOptions options;
    options.method = "ratio";
    options.group_size = group_size;
    options.lineage_json = testing_model::Lineage(source_->config());
    const absl::Status status = testing_model::WriteQuantized(
        *source_, Path("native"), options, RandomMixedLinear);
    ASSERT_TRUE(status.ok()) << status;
  }
  std::string OpenMessage() {
    return std::string(ModelDirectory::Open(Path("native")).status().message());
  }
  // Replaces the weights by changed ones.
  void Edit(std::function<void(std::vector<Tensor>*)> edit) {
    const std::string path = Path("native/model.safetensors");
    auto file = *SafetensorsFile::Open(path);
    std::vector<Tensor> tensors;
    for (const TensorInfo& info : file->tensors()) {
      tensors.push_back(
          {{info.name, info.dtype, info.shape}, std::string(file->Data(info))});
    }
    edit(&tensors);
    std::ofstream(path, std::ios::binary) << SerializeSafetensors(tensors);
  }

  // The first linear; RandomMixedLinear makes it by rows.
  const std::string first_ = "model.layers.0.self_attn.q_proj";
  TempDirectory temporary_;
  std::unique_ptr<ModelDirectory> source_;
};

TEST_F(RowsCheckpointTest, BothFormsInOneCheckpoint) {
  for (int64_t group_size : {0, 5}) {
    std::filesystem::remove_all(Path("native"));
    std::filesystem::remove_all(Path("dense"));
    Write(group_size);
    auto report = VerifyCheckpoint(Path("native"));
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(absl::StrJoin(report->problems, "\n"), "");
    ASSERT_TRUE(ExportDense(Path("native"), Path("dense")).ok());
    auto native = *ModelDirectory::Open(Path("native"));
    auto dense = *ModelDirectory::Open(Path("dense"));
    const auto config =
        nlohmann::json::parse(native->config_json())["quantization_config"];
    uint32_t seed = 1;
    for (const std::string& name :
         testing_model::AllLinears(source_->config())) {
      const auto shape = *source_->Shape(name + ".weight");
      const QuantizedLinear want =
          RandomMixedLinear(shape[0], shape[1], group_size, seed++);
      EXPECT_EQ(*native->Shape(name + ".weight"), shape);
      auto linear = native->ReadQuantized(name);
      ASSERT_TRUE(linear.ok()) << linear.status();
      EXPECT_EQ(linear->row_bits, want.row_bits);
      EXPECT_EQ(linear->levels, want.levels);
      EXPECT_EQ(linear->codes, want.codes);
      const auto values = *DequantizeAs(DType::kF16, want);
      EXPECT_EQ(*native->ReadFloats(name + ".weight"), values);
      EXPECT_EQ(*dense->ReadFloats(name + ".weight"), values);
      EXPECT_EQ(config["weight_columns"].contains(name),
                want.runs() == CodeRuns::kRows);
      EXPECT_EQ(config["weight_columns"].value(name, shape[1]), shape[1]);
    }
  }
}

TEST_F(RowsCheckpointTest, ConfigMustTellTheColumns) {
  Write();
  const std::string path = Path("native/config.json");
  const auto good = nlohmann::ordered_json::parse(*ReadFile(path));
  auto message = [&](nlohmann::ordered_json columns) {
    auto config = good;
    config["quantization_config"]["weight_columns"] = std::move(columns);
    std::ofstream(path) << config.dump();
    return OpenMessage();
  };
  auto columns = good["quantization_config"]["weight_columns"];
  EXPECT_EQ(message(columns), "");
  columns[first_] = 25;
  EXPECT_THAT(message(columns),
              AllOf(HasSubstr("weight_columns of " + first_ + " is 25"),
                    HasSubstr("implies 24")));
  columns[first_] = "24";
  EXPECT_THAT(message(columns), HasSubstr("weight_columns of " + first_));
  columns.erase(first_);
  EXPECT_THAT(message(columns), HasSubstr("lacks " + first_));
  EXPECT_THAT(message(nullptr), HasSubstr("weight_columns"));
}

TEST_F(RowsCheckpointTest, WrongTensorsAreNamed) {
  auto message = [&](std::function<void(std::vector<Tensor>*)> edit) {
    std::filesystem::remove_all(Path("native"));
    Write();
    Edit(std::move(edit));
    return OpenMessage();
  };
  const std::string bits = first_ + ".weight_row_bits";
  const std::string levels = first_ + ".weight_levels";
  auto find = [&](std::vector<Tensor>* tensors) {
    return std::find_if(tensors->begin(), tensors->end(),
                        [&](const Tensor& t) { return t.spec.name == bits; });
  };
  EXPECT_THAT(message([&](auto* t) { t->erase(find(t)); }),
              AllOf(HasSubstr(bits), HasSubstr(levels), HasSubstr("missing")));
  EXPECT_THAT(
      message([&](auto* t) {
        t->push_back({{levels, DType::kU16, {24}}, std::string(48, '\1')});
      }),
      AllOf(HasSubstr(bits), HasSubstr(levels), HasSubstr("both")));
  EXPECT_THAT(message([&](auto* t) {
                find(t)->bytes.pop_back();
                find(t)->spec.shape = {23};
              }),
              AllOf(HasSubstr(bits), HasSubstr("expected U8 [24]")));
  EXPECT_THAT(message([&](auto* t) { find(t)->spec.dtype = DType::kI8; }),
              AllOf(HasSubstr(bits), HasSubstr("expected U8 [24]")));
  // What headers do not tell.
  EXPECT_EQ(message([&](auto* t) { find(t)->bytes[3] = 11; }), "");
  auto report = VerifyCheckpoint(Path("native"));
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_THAT(absl::StrJoin(report->problems, "\n"),
              HasSubstr(first_ + ": weight_row_bits: row 3 has 11 bits"));
}

}  // namespace
}  // namespace bitwright
