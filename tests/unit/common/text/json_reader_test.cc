#include "common/text/json_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace bitwright {
namespace {

using ::testing::HasSubstr;

std::string Message(const absl::Status& status) {
  return std::string(status.message());
}

TEST(ParseJsonTest, NamesTheSource) {
  const auto json = ParseJson("{\"a\": ", "x.json");
  EXPECT_EQ(json.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(json.status()), HasSubstr("x.json"));
  EXPECT_FALSE(ParseJson("", "x.json").ok());
  EXPECT_FALSE(ParseJson("{} {}", "x.json").ok());
  EXPECT_FALSE(ParseJson("\"\xFF\"", "x.json").ok());
  EXPECT_FALSE(ParseJson("\"\\ud800\"", "x.json").ok());
}

TEST(ParseJsonTest, BoundsTheDepth) {
  const std::string deep = std::string(100000, '[') + std::string(100000, ']');
  EXPECT_THAT(Message(ParseJson(deep, "x").status()), HasSubstr("nested"));
  EXPECT_TRUE(ParseJson("[\"" + std::string(1000, '[') + "\\\"[\"]", "x").ok());
  EXPECT_TRUE(ParseJson(std::string(64, '[') + std::string(64, ']'), "x").ok());
}

TEST(ObjectReaderTest, ChecksEveryType) {
  const auto json = *ParseJson(
      R"({"s": "t", "b": true, "n": 7, "neg": -1, "f": 1.5, "z": null})", "x");
  const auto reader = *ObjectReader::Create(json, "x");
  EXPECT_EQ(*reader.String("s"), "t");
  EXPECT_TRUE(*reader.Bool("b", absl::nullopt));
  EXPECT_TRUE(*reader.Bool("absent", true));
  EXPECT_TRUE(*reader.Bool("z", true));
  EXPECT_EQ(*reader.Index("n", 8), 7);
  EXPECT_FALSE(reader.Index("n", 7).ok());
  EXPECT_FALSE(reader.Index("neg", 8).ok());
  EXPECT_FALSE(reader.Index("f", 8).ok());
  EXPECT_FALSE(reader.Bool("absent", absl::nullopt).ok());
  EXPECT_FALSE(reader.Bool("s", true).ok());
  EXPECT_FALSE(reader.Array("s").ok());
  EXPECT_THAT(Message(reader.String("n").status()),
              HasSubstr("x.n: expected a string, found number"));
  EXPECT_THAT(Message(reader.Object("z").status()), HasSubstr("found nothing"));
  EXPECT_FALSE(ObjectReader::Create(*ParseJson("[]", "x"), "x").ok());
}

TEST(ObjectReaderTest, RefusesUnknownKeys) {
  const auto json = *ParseJson(R"({"type": "A", "novel": 1})", "x");
  const auto reader = *ObjectReader::Create(json, "x");
  EXPECT_TRUE(reader.AllowOnly({"type", "novel", "other"}).ok());
  const auto status = reader.AllowOnly({"type"});
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(Message(status), HasSubstr("novel"));
}

}  // namespace
}  // namespace bitwright
