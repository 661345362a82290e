#include "common/text/normalizer.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/uniset.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/text/json_reader.h"
#include "common/text/pattern.h"
#include "common/text/utf8.h"

namespace bitwright {
namespace {

// The characters that the reference's normalization tables know.
absl::StatusOr<icu::UnicodeSet> UnicodeNine(const char* pattern) {
  UErrorCode error = U_ZERO_ERROR;
  icu::UnicodeSet set(icu::UnicodeString(pattern), error);
  if (U_FAILURE(error)) {
    return absl::InternalError(
        absl::StrCat("ICU's character data: ", u_errorName(error)));
  }
  set.freeze();
  return set;
}

class UnicodeForm : public Normalizer {
 public:
  static absl::StatusOr<std::unique_ptr<Normalizer>> Make(
      const std::string& type) {
    UErrorCode error = U_ZERO_ERROR;
    const icu::Normalizer2* form =
        type == "NFC"    ? icu::Normalizer2::getNFCInstance(error)
        : type == "NFD"  ? icu::Normalizer2::getNFDInstance(error)
        : type == "NFKC" ? icu::Normalizer2::getNFKCInstance(error)
                         : icu::Normalizer2::getNFKDInstance(error);
    if (U_FAILURE(error)) {
      return absl::InternalError(
          absl::StrCat("ICU's ", type, " data: ", u_errorName(error)));
    }
    BW_ASSIGN_OR_RETURN(icu::UnicodeSet known, UnicodeNine("[\\p{Age=9.0}]"));
    return std::unique_ptr<Normalizer>(new UnicodeForm(form, std::move(known)));
  }

  std::string Apply(std::string text) const override {
    std::string out;
    out.reserve(text.size());
    icu::StringByteSink<std::string> sink(&out);
    UErrorCode error = U_ZERO_ERROR;
    filtered_.normalizeUTF8(0, text, sink, nullptr, error);
    return out;
  }

 private:
  UnicodeForm(const icu::Normalizer2* form, icu::UnicodeSet known)
      : known_(std::move(known)), filtered_(*form, known_) {}
  const icu::UnicodeSet known_;
  const icu::FilteredNormalizer2 filtered_;
};

class Lowercase : public Normalizer {
 public:
  std::string Apply(std::string text) const override {
    std::string out;
    out.reserve(text.size());
    for (size_t i = 0; i < text.size();) {
      const char32_t code = NextCodePoint(text, &i);
      if (code == 0x130) {
        out += "i\xCC\x87";  // The one character that becomes two.
      } else {
        AppendUtf8(u_tolower(code), &out);
      }
    }
    return out;
  }
};

class StripAccents : public Normalizer {
 public:
  explicit StripAccents(icu::UnicodeSet marks) : marks_(std::move(marks)) {}
  std::string Apply(std::string text) const override {
    std::string out;
    out.reserve(text.size());
    for (size_t i = 0; i < text.size();) {
      const size_t begin = i;
      const char32_t code = NextCodePoint(text, &i);
      if (!marks_.contains(code)) out.append(text, begin, i - begin);
    }
    return out;
  }
  bool DeletesAtStart() const override { return true; }

 private:
  const icu::UnicodeSet marks_;
};

class Strip : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}
  std::string Apply(std::string text) const override {
    size_t begin = 0;
    size_t end = text.size();
    while (left_ && begin < end) {
      size_t next = begin;
      if (!u_isUWhiteSpace(NextCodePoint(text, &next))) break;
      begin = next;
    }
    while (right_ && end > begin) {
      size_t previous = end;
      if (!u_isUWhiteSpace(PreviousCodePoint(text, &previous))) break;
      end = previous;
    }
    return text.substr(begin, end - begin);
  }
  bool DeletesAtStart() const override { return left_; }

 private:
  const bool left_;
  const bool right_;
};

class Prepend : public Normalizer {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}
  std::string Apply(std::string text) const override {
    return text.empty() ? text : prefix_ + text;
  }

 private:
  const std::string prefix_;
};

