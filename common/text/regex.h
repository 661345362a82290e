// The regular expressions of tokenizer files.
//
// `tokenizers` matches them with Oniguruma, this project with ICU. They differ
// in syntax, in the Unicode version and in what classes like \s contain, so a
// pattern is parsed here and handed to ICU with every class spelled out as
// ranges. Supported: literals, escapes (\r \n \t \xHH \uHHHH \s \S \d \D \w \W
// \p{..} \P{..}), classes (nested ones too), `.`, groups, (?i:..) around ASCII,
// (?=..) and (?!..), alternation, and the quantifiers ? * + {n,m}, also lazy
// and possessive. A group may not be repeated without bound, so that matching
// cannot run out of stack or take exponential time; nor may a pattern match
// nothing. Whatever else a pattern contains is UNIMPLEMENTED.
//
//   BW_ASSIGN_OR_RETURN(auto regex, Regex::Compile(" ?\\p{L}+|\\s+", "here"));
//   Regex::Matcher matcher(*regex);
//   std::vector<Regex::Match> matches;
//   matcher.FindAll("two words", &matches);  // {0, 3}, {3, 9}
#ifndef BITWRIGHT_COMMON_TEXT_REGEX_H_
#define BITWRIGHT_COMMON_TEXT_REGEX_H_

#include <unicode/uregex.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bitwright {

// Immutable, so thread-safe; a Matcher serves one thread.
class Regex {
 public:
  struct Match {
    size_t begin = 0;  // Bytes.
    size_t end = 0;
  };

  // UNIMPLEMENTED or INVALID_ARGUMENT, naming `where` and what is wrong.
  static absl::StatusOr<std::unique_ptr<Regex>> Compile(
      absl::string_view pattern, absl::string_view where);

  class Matcher {
   public:
    explicit Matcher(const Regex& regex);
    // The successive matches in well-formed UTF-8, leftmost first. Replaces
    // what `matches` held.
    void FindAll(absl::string_view text, std::vector<Match>* matches);

   private:
    struct Close {
      void operator()(URegularExpression* r) const { uregex_close(r); }
    };
    std::unique_ptr<URegularExpression, Close> compiled_;
    std::u16string utf16_;
  };

 private:
  struct Close {
    void operator()(URegularExpression* r) const { uregex_close(r); }
  };
  explicit Regex(URegularExpression* compiled) : compiled_(compiled) {}
  std::unique_ptr<URegularExpression, Close> compiled_;
};

}  // namespace bitwright

#endif  // BITWRIGHT_COMMON_TEXT_REGEX_H_
