#include "common/text/utf8.h"

#include <gtest/gtest.h>

namespace bitwright {
namespace {

TEST(Utf8Test, EveryCodePointGoesThereAndBack) {
  for (char32_t code = 0; code < 0x110000; ++code) {
    if (code >= 0xD800 && code < 0xE000) continue;
    std::string text = "x";
    AppendUtf8(code, &text);
    ASSERT_TRUE(IsValidUtf8(text)) << static_cast<uint32_t>(code);
    size_t position = 1;
    ASSERT_TRUE(NextCodePoint(text, &position) == code);
    ASSERT_EQ(position, text.size());
    ASSERT_TRUE(PreviousCodePoint(text, &position) == code);
    ASSERT_EQ(position, 1u);
  }
}

TEST(Utf8Test, SurrogatesAndOverlongFormsAreInvalid) {
  EXPECT_FALSE(IsValidUtf8("\xED\xA0\x80"));
  EXPECT_FALSE(IsValidUtf8("\xC0\x80"));
  EXPECT_FALSE(IsValidUtf8("\xF4\x90\x80\x80"));
  EXPECT_FALSE(IsValidUtf8("a\xE2\x82"));
  EXPECT_EQ(ReplaceInvalidUtf8("a\xE2\x82"
                               "b"),
            "a\xEF\xBF\xBD"
            "b");
}

}  // namespace
}  // namespace bitwright
