#include "common/text/regex_class.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status_macros.h"
#include "common/text/utf8.h"

namespace bitwright {
namespace {

constexpr int kMaxNesting = 16;

absl::StatusOr<icu::UnicodeSet> FromIcu(const std::string& pattern) {
  UErrorCode error = U_ZERO_ERROR;
  icu::UnicodeSet set(icu::UnicodeString::fromUTF8(pattern), error);
  if (U_FAILURE(error)) {
    return absl::UnimplementedError(absl::StrCat("the character property ",
                                                 pattern, " is not known (",
                                                 u_errorName(error), ")"));
  }
  return set;
}

// Characters assigned up to Unicode 14.
absl::StatusOr<icu::UnicodeSet> Assigned(const std::string& pattern) {
  BW_ASSIGN_OR_RETURN(icu::UnicodeSet set, FromIcu(pattern));
  static const auto* const assigned =
      new absl::StatusOr<icu::UnicodeSet>(FromIcu("[\\p{Age=14.0}]"));
  BW_RETURN_IF_ERROR(assigned->status());
  set.retainAll(**assigned);
  return set;
}

absl::Status Truncated() {
  return absl::InvalidArgumentError("it ends within a class or an escape");
}

// The value of the hexadecimal digits at *position, `count` of them.
absl::StatusOr<UChar32> ParseHex(absl::string_view pattern, size_t* position,
                                 size_t count) {
  UChar32 value = 0;
  for (size_t i = 0; i < count; ++i, ++*position) {
    if (*position >= pattern.size()) return Truncated();
    const char c = pattern[*position];
    if (!absl::ascii_isxdigit(c)) {
      return absl::InvalidArgumentError(
          absl::StrCat("\\x and \\u take ", count, " hexadecimal digits here"));
    }
    value =
        value * 16 +
        (absl::ascii_isdigit(c) ? c - '0' : absl::ascii_tolower(c) - 'a' + 10);
  }
  if (value >= 0xD800 && value < 0xE000) {
    return absl::InvalidArgumentError("a surrogate is not a character");
  }
  return value;
}

absl::StatusOr<icu::UnicodeSet> ParseProperty(absl::string_view pattern,
                                              size_t* position, bool negated) {
  const size_t close = pattern.find('}', *position);
  if (*position >= pattern.size() || pattern[*position] != '{' ||
      close == absl::string_view::npos) {
    return absl::UnimplementedError(
        "\\p is supported with a name in braces only");
  }
  const absl::string_view name =
      pattern.substr(*position + 1, close - *position - 1);
  *position = close + 1;
  BW_ASSIGN_OR_RETURN(icu::UnicodeSet set, PropertySet(name));
  if (negated) set.complement();
  return set;
}

// The class that starts after '[' at *position; moves past its ']'.
absl::StatusOr<icu::UnicodeSet> ParseClassBody(absl::string_view pattern,
                                               size_t* position, int nesting);

// One member of a class; `single` says whether it may begin a range.
absl::StatusOr<icu::UnicodeSet> ParseMember(absl::string_view pattern,
                                            size_t* position, int nesting) {
  const char c = pattern[*position];
  if (c == '\\') return ParseEscape(pattern, position);
  if (c == '[') {
    if (nesting >= kMaxNesting) {
      return absl::UnimplementedError("its classes are nested too deep");
    }
    if (pattern.substr(*position, 2) == "[:") {
      return absl::UnimplementedError("POSIX classes are not supported");
    }
    ++*position;
    return ParseClassBody(pattern, position, nesting + 1);
  }
  if (pattern.substr(*position, 2) == "&&") {
    return absl::UnimplementedError("&& in a class is not supported");
  }
  const char32_t code = NextCodePoint(pattern, position);
  return icu::UnicodeSet(code, code);
}

absl::StatusOr<icu::UnicodeSet> ParseClassBody(absl::string_view pattern,
                                               size_t* position, int nesting) {
  icu::UnicodeSet result;
  const bool negated = pattern.substr(*position, 1) == "^";
  if (negated) ++*position;
  if (pattern.substr(*position, 1) == "]") {
    return absl::UnimplementedError(
        "a class that begins with an unescaped ] is not supported");
  }
  while (true) {
    if (*position >= pattern.size()) return Truncated();
    if (pattern[*position] == ']') break;
    const bool nested = pattern[*position] == '[';
    BW_ASSIGN_OR_RETURN(icu::UnicodeSet member,
                        ParseMember(pattern, position, nesting));
    const bool range = pattern.substr(*position, 1) == "-" &&
                       pattern.substr(*position + 1, 1) != "]";
    if (range && (nested || member.size() != 1)) {
      return absl::UnimplementedError("a class range starts with a set");
    }
    if (range) {
      ++*position;
      if (*position >= pattern.size()) return Truncated();
      const bool set_ends = pattern[*position] == '[';
      BW_ASSIGN_OR_RETURN(icu::UnicodeSet last,
                          ParseMember(pattern, position, nesting));
      if (set_ends || last.size() != 1 || last.charAt(0) < member.charAt(0)) {
        return absl::InvalidArgumentError("a class has an ill-formed range");
      }
      member.add(member.charAt(0), last.charAt(0));
    }
    result.addAll(member);
  }
  ++*position;
  if (negated) result.complement();
  return result;
}

}  // namespace

absl::StatusOr<icu::UnicodeSet> PropertySet(absl::string_view name) {
  for (char c : name) {
    if (!absl::ascii_isalpha(c) && c != '_') {
      return absl::UnimplementedError(
          absl::StrCat("the character property {", name, "} is not supported"));
    }
  }
  // Unassigned characters, and the categories that contain them, are those of
  // the Unicode version: only what is assigned can be told from ICU's data.
  const std::string lower = absl::AsciiStrToLower(name);
  if (lower == "c" || lower == "cn" || lower == "other" ||
      lower == "unassigned" || lower == "any") {
    return absl::UnimplementedError(
        absl::StrCat("the character property {", name, "} is not supported"));
  }
  auto category = Assigned(absl::StrCat("[\\p{General_Category=", name, "}]"));
  if (category.ok()) return category;
  return Assigned(absl::StrCat("[\\p{Script=", name, "}]"));
}

absl::StatusOr<icu::UnicodeSet> ShorthandSet(char letter) {
  absl::StatusOr<icu::UnicodeSet> set;
  switch (absl::ascii_tolower(letter)) {
    case 's':
      set = Assigned("[\\p{White_Space}]");
      break;
    case 'd':
      set = Assigned("[\\p{Nd}]");
      break;
    default:
      // Oniguruma counts these six Latin-1 numbers as word characters too.
      set = Assigned(
          "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\u00B2\\u00B3\\u00B9"
          "\\u00BC-\\u00BE]");
  }
  if (set.ok() && absl::ascii_isupper(letter)) set->complement();
  return set;
}

absl::StatusOr<icu::UnicodeSet> ParseClass(absl::string_view pattern,
                                           size_t* position) {
  if (pattern.substr(*position, 2) == "[:") {
    return absl::UnimplementedError("POSIX classes are not supported");
  }
  ++*position;
  return ParseClassBody(pattern, position, 0);
}

absl::StatusOr<icu::UnicodeSet> ParseEscape(absl::string_view pattern,
                                            size_t* position) {
  ++*position;
  if (*position >= pattern.size()) return Truncated();
  const char c = pattern[*position];
  if (static_cast<uint8_t>(c) >= 0x80) {
    return absl::UnimplementedError("an escaped non-ASCII character");
  }
  ++*position;
  const auto one = [](UChar32 code) { return icu::UnicodeSet(code, code); };
  switch (c) {
    case 's':
    case 'S':
    case 'd':
    case 'D':
    case 'w':
    case 'W':
      return ShorthandSet(c);
    case 'p':
    case 'P':
      return ParseProperty(pattern, position, c == 'P');
    case 'n':
      return one('\n');
    case 'r':
      return one('\r');
    case 't':
      return one('\t');
    case 'f':
      return one('\f');
    case 'v':
      return one('\v');
    case 'x':
    case 'u': {
      BW_ASSIGN_OR_RETURN(UChar32 code,
                          ParseHex(pattern, position, c == 'x' ? 2 : 4));
      if (c == 'x' && code >= 0x80) {
        return absl::UnimplementedError("\\x past 7F is not supported");
      }
      return one(code);
    }
    default:
      if (absl::ascii_isalnum(c)) {
        return absl::UnimplementedError(absl::StrCat(
            "the escape \\", absl::string_view(&c, 1), " is not supported"));
      }
      return one(c);
  }
}

std::string SetPattern(const icu::UnicodeSet& set) {
  if (set.size() == 1) return absl::StrFormat("\\x{%x}", set.charAt(0));
  std::string out = "[";
  for (int i = 0; i < set.getRangeCount(); ++i) {
    absl::StrAppendFormat(&out, "\\x{%x}-\\x{%x}", set.getRangeStart(i),
                          set.getRangeEnd(i));
  }
  out += "]";
  return out;
}

}  // namespace bitwright
