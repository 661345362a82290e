// Sets of characters, as Oniguruma 6.9.8 (Unicode 14) has them.
#ifndef BITWRIGHT_COMMON_TEXT_REGEX_CLASS_H_
#define BITWRIGHT_COMMON_TEXT_REGEX_CLASS_H_

#include <unicode/uniset.h>

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bitwright {

// The set of `\p{name}`: a general category (L, Lu, Letter) or a script (Han).
// UNIMPLEMENTED for a name that is neither.
absl::StatusOr<icu::UnicodeSet> PropertySet(absl::string_view name);

// The set of the escape \s, \S, \d, \D, \w or \W, by its letter.
absl::StatusOr<icu::UnicodeSet> ShorthandSet(char letter);

// Reads the bracketed class that starts at pattern[*position] == '[' and moves
// past its end.
absl::StatusOr<icu::UnicodeSet> ParseClass(absl::string_view pattern,
                                           size_t* position);

// Reads the escape at pattern[*position] == '\\' and moves past it: a set of
// one character or more.
absl::StatusOr<icu::UnicodeSet> ParseEscape(absl::string_view pattern,
                                            size_t* position);

// `set` as an ICU pattern: one character, or [..] with ranges, in hexadecimal.
std::string SetPattern(const icu::UnicodeSet& set);

}  // namespace bitwright

#endif  // BITWRIGHT_COMMON_TEXT_REGEX_CLASS_H_
