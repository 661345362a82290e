// A string or a regular expression, as Replace and Split take them.
#ifndef BITWRIGHT_COMMON_TEXT_PATTERN_H_
#define BITWRIGHT_COMMON_TEXT_PATTERN_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "common/text/json_reader.h"
#include "common/text/regex.h"

namespace bitwright {

// Immutable and thread-safe; a Finder serves one thread.
class Pattern {
 public:
  // Matches `literal`, which is not empty, itself.
  static Pattern Literal(std::string literal);
  static absl::StatusOr<Pattern> OfRegex(absl::string_view regex,
                                         absl::string_view where);
  // The key "pattern": {"String": ..} or {"Regex": ..}.
  static absl::StatusOr<Pattern> Read(const ObjectReader& reader);

  class Finder {
   public:
    explicit Finder(const Pattern& pattern);
    // The successive matches in `text`, without overlap. Replaces `matches`.
    void FindAll(absl::string_view text, std::vector<Regex::Match>* matches);
    std::string ReplaceAll(absl::string_view text, absl::string_view content);

   private:
    const Pattern& pattern_;
    absl::optional<Regex::Matcher> matcher_;
  };

 private:
  std::string literal_;
  std::unique_ptr<Regex> regex_;  // Null: `literal_`.
};

}  // namespace bitwright

#endif  // BITWRIGHT_COMMON_TEXT_PATTERN_H_
