#include "common/text/pattern.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace bitwright {

Pattern Pattern::Literal(std::string literal) {
  Pattern pattern;
  pattern.literal_ = std::move(literal);
  return pattern;
}

absl::StatusOr<Pattern> Pattern::OfRegex(absl::string_view regex,
                                         absl::string_view where) {
  Pattern pattern;
  BW_ASSIGN_OR_RETURN(pattern.regex_, Regex::Compile(regex, where));
  return pattern;
}

absl::StatusOr<Pattern> Pattern::Read(const ObjectReader& reader) {
  BW_ASSIGN_OR_RETURN(ObjectReader object, reader.Object("pattern"));
  BW_RETURN_IF_ERROR(object.AllowOnly({"String", "Regex"}));
  if (object.json().size() != 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        object.where(), ": expected either \"String\" or \"Regex\""));
  }
  if (object.Find("Regex") != nullptr) {
    BW_ASSIGN_OR_RETURN(std::string regex, object.String("Regex"));
    return OfRegex(regex, object.where());
  }
  BW_ASSIGN_OR_RETURN(std::string literal, object.String("String"));
  if (literal.empty()) {
    return absl::UnimplementedError(
        absl::StrCat(object.where(), ": an empty pattern is not supported"));
  }
  return Literal(std::move(literal));
}

Pattern::Finder::Finder(const Pattern& pattern) : pattern_(pattern) {
  if (pattern.regex_ != nullptr) matcher_.emplace(*pattern.regex_);
}

void Pattern::Finder::FindAll(absl::string_view text,
                              std::vector<Regex::Match>* matches) {
  if (matcher_.has_value()) {
    matcher_->FindAll(text, matches);
    return;
  }
  matches->clear();
  const std::string& literal = pattern_.literal_;
  for (size_t at = text.find(literal); at != absl::string_view::npos;
       at = text.find(literal, at + literal.size())) {
    matches->push_back({at, at + literal.size()});
  }
}

std::string Pattern::Finder::ReplaceAll(absl::string_view text,
                                        absl::string_view content) {
  std::vector<Regex::Match> matches;
  FindAll(text, &matches);
  std::string out;
  out.reserve(text.size());
  size_t done = 0;
  for (const Regex::Match& match : matches) {
    absl::StrAppend(&out, text.substr(done, match.begin - done), content);
    done = match.end;
  }
  absl::StrAppend(&out, text.substr(done));
  return out;
}

}  // namespace bitwright
