#include "common/text/regex_translate.h"

#include <algorithm>
#include <array>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/status_macros.h"
#include "common/text/regex_class.h"
#include "common/text/utf8.h"

namespace bitwright {
namespace {

constexpr size_t kMaxPattern = 64 << 10;
constexpr int kMaxDepth = 32;
constexpr int kMaxRepeat = 1000;

absl::Status Unsupported(absl::string_view what) {
  return absl::UnimplementedError(absl::StrCat(what, " is not supported"));
}

// A piece of the output and what must be known of it.
struct Part {
  std::string icu;
  int64_t min_length = 0;  // Characters that it matches at least.
  bool one_char = false;   // Always exactly one character.
  bool assertion = false;
};

// Adds what simple case folding makes equal to the ASCII characters of `set`.
absl::Status FoldAscii(icu::UnicodeSet* set) {
  if (set->getRangeEnd(set->getRangeCount() - 1) >= 0x80) {
    return Unsupported("(?i:..) around characters outside ASCII");
  }
  set->closeOver(USET_CASE_INSENSITIVE);
  set->removeAllStrings();
  return absl::OkStatus();
}

class Translator {
 public:
  explicit Translator(absl::string_view pattern) : text_(pattern) {}

  absl::StatusOr<std::string> Run() {
    BW_ASSIGN_OR_RETURN(Part whole, Alternatives(0, false));
    if (position_ < text_.size()) {
      return absl::InvalidArgumentError("it has an unmatched )");
    }
    if (whole.min_length == 0) {
      return Unsupported("a pattern that can match nothing");
    }
    return std::move(whole.icu);
  }

 private:
  bool AtEnd() const { return position_ >= text_.size(); }
  bool Take(absl::string_view token) {
    if (!absl::StartsWith(text_.substr(position_), token)) return false;
    position_ += token.size();
    return true;
  }

  // branch ('|' branch)*, up to ')' or the end.
  absl::StatusOr<Part> Alternatives(int depth, bool fold) {
    if (depth > kMaxDepth) return Unsupported("nesting this deep");
    Part result;
    for (bool first = true; first || Take("|"); first = false) {
      if (!first) result.icu += '|';
      BW_ASSIGN_OR_RETURN(Part branch, Branch(depth, fold));
      result.icu += branch.icu;
      result.min_length = first
                              ? branch.min_length
                              : std::min(result.min_length, branch.min_length);
    }
    return result;
  }

  absl::StatusOr<Part> Branch(int depth, bool fold) {
    Part result;
    previous_letter_ = 0;
    while (!AtEnd() && text_[position_] != '|' && text_[position_] != ')') {
      BW_ASSIGN_OR_RETURN(Part atom, Atom(depth, fold));
      BW_RETURN_IF_ERROR(Quantify(&atom));
      result.icu += atom.icu;
      result.min_length += atom.min_length;
    }
    return result;
  }

  absl::StatusOr<Part> Atom(int depth, bool fold) {
    const char c = text_[position_];
    if (c == '(') return Group(depth, fold);
    icu::UnicodeSet set;
    if (c == '[') {
      BW_ASSIGN_OR_RETURN(set, ParseClass(text_, &position_));
      previous_letter_ = 0;
    } else if (c == '\\') {
      BW_ASSIGN_OR_RETURN(set, ParseEscape(text_, &position_));
    } else if (c == '.') {
      ++position_;
      set.add('\n').complement();
    } else if (absl::StrContains("^$?*+{}", absl::string_view(&c, 1))) {
      return Unsupported(absl::StrCat("an unescaped ", absl::string_view(&c, 1),
                                      " at byte ", position_));
    } else {
      const char32_t code = NextCodePoint(text_, &position_);
      set.add(code);
    }
    if (set.isEmpty()) {
      return absl::InvalidArgumentError("it has an empty class");
    }
    if (fold) {
      BW_RETURN_IF_ERROR(CheckFoldPair(set));
      BW_RETURN_IF_ERROR(FoldAscii(&set));
    }
    Part part;
    part.icu = SetPattern(set);
    part.min_length = 1;
    part.one_char = true;
    return part;
  }

  // Under (?i:..) Oniguruma lets "ss" match U+00DF and the like: letters that
  // stand together in such a folding are refused.
  absl::Status CheckFoldPair(const icu::UnicodeSet& set) {
    const char now = set.size() == 1
                         ? absl::ascii_tolower(static_cast<char>(set.charAt(0)))
                         : 0;
    const char pair[2] = {previous_letter_, now};
    previous_letter_ = now;
    static constexpr std::array<absl::string_view, 5> kFolded = {
        "ss", "st", "ff", "fi", "fl"};
    for (absl::string_view folded : kFolded) {
      if (absl::string_view(pair, 2) == folded) {
        return Unsupported(absl::StrCat("\"", folded, "\" within (?i:..)"));
      }
    }
    return absl::OkStatus();
  }

