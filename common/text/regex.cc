#include "common/text/regex.h"

#include <unicode/unistr.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/text/regex_translate.h"
#include "common/text/utf8.h"

namespace bitwright {
namespace {

// Bytes of UTF-8 for the UTF-16 units [begin, end), which split no pair.
size_t Utf8Length(const std::u16string& text, int32_t begin, int32_t end) {
  size_t bytes = 0;
  for (int32_t i = begin; i < end; ++i) {
    const char16_t unit = text[i];
    // A surrogate pair is four bytes, two for each half.
    bytes += unit < 0x80 ? 1 : unit < 0x800 || U16_IS_SURROGATE(unit) ? 2 : 3;
  }
  return bytes;
}

void ToUtf16(absl::string_view text, std::u16string* out) {
  out->clear();
  out->reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const char32_t code = NextCodePoint(text, &i);
    if (code < 0x10000) {
      out->push_back(static_cast<char16_t>(code));
    } else {
      out->push_back(U16_LEAD(code));
      out->push_back(U16_TRAIL(code));
    }
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Regex>> Regex::Compile(absl::string_view pattern,
                                                      absl::string_view where) {
  const auto fail = [&](const absl::Status& status) {
    return absl::Status(
        status.code(),
        absl::StrCat(where, ": in the regular expression \"",
                     pattern.substr(0, 200), "\": ", status.message()));
  };
  auto translated = TranslateRegex(pattern);
  if (!translated.ok()) return fail(translated.status());
  UErrorCode error = U_ZERO_ERROR;
  UParseError parse_error;
  const icu::UnicodeString icu_pattern =
      icu::UnicodeString::fromUTF8(*translated);
  std::unique_ptr<Regex> regex(new Regex(uregex_open(
      icu_pattern.getBuffer(), icu_pattern.length(), 0, &parse_error, &error)));
  if (U_FAILURE(error)) {
    return fail(absl::InvalidArgumentError(u_errorName(error)));
  }
  // What a match saves is bounded by the pattern (see regex.h), not the text.
  uregex_setStackLimit(regex->compiled_.get(), 0, &error);
  return regex;
}

Regex::Matcher::Matcher(const Regex& regex) {
  UErrorCode error = U_ZERO_ERROR;
  compiled_.reset(uregex_clone(regex.compiled_.get(), &error));
}

void Regex::Matcher::FindAll(absl::string_view text,
                             std::vector<Match>* matches) {
  matches->clear();
  if (text.empty()) return;
  ToUtf16(text, &utf16_);
  UErrorCode error = U_ZERO_ERROR;
  uregex_setText(compiled_.get(), utf16_.data(),
                 static_cast<int32_t>(utf16_.size()), &error);
  int32_t unit = 0;  // Where the walk is, in UTF-16 units
  size_t byte = 0;   // and in bytes.
  while (uregex_findNext(compiled_.get(), &error)) {
    const int32_t begin = uregex_start(compiled_.get(), 0, &error);
    const int32_t end = uregex_end(compiled_.get(), 0, &error);
    Match match;
    match.begin = byte + Utf8Length(utf16_, unit, begin);
    match.end = match.begin + Utf8Length(utf16_, begin, end);
    matches->push_back(match);
    unit = end;
    byte = match.end;
  }
}

}  // namespace bitwright
