#include "common/text/regex.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/text/regex_class.h"

namespace bitwright {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::vector<std::string> Find(absl::string_view pattern, std::string text) {
  auto regex = Regex::Compile(pattern, "test");
  EXPECT_TRUE(regex.ok()) << regex.status();
  if (!regex.ok()) return {};
  std::vector<Regex::Match> matches;
  Regex::Matcher(**regex).FindAll(text, &matches);
  std::vector<std::string> found;
  for (const auto& m : matches)
    found.push_back(text.substr(m.begin, m.end - m.begin));
  return found;
}

TEST(RegexTest, OffsetsAreBytes) {
  // One, two, three and four bytes before and within the match.
  const std::string text = "a\xC3\xA9\xE4\xB8\xAD\xF0\x9F\x98\x80";
  EXPECT_THAT(Find("\xC3\xA9|\xF0\x9F\x98\x80", text + text),
              ElementsAre("\xC3\xA9", "\xF0\x9F\x98\x80", "\xC3\xA9",
                          "\xF0\x9F\x98\x80"));
  EXPECT_THAT(Find("a", ""), IsEmpty());
}

TEST(RegexTest, MatchesLikeOniguruma) {
  EXPECT_THAT(Find("\\d{1,3}", "1234567"), ElementsAre("123", "456", "7"));
  EXPECT_THAT(Find("a{,2}b", "aaab"), ElementsAre("aab"));
  EXPECT_THAT(Find("[a-c]{2,3}?", "abcabc"), ElementsAre("ab", "ca", "bc"));
  EXPECT_THAT(Find("(?i:'s|'t)", "a'\xC5\xBF'S'T't"),
              ElementsAre("'\xC5\xBF", "'S", "'T", "'t"));
  EXPECT_THAT(Find("(?i:[sdmt]|ll)", "SxLl"), ElementsAre("S", "Ll"));
  EXPECT_THAT(Find("[^(\\s|[.,!])]+", "ab(c|d) e.f]g"),
              ElementsAre("ab", "c", "d", "e", "f]g"));
  EXPECT_THAT(Find("[\\w-]+", "a-b c"), ElementsAre("a-b", "c"));
  EXPECT_THAT(Find("\\s+(?!\\S)|\\s+", "a   b "), ElementsAre("  ", " ", " "));
  EXPECT_THAT(Find("a(?=b)", "abac"), ElementsAre("a"));
  EXPECT_THAT(Find(".+", "a\r\nb"), ElementsAre("a\r", "b"));
  EXPECT_THAT(Find("\\p{Greek}+|\\P{L}", "ab\xCE\xB3 1"),
              ElementsAre("\xCE\xB3", " ", "1"));
  EXPECT_THAT(Find("\\x41\\u00e9\\t", "A\xC3\xA9\t"),
              ElementsAre("A\xC3\xA9\t"));
  EXPECT_THAT(Find("(ab|c){2}", "abcab"), ElementsAre("abc"));
  EXPECT_THAT(Find("a++", "aaa"), ElementsAre("aaa"));
}

TEST(RegexTest, KnowsUnicode14) {
  EXPECT_THAT(Find("\\p{L}", "\xE0\xA1\xB0"), ElementsAre("\xE0\xA1\xB0"));
  // U+31350 came with Unicode 15.
  EXPECT_THAT(Find("\\p{L}", "\xF0\xB1\x8D\x90"), IsEmpty());
  EXPECT_THAT(Find("[^\\p{L}]", "\xF0\xB1\x8D\x90"),
              ElementsAre("\xF0\xB1\x8D\x90"));
  EXPECT_EQ(PropertySet("L")->size(), 131756);
  EXPECT_EQ(PropertySet("N")->size(), 1791);
  EXPECT_EQ(ShorthandSet('s')->size(), 25);
}

TEST(RegexTest, LongRunsNeitherOverflowNorStall) {
  const std::string spaces(1 << 20, ' ');
  EXPECT_EQ(Find("\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", spaces + "x").size(), 2u);
  const std::string letters(1 << 20, 'a');
  EXPECT_EQ(Find("[^x]?\\p{L}+|\\p{L}++1|\\p{L}+?1", letters).size(), 1u);
}

void ExpectRefused(absl::string_view pattern, absl::string_view why) {
  const auto status = Regex::Compile(pattern, "here").status();
  EXPECT_FALSE(status.ok()) << pattern;
  const std::string message(status.message());
  EXPECT_THAT(message, HasSubstr("here")) << pattern;
  EXPECT_THAT(message, HasSubstr(std::string(why))) << pattern;
}

TEST(RegexTest, RefusesWhatItDoesNotSupport) {
  ExpectRefused("(?:ab)+", "a group repeated without bound");
  ExpectRefused("((a+))+b", "a group repeated without bound");
  ExpectRefused("a*", "can match nothing");
  ExpectRefused("a|", "can match nothing");
  ExpectRefused("", "can match nothing");
  ExpectRefused("(?=a)", "can match nothing");
  ExpectRefused("^a", "unescaped ^");
  ExpectRefused("a$", "unescaped $");
  ExpectRefused("(?<=a)b", "(?<");
  ExpectRefused("(?s:a)", "(?s");
  ExpectRefused("a\\b", "\\b");
  ExpectRefused("(a)\\1", "\\1");
  ExpectRefused("\\p{Wibble}", "Wibble");
  ExpectRefused("\\p{^L}", "{^L}");
  ExpectRefused("\\p{Cn}", "{Cn}");
  ExpectRefused("\\pL", "name in braces");
  ExpectRefused("[a&&b]", "&&");
  ExpectRefused("[[:alpha:]]", "POSIX");
  ExpectRefused("[:alpha:]", "POSIX");
  ExpectRefused("[]a]", "unescaped ]");
  ExpectRefused("[b-a]", "range");
  ExpectRefused("[\\d-z]", "range");
  ExpectRefused("[a", "ends within");
  ExpectRefused("\\", "ends within");
  ExpectRefused("\\x4", "ends within");
  ExpectRefused("(a", "unmatched (");
  ExpectRefused("a)", "unmatched )");
  ExpectRefused("a{2}?", "followed by ?");
  ExpectRefused("a{1,2}+", "followed by ? or +");
  ExpectRefused("a{2,1}", "repetition {2,1}");
  ExpectRefused("a{99999}", "repetition");
  ExpectRefused("a{x}", "repetition {x}");
  ExpectRefused("a**", "repetition of a repetition");
  ExpectRefused("+a", "unescaped +");
  ExpectRefused("(?i:'ss)", "within (?i:..)");
  ExpectRefused("(?i:\xC3\xA9)", "outside ASCII");
  ExpectRefused(std::string(100, '(') + "a" + std::string(100, ')'), "nesting");
  ExpectRefused("[" + std::string(100, '[') + "a", "nested too deep");
  ExpectRefused(std::string(100000, 'a'), "this long");
}

}  // namespace
}  // namespace bitwright