  absl::StatusOr<Part> Group(int depth, bool fold) {
    ++position_;
    std::string open = "(?:";
    Part part;
    if (Take("?=")) {
      open = "(?=";
      part.assertion = true;
    } else if (Take("?!")) {
      open = "(?!";
      part.assertion = true;
    } else if (Take("?i:")) {
      fold = true;
    } else if (Take("?:")) {
    } else if (Take("?")) {
      return Unsupported(absl::StrCat(
          "the group (?", text_.substr(position_, 1), " at byte ", position_));
    }
    BW_ASSIGN_OR_RETURN(Part inner, Alternatives(depth + 1, fold));
    if (!Take(")")) return absl::InvalidArgumentError("it has an unmatched (");
    previous_letter_ = 0;
    part.icu = absl::StrCat(open, inner.icu, ")");
    part.min_length = part.assertion ? 0 : inner.min_length;
    return part;
  }

  struct Repeat {
    int low = 1;
    int high = 1;  // -1: no bound.
    bool braces = false;
  };

  // Reads {n}, {n,}, {,m} or {n,m} after its '{'.
  absl::StatusOr<Repeat> Braces() {
    const size_t close = text_.find('}', position_);
    if (close == absl::string_view::npos) return Unsupported("an unescaped {");
    const absl::string_view body = text_.substr(position_, close - position_);
    position_ = close + 1;
    const size_t comma = body.find(',');
    const absl::string_view low = body.substr(0, comma);
    Repeat repeat;
    repeat.braces = true;
    bool ok = low.empty() ? comma != absl::string_view::npos && body.size() > 1
                          : absl::SimpleAtoi(low, &repeat.low);
    if (low.empty()) repeat.low = 0;
    repeat.high = repeat.low;
    if (comma != absl::string_view::npos) {
      const absl::string_view high = body.substr(comma + 1);
      repeat.high = -1;
      if (!high.empty()) ok = ok && absl::SimpleAtoi(high, &repeat.high);
      ok = ok && (high.empty() || repeat.high >= repeat.low);
    }
    if (!ok || repeat.low < 0 || repeat.low > kMaxRepeat ||
        repeat.high > kMaxRepeat) {
      return Unsupported(absl::StrCat("the repetition {", body, "}"));
    }
    return repeat;
  }

  absl::Status Quantify(Part* atom) {
    Repeat repeat;
    if (Take("?")) {
      repeat.low = 0;
    } else if (Take("*")) {
      repeat = {0, -1, false};
    } else if (Take("+")) {
      repeat = {1, -1, false};
    } else if (Take("{")) {
      BW_ASSIGN_OR_RETURN(repeat, Braces());
    } else {
      return absl::OkStatus();
    }
    previous_letter_ = 0;
    std::string suffix;
    if (Take("?"))
      suffix = "?";
    else if (Take("+"))
      suffix = "+";
    // Oniguruma reads {n}? and {n,m}+ unlike others.
    if (repeat.braces &&
        (suffix == "+" || (suffix == "?" && repeat.low == repeat.high))) {
      return Unsupported("a {..} followed by ? or +");
    }
    if (!AtEnd() && absl::StrContains("?*+{", text_.substr(position_, 1))) {
      return Unsupported("a repetition of a repetition");
    }
    if (atom->assertion) return Unsupported("a repeated assertion");
    if (repeat.high == -1 && !atom->one_char) {
      return Unsupported("a group repeated without bound");
    }
    if (repeat.braces) {
      absl::StrAppend(&atom->icu, "{", repeat.low, ",",
                      repeat.high == -1 ? "" : absl::StrCat(repeat.high), "}");
    } else {
      atom->icu += repeat.low == 1 ? '+' : repeat.high == 1 ? '?' : '*';
    }
    atom->icu += suffix;
    atom->min_length =
        std::min<int64_t>(atom->min_length * repeat.low, 1 << 30);
    atom->one_char = false;
    return absl::OkStatus();
  }

  absl::string_view text_;
  size_t position_ = 0;
  char previous_letter_ = 0;  // Under (?i:..): the letter just before.
};

}  // namespace

absl::StatusOr<std::string> TranslateRegex(absl::string_view pattern) {
  if (pattern.size() > kMaxPattern) return Unsupported("a pattern this long");
  return Translator(pattern).Run();
}

}  // namespace bitwright
