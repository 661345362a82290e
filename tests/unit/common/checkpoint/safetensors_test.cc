#include "common/checkpoint/safetensors.h"

#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bitwright {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string File(const std::string& header, size_t data_bytes,
                 int64_t length = -1) {
  const uint64_t n = length < 0 ? header.size() : length;
  std::string file(8, '\0');
  std::memcpy(file.data(), &n, 8);
  return file + header + std::string(data_bytes, '\1');
}

std::string Entry(const std::string& name, const std::string& dtype,
                  const std::string& shape, const std::string& offsets) {
  return absl::StrCat("\"", name, "\":{\"dtype\":\"", dtype,
                      "\",\"shape\":", shape, ",\"data_offsets\":", offsets,
                      "}");
}

absl::Status StatusOf(const std::string& bytes) {
  return SafetensorsFile::Parse(bytes, "bad.safetensors").status();
}

TEST(SafetensorsTest, RoundTrip) {
  const std::vector<Tensor> tensors = {
      FloatTensor("b", {2, 3}, {1, 2, 3, 4, 5, 6}),
      {{"a \"quoted\" \xC3\xA9", DType::kU8, {3}}, "xyz"},
      {{"empty", DType::kF16, {0, 5}}, ""},
      {{"scalar", DType::kI64, {}}, std::string("\7\0\0\0\0\0\0\0", 8)},
  };
  const std::string bytes =
      SerializeSafetensors(tensors, {{"k", "v"}, {"a", "1"}});
  auto file = SafetensorsFile::Parse(bytes, "x");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->tensors().size(), 4u);
  EXPECT_EQ((*file)->metadata().at("k"), "v");
  EXPECT_EQ(*(*file)->ReadFloats("b", {2, 3}),
            (std::vector<float>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ((*file)->Data(**(*file)->Require("a \"quoted\" \xC3\xA9")), "xyz");
  EXPECT_EQ(*(*file)->ReadIntegers("scalar"), std::vector<int64_t>{7});
  EXPECT_EQ((*file)->Find("nothing"), nullptr);
  EXPECT_TRUE(absl::IsNotFound((*file)->Require("nothing").status()));
  EXPECT_THAT(
      std::string((*file)->ReadFloats("b", {3, 2}).status().message()),
      AllOf(HasSubstr("tensor b"), HasSubstr("[2, 3]"), HasSubstr("[3, 2]")));
  EXPECT_FALSE((*file)->ReadIntegers("b").ok());
}

TEST(SafetensorsTest, StreamedFileEqualsSerializedOne) {
  auto directory = TempDirectory::Create("safetensors");
  ASSERT_TRUE(directory.ok());
  const std::string path = directory->path() + "/f.safetensors";
  const std::vector<Tensor> tensors = {FloatTensor("w", {4}, {1, 2, 3, 4}),
                                       {{"u", DType::kU8, {2}}, "ab"}};
  auto writer = SafetensorsWriter::Create(
      path, {tensors[0].spec, tensors[1].spec}, {{"format", "pt"}});
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE((*writer)->Append(tensors[0].bytes.substr(0, 5)).ok());
  ASSERT_TRUE((*writer)->Append(tensors[0].bytes.substr(5) + "a").ok());
  EXPECT_TRUE(absl::IsFailedPrecondition((*writer)->Close()));
  ASSERT_TRUE((*writer)->Append("b").ok());
  EXPECT_TRUE(absl::IsFailedPrecondition((*writer)->Append("c")));
  ASSERT_TRUE((*writer)->Close().ok());
  const std::string expected =
      SerializeSafetensors(tensors, {{"format", "pt"}});
  EXPECT_EQ(*ReadFile(path), expected);
  EXPECT_EQ((*writer)->digest(), DigestOf(expected));
  auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  (*file)->Drop((*file)->tensors()[0]);
  EXPECT_EQ(*(*file)->ReadFloats("w", {4}), (std::vector<float>{1, 2, 3, 4}));
}

TEST(SafetensorsTest, WriterRefusesBadSpecs) {
  auto directory = TempDirectory::Create("safetensors");
  const std::string path = directory->path() + "/f";
  EXPECT_FALSE(
      SafetensorsWriter::Create(path, {{"a", DType::kF32, {-1}}}, {}).ok());
  EXPECT_FALSE(SafetensorsWriter::Create(
                   path, {{"a", DType::kF32, {1}}, {"a", DType::kF32, {1}}}, {})
                   .ok());
  EXPECT_FALSE(SafetensorsWriter::Create(
                   path, {{"a", DType::kF32, {1LL << 40, 1LL << 40}}}, {})
                   .ok());
}

struct BadFile {
  const char* why;
  std::string bytes;
  std::string message;  // Part of it.
};

TEST(SafetensorsTest, EveryBadFileIsRefused) {
  const std::string good = Entry("w", "F32", "[2]", "[0,8]");
  const BadFile kFiles[] = {
      {"empty", "", "0 bytes"},
      {"seven bytes", std::string(7, '\0'), "7 bytes"},
      {"lying length", File("{" + good + "}", 8, 1000), "truncated"},
      {"length beyond 100 MB", File("{}", 0, 100'000'001), "100000000"},
      {"length of all ones", std::string(8, '\xff') + "{}", "100000000"},
      {"no object", File("[1]", 0), "does not start with {"},
      {"leading space", File(" {}", 0), "does not start with {"},
      {"empty header", File("", 0), "does not start with {"},
      {"not JSON", File("{\"a\":", 0), "not JSON"},
      {"text after", File("{} {}", 0), "not JSON"},
      {"bad UTF-8", File("{\"\xff\":{}}", 0), "not JSON"},
      {"truncated data", File("{" + good + "}", 7), "tensor w"},
      {"bytes after", File("{" + good + "}", 9), "belong to no tensor"},
      {"overlap",
       File("{" + good + "," + Entry("v", "F32", "[2]", "[4,12]") + "}", 12),
       "tensor v at bytes [4, 12) overlaps w"},
      {"same span twice",
       File("{" + good + "," + Entry("v", "F32", "[2]", "[0,8]") + "}", 8),
       "overlaps v"},
      {"hole",
       File("{" + good + "," + Entry("v", "F32", "[1]", "[12,16]") + "}", 16),
       "tensor v at bytes [12, 16) leaves a hole"},
      {"hole at the start",
       File("{" + Entry("w", "U8", "[1]", "[1,2]") + "}", 2), "hole"},
      {"span differs", File("{" + Entry("w", "F32", "[3]", "[0,8]") + "}", 8),
       "takes 12 bytes"},
      {"backwards", File("{" + Entry("w", "U8", "[1]", "[8,0]") + "}", 8),
       "ends before it begins"},
      {"negative dimension",
       File("{" + Entry("w", "F32", "[-2]", "[0,8]") + "}", 8), "negative"},
      {"two negative dimensions",
       File("{" + Entry("w", "F32", "[-2,-1]", "[0,8]") + "}", 8), "negative"},
      {"product wraps to 8 bytes",
       File("{" + Entry("w", "F32", "[4611686018427387904,4,2]", "[0,0]") + "}",
            0),
       "impossible shape"},
      {"product wraps behind a zero",
       File("{" + Entry("w", "F32", "[0,4611686018427387904,1024]", "[0,0]") +
                "}",
            0),
       "impossible shape"},
      {"dimension beyond 63 bits",
       File("{" + Entry("w", "U8", "[18446744073709551615]", "[0,0]") + "}", 0),
       "63 bits"},
      {"fraction", File("{" + Entry("w", "F32", "[2.0]", "[0,8]") + "}", 8),
       "2.0"},
      {"exponent", File("{" + Entry("w", "F32", "[2e0]", "[0,8]") + "}", 8),
       "2e0"},
      {"huge number",
       File("{" + Entry("w", "F32", "[1e999999]", "[0,8]") + "}", 8), ""},
      {"unknown dtype",
       File("{" + Entry("w", "F8_E5M2", "[2]", "[0,2]") + "}", 2),
       "unknown dtype \"F8_E5M2\""},
      {"name twice", File("{" + good + "," + good + "}", 8), "w occurs twice"},
      {"dtype twice",
       File("{\"w\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],"
            "\"data_offsets\":[0,8]}}",
            8),
       "\"dtype\" occurs twice"},
      {"metadata key twice",
       File("{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0), "occurs twice"},
      {"metadata not text", File("{\"__metadata__\":{\"a\":1}}", 0),
       "__metadata__"},
      {"metadata nested", File("{\"__metadata__\":{\"a\":{}}}", 0),
       "__metadata__"},
      {"no dtype", File("{\"w\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8),
       "needs dtype"},
      {"one offset", File("{" + Entry("w", "F32", "[2]", "[8]") + "}", 8),
       "two numbers"},
      {"three offsets",
       File("{" + Entry("w", "F32", "[2]", "[0,8,9]") + "}", 8),
       "third offset"},
      {"unknown key",
       File("{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],"
            "\"x\":1}}",
            8),
       "unknown key \"x\""},
      {"tensor is a number", File("{\"w\":5}", 0), "tensor w"},
      {"tensor is null", File("{\"w\":null}", 0), "tensor w"},
      {"shape is text",
       File("{" + Entry("w", "F32", "\"2\"", "[0,8]") + "}", 8), "tensor w"},
      {"nested shape", File("{" + Entry("w", "F32", "[[2]]", "[0,8]") + "}", 8),
       "tensor w"},
      {"too many dimensions",
       File("{" +
                Entry("w", "F32", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2]",
                      "[0,8]") +
                "}",
            8),
       "17th"},
      {"deep nesting", File("{\"w\":" + std::string(1'000'000, '['), 0), ""},
      {"deep objects",
       [] {
         std::string text = "{";
         for (int i = 0; i < 100'000; ++i) text += "\"a\":{";
         return File(text, 0);
       }(),
       ""},
  };
  for (const BadFile& bad : kFiles) {
    const absl::Status status = StatusOf(bad.bytes);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << bad.why << ": " << status;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("bad.safetensors"), HasSubstr(bad.message)))
        << bad.why;
  }
}

TEST(SafetensorsTest, UnusualButGoodFiles) {
  // Padding after the JSON, unsorted entries, empty tensors between others.
  const std::string header = "{" + Entry("b", "U8", "[2]", "[1,3]") + "," +
                             Entry("none", "F32", "[0]", "[1,1]") + "," +
                             Entry("a", "U8", "[1]", "[0,1]") + "}   \n ";
  auto file = SafetensorsFile::Parse(File(header, 3), "x");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->tensors()[0].name, "a");
  EXPECT_EQ((*file)->tensors()[2].name, "b");
  EXPECT_TRUE(SafetensorsFile::Parse(File("{}", 0), "x").ok());
}

// No flip of a single byte of the header may crash the reader, or make it hand
// out data beyond the file.
TEST(SafetensorsTest, MutatedHeadersNeverEscape) {
  const std::string good = SerializeSafetensors(
      {FloatTensor("w", {2, 2}, {1, 2, 3, 4}), {{"u", DType::kU8, {3}}, "abc"}},
      {{"k", "v"}});
  int accepted = 0;
  for (size_t i = 0; i < good.size() - 19; ++i) {
    for (int flip = 1; flip < 256; ++flip) {
      std::string bytes = good;
      bytes[i] = static_cast<char>(bytes[i] ^ flip);
      auto file = SafetensorsFile::Parse(bytes, "x");
      if (!file.ok()) continue;
      ++accepted;
      for (const TensorInfo& info : (*file)->tensors()) {
        ASSERT_EQ((*file)->Data(info).size(), info.num_bytes());
        ASSERT_EQ(info.num_elements() * SizeOf(info.dtype), info.num_bytes());
      }
    }
  }
  EXPECT_GT(accepted, 0);  // Other names, for example.
}

TEST(SafetensorsTest, MissingFileIsNotFound) {
  EXPECT_TRUE(
      absl::IsNotFound(SafetensorsFile::Open("/nonexistent/x").status()));
}

}  // namespace
}  // namespace bitwright
