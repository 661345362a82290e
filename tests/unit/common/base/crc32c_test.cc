#include "common/base/crc32c.h"

#include <string>

#include "gtest/gtest.h"

namespace bitwright {
namespace {

// Bit by bit, from the definition.
uint32_t Reference(absl::string_view data) {
  uint32_t crc = ~0u;
  for (unsigned char byte : data) {
    crc ^= byte;
    for (int i = 0; i < 8; ++i) {
      crc = (crc >> 1) ^ (crc & 1 ? 0x82F63B78u : 0);
    }
  }
  return ~crc;
}

TEST(Crc32cTest, CheckValueOfTheStandard) {
  EXPECT_EQ(Crc32c("123456789"), 0xE3069283u);
  EXPECT_EQ(Crc32c(""), 0u);
  // RFC 3720, B.4.
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(Crc32c(std::string(32, '\xff')), 0x62A8AB43u);
}

TEST(Crc32cTest, EveryLengthAndAlignment) {
  std::string data;
  for (int i = 0; i < 70; ++i) data += static_cast<char>(i * 37 + 11);
  for (size_t start = 0; start < 9; ++start) {
    for (size_t length = 0; start + length <= data.size(); ++length) {
      auto piece = absl::string_view(data).substr(start, length);
      EXPECT_EQ(Crc32c(piece), Reference(piece)) << start << " " << length;
    }
  }
}

}  // namespace
}  // namespace bitwright
