// From Oniguruma's syntax to ICU's: see regex.h.
#ifndef BITWRIGHT_COMMON_TEXT_REGEX_TRANSLATE_H_
#define BITWRIGHT_COMMON_TEXT_REGEX_TRANSLATE_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bitwright {

// An equivalent ICU pattern in ASCII. `pattern` is well-formed UTF-8.
// UNIMPLEMENTED or INVALID_ARGUMENT, without saying which pattern.
absl::StatusOr<std::string> TranslateRegex(absl::string_view pattern);

}  // namespace bitwright

#endif  // BITWRIGHT_COMMON_TEXT_REGEX_TRANSLATE_H_
