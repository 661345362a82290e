// UTF-8: making text well-formed, and walking it by code point.
#ifndef BITWRIGHT_COMMON_TEXT_UTF8_H_
#define BITWRIGHT_COMMON_TEXT_UTF8_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace bitwright {

// How many bytes of `text`, which is not empty, make its first character, or
// minus the length of the maximal ill-formed part that it starts with.
int Utf8Step(absl::string_view text);

bool IsValidUtf8(absl::string_view text);

// Ill-formed parts replaced by U+FFFD, as Python's errors="replace" does.
std::string ReplaceInvalidUtf8(absl::string_view text);

// The code point at *position of well-formed text, which moves past it.
char32_t NextCodePoint(absl::string_view text, size_t* position);

// The code point that ends at *position > 0, which moves to its start.
char32_t PreviousCodePoint(absl::string_view text, size_t* position);

void AppendUtf8(char32_t code_point, std::string* out);

}  // namespace bitwright

#endif  // BITWRIGHT_COMMON_TEXT_UTF8_H_