class Replace : public Normalizer {
 public:
  Replace(Pattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  std::string Apply(std::string text) const override {
    return Pattern::Finder(pattern_).ReplaceAll(text, content_);
  }
  bool DeletesAtStart() const override { return content_.empty(); }

 private:
  const Pattern pattern_;
  const std::string content_;
};

class Sequence : public Normalizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<Normalizer>> steps)
      : steps_(std::move(steps)) {}
  std::string Apply(std::string text) const override {
    for (const auto& step : steps_) text = step->Apply(std::move(text));
    return text;
  }
  bool DeletesAtStart() const override {
    for (const auto& step : steps_) {
      if (step->DeletesAtStart()) return true;
    }
    return false;
  }

 private:
  const std::vector<std::unique_ptr<Normalizer>> steps_;
};

using Made = absl::StatusOr<std::unique_ptr<Normalizer>>;

Made MakeSequence(const ObjectReader& reader) {
  BW_RETURN_IF_ERROR(reader.AllowOnly({"type", "normalizers"}));
  BW_ASSIGN_OR_RETURN(const nlohmann::json* steps, reader.Array("normalizers"));
  std::vector<std::unique_ptr<Normalizer>> made;
  for (size_t i = 0; i < steps->size(); ++i) {
    BW_ASSIGN_OR_RETURN(
        auto step,
        MakeNormalizer((*steps)[i], absl::StrCat(reader.WhereOf("normalizers"),
                                                 "[", i, "]")));
    made.push_back(std::move(step));
  }
  return std::make_unique<Sequence>(std::move(made));
}

Made MakeReplace(const ObjectReader& reader) {
  BW_RETURN_IF_ERROR(reader.AllowOnly({"type", "pattern", "content"}));
  BW_ASSIGN_OR_RETURN(Pattern pattern, Pattern::Read(reader));
  BW_ASSIGN_OR_RETURN(std::string content, reader.String("content"));
  return std::make_unique<Replace>(std::move(pattern), std::move(content));
}

Made MakeStrip(const ObjectReader& reader) {
  BW_RETURN_IF_ERROR(reader.AllowOnly({"type", "strip_left", "strip_right"}));
  BW_ASSIGN_OR_RETURN(bool left, reader.Bool("strip_left", absl::nullopt));
  BW_ASSIGN_OR_RETURN(bool right, reader.Bool("strip_right", absl::nullopt));
  return std::make_unique<Strip>(left, right);
}

}  // namespace

Made MakeNormalizer(const nlohmann::json& json, const std::string& where) {
  BW_ASSIGN_OR_RETURN(ObjectReader reader, ObjectReader::Create(json, where));
  BW_ASSIGN_OR_RETURN(std::string type, reader.String("type"));
  if (type == "Sequence") return MakeSequence(reader);
  if (type == "Replace") return MakeReplace(reader);
  if (type == "Strip") return MakeStrip(reader);
  if (type == "Prepend") {
    BW_RETURN_IF_ERROR(reader.AllowOnly({"type", "prepend"}));
    BW_ASSIGN_OR_RETURN(std::string prefix, reader.String("prepend"));
    return std::make_unique<Prepend>(std::move(prefix));
  }
  if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    BW_RETURN_IF_ERROR(reader.AllowOnly({"type"}));
    return UnicodeForm::Make(type);
  }
  if (type == "Lowercase") {
    BW_RETURN_IF_ERROR(reader.AllowOnly({"type"}));
    return std::make_unique<Lowercase>();
  }
  if (type == "StripAccents") {
    BW_RETURN_IF_ERROR(reader.AllowOnly({"type"}));
    // Three characters have entered or left the marks since Unicode 9.
    BW_ASSIGN_OR_RETURN(
        icu::UnicodeSet marks,
        UnicodeNine("[[[\\p{M}]&[\\p{Age=9.0}]]-[\\U000111C9]\\u1CF2\\u1CF3]"));
    return std::make_unique<StripAccents>(std::move(marks));
  }
  return absl::UnimplementedError(
      absl::StrCat(where, ": the normalizer \"", type, "\" is not supported"));
}

}  // namespace bitwright
