#include "common/text/pre_tokenizer.h"

#include <unicode/uchar.h>

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/base/status_macros.h"
#include "common/text/json_reader.h"
#include "common/text/pattern.h"
#include "common/text/utf8.h"

namespace bitwright {
namespace {

// What becomes of the matches of a pattern.
enum class Behavior {
  kRemoved,
  kIsolated,
  kMergedWithPrevious,
  kMergedWithNext,
  kContiguous,
};

struct Range {
  size_t begin;
  size_t end;
  bool is_match;
};

// The matches and what lies between them, in order, without empty ones.
void Cover(const std::vector<Regex::Match>& matches, size_t size, bool invert,
           std::vector<Range>* ranges) {
  ranges->clear();
  size_t done = 0;
  for (const Regex::Match& match : matches) {
    if (match.begin > done) ranges->push_back({done, match.begin, invert});
    ranges->push_back({match.begin, match.end, !invert});
    done = match.end;
  }
  if (done < size) ranges->push_back({done, size, invert});
}

// Appends the ranges of `text` to `out` as pieces.
void Emit(absl::string_view text, const std::vector<Range>& ranges,
          Behavior behavior, Pieces* out) {
  for (size_t i = 0; i < ranges.size(); ++i) {
    const Range& range = ranges[i];
    if (range.is_match && behavior == Behavior::kRemoved) {
      if (i == 0 && out->ends.empty()) out->at_start = false;
      continue;
    }
    out->text.append(text.data() + range.begin, range.end - range.begin);
    const bool last = i + 1 == ranges.size();
    const bool next_is_match = !last && ranges[i + 1].is_match;
    const bool join = !last && ((behavior == Behavior::kContiguous &&
                                 range.is_match == next_is_match) ||
                                (behavior == Behavior::kMergedWithPrevious &&
                                 !range.is_match && next_is_match) ||
                                (behavior == Behavior::kMergedWithNext &&
                                 range.is_match && !next_is_match));
    if (!join) out->Cut();
  }
}

// Starts the result that replaces `pieces`.
Pieces Successor(const Pieces& pieces) {
  Pieces out;
  out.text.reserve(pieces.text.size());
  out.ends.reserve(pieces.ends.size());
  out.at_start = pieces.at_start;
  return out;
}

class Split : public PreTokenizer {
 public:
  Split(Pattern pattern, Behavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  void Apply(Pieces* pieces) const override {
    Pattern::Finder finder(pattern_);
    std::vector<Regex::Match> matches;
    std::vector<Range> ranges;
    Pieces out = Successor(*pieces);
    for (size_t i = 0; i < pieces->ends.size(); ++i) {
      const absl::string_view text = pieces->piece(i);
      finder.FindAll(text, &matches);
      Cover(matches, text.size(), invert_, &ranges);
      Emit(text, ranges, behavior_, &out);
    }
    *pieces = std::move(out);
  }

 private:
  const Pattern pattern_;
  const Behavior behavior_;
  const bool invert_;
};

class Digits : public PreTokenizer {
 public:
  explicit Digits(bool individual)
      : behavior_(individual ? Behavior::kIsolated : Behavior::kContiguous) {}

  void Apply(Pieces* pieces) const override {
    std::vector<Regex::Match> matches;
    std::vector<Range> ranges;
    Pieces out = Successor(*pieces);
    for (size_t p = 0; p < pieces->ends.size(); ++p) {
      const absl::string_view text = pieces->piece(p);
      matches.clear();
      for (size_t i = 0; i < text.size();) {
        const size_t begin = i;
        const uint32_t category = U_MASK(u_charType(NextCodePoint(text, &i)));
        if (category & U_GC_N_MASK) matches.push_back({begin, i});
      }
      Cover(matches, text.size(), false, &ranges);
      Emit(text, ranges, behavior_, &out);
    }
    *pieces = std::move(out);
  }

 private:
  const Behavior behavior_;
};

class ByteLevel : public PreTokenizer {
 public:
  static absl::StatusOr<std::unique_ptr<PreTokenizer>> Make(
      const ObjectReader& reader) {
    BW_RETURN_IF_ERROR(reader.AllowOnly(
        {"type", "add_prefix_space", "trim_offsets", "use_regex"}));
    BW_ASSIGN_OR_RETURN(bool prefix,
                        reader.Bool("add_prefix_space", absl::nullopt));
    BW_ASSIGN_OR_RETURN(bool use_regex, reader.Bool("use_regex", true));
    std::unique_ptr<Split> split;
    if (use_regex) {
      BW_ASSIGN_OR_RETURN(
          Pattern gpt2,
          Pattern::OfRegex("'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+|"
                           " ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
                           reader.where()));
      split =
          std::make_unique<Split>(std::move(gpt2), Behavior::kIsolated, false);
    }
    return std::unique_ptr<PreTokenizer>(
        new ByteLevel(prefix, std::move(split)));
  }

  void Apply(Pieces* pieces) const override {
    if (add_prefix_space_) AddPrefixSpaces(pieces);
    if (split_ != nullptr) split_->Apply(pieces);
    Pieces out = Successor(*pieces);
    for (size_t i = 0; i < pieces->ends.size(); ++i) {
      for (char c : pieces->piece(i)) {
        absl::StrAppend(&out.text,
                        ByteLevelChar(static_cast<unsigned char>(c)));
      }
      out.Cut();
    }
    *pieces = std::move(out);
  }

  bool IsByteLevel() const override { return true; }

 private:
  ByteLevel(bool prefix, std::unique_ptr<Split> split)
      : add_prefix_space_(prefix), split_(std::move(split)) {}

  static void AddPrefixSpaces(Pieces* pieces) {
    Pieces out = Successor(*pieces);
    for (size_t i = 0; i < pieces->ends.size(); ++i) {
      const absl::string_view text = pieces->piece(i);
      absl::StrAppend(&out.text, absl::StartsWith(text, " ") ? "" : " ", text);
      out.Cut();
    }
    *pieces = std::move(out);
  }

  const bool add_prefix_space_;
  const std::unique_ptr<Split> split_;  // Null: whole pieces.
};

class Metaspace : public PreTokenizer {
 public:
  enum class Scheme { kAlways, kFirst, kNever };
  Metaspace(std::string mark, Scheme scheme, bool split)
      : mark_(std::move(mark)),
        scheme_(scheme),
        split_(split ? std::make_unique<Split>(Pattern::Literal(mark_),
                                               Behavior::kMergedWithNext, false)
                     : nullptr) {}

  void Apply(Pieces* pieces) const override {
    Pieces out = Successor(*pieces);
    for (size_t i = 0; i < pieces->ends.size(); ++i) {
      const std::string text =
          absl::StrReplaceAll(pieces->piece(i), {{" ", mark_}});
      const bool prepend =
          scheme_ == Scheme::kAlways ||
          (scheme_ == Scheme::kFirst && i == 0 && pieces->at_start);
      absl::StrAppend(&out.text,
                      prepend && !absl::StartsWith(text, mark_) ? mark_ : "",
                      text);
      out.Cut();
    }
    *pieces = std::move(out);
    if (split_ != nullptr) split_->Apply(pieces);
  }

  bool NeedsStart() const override { return scheme_ == Scheme::kFirst; }

 private:
  const std::string mark_;
  const Scheme scheme_;
  const std::unique_ptr<Split> split_;  // Null: whole pieces.
};

class Sequence : public PreTokenizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<PreTokenizer>> steps)
      : steps_(std::move(steps)) {}
  void Apply(Pieces* pieces) const override {
    for (const auto& step : steps_) step->Apply(pieces);
  }
  bool NeedsStart() const override {
    return std::any_of(steps_.begin(), steps_.end(),
                       [](const auto& step) { return step->NeedsStart(); });
  }
  bool IsByteLevel() const override {
    return !steps_.empty() && steps_.back()->IsByteLevel();
  }

 private:
  const std::vector<std::unique_ptr<PreTokenizer>> steps_;
};

using Made = absl::StatusOr<std::unique_ptr<PreTokenizer>>;

Made MakeSequence(const ObjectReader& reader) {
  BW_RETURN_IF_ERROR(reader.AllowOnly({"type", "pretokenizers"}));
  BW_ASSIGN_OR_RETURN(const nlohmann::json* steps,
                      reader.Array("pretokenizers"));
  std::vector<std::unique_ptr<PreTokenizer>> made;
  for (size_t i = 0; i < steps->size(); ++i) {
    BW_ASSIGN_OR_RETURN(
        auto step,
        MakePreTokenizer(
            (*steps)[i],
            absl::StrCat(reader.WhereOf("pretokenizers"), "[", i, "]")));
    made.push_back(std::move(step));
  }
  return std::make_unique<Sequence>(std::move(made));
}

Made MakeSplit(const ObjectReader& reader) {
  BW_RETURN_IF_ERROR(
      reader.AllowOnly({"type", "pattern", "behavior", "invert"}));
  BW_ASSIGN_OR_RETURN(Pattern pattern, Pattern::Read(reader));
  BW_ASSIGN_OR_RETURN(std::string behavior, reader.String("behavior"));
  BW_ASSIGN_OR_RETURN(bool invert, reader.Bool("invert", absl::nullopt));
  static constexpr std::pair<absl::string_view, Behavior> kBehaviors[] = {
      {"Removed", Behavior::kRemoved},
      {"Isolated", Behavior::kIsolated},
      {"MergedWithPrevious", Behavior::kMergedWithPrevious},
      {"MergedWithNext", Behavior::kMergedWithNext},
      {"Contiguous", Behavior::kContiguous}};
  for (const auto& [name, value] : kBehaviors) {
    if (behavior == name) {
      return std::make_unique<Split>(std::move(pattern), value, invert);
    }
  }
  return absl::UnimplementedError(absl::StrCat(
      reader.WhereOf("behavior"), ": \"", behavior, "\" is not supported"));
}

Made MakeMetaspace(const ObjectReader& reader) {
  BW_RETURN_IF_ERROR(
      reader.AllowOnly({"type", "replacement", "str_rep", "add_prefix_space",
                        "prepend_scheme", "split"}));
  BW_ASSIGN_OR_RETURN(std::string mark, reader.String("replacement"));
  BW_ASSIGN_OR_RETURN(bool prefix, reader.Bool("add_prefix_space", true));
  BW_ASSIGN_OR_RETURN(bool split, reader.Bool("split", true));
  std::string scheme = prefix ? "always" : "never";
  if (reader.Find("prepend_scheme") != nullptr) {
    BW_ASSIGN_OR_RETURN(scheme, reader.String("prepend_scheme"));
  }
  if (mark.empty() || Utf8Step(mark) != static_cast<int>(mark.size())) {
    return absl::InvalidArgumentError(absl::StrCat(
        reader.WhereOf("replacement"), ": expected one character"));
  }
  if (!prefix && scheme != "never") {
    return absl::InvalidArgumentError(absl::StrCat(
        reader.where(), ": add_prefix_space and prepend_scheme disagree"));
  }
  using Scheme = Metaspace::Scheme;
  if (scheme == "always") {
    return std::make_unique<Metaspace>(mark, Scheme::kAlways, split);
  }
  if (scheme == "first") {
    return std::make_unique<Metaspace>(mark, Scheme::kFirst, split);
  }
  if (scheme == "never") {
    return std::make_unique<Metaspace>(mark, Scheme::kNever, split);
  }
  return absl::UnimplementedError(absl::StrCat(
      reader.WhereOf("prepend_scheme"), ": \"", scheme, "\" is not supported"));
}

}  // namespace

Made MakePreTokenizer(const nlohmann::json& json, const std::string& where) {
  BW_ASSIGN_OR_RETURN(ObjectReader reader, ObjectReader::Create(json, where));
  BW_ASSIGN_OR_RETURN(std::string type, reader.String("type"));
  if (type == "ByteLevel") return ByteLevel::Make(reader);
  if (type == "Split") return MakeSplit(reader);
  if (type == "Sequence") return MakeSequence(reader);
  if (type == "Metaspace") return MakeMetaspace(reader);
  if (type == "Digits") {
    BW_RETURN_IF_ERROR(reader.AllowOnly({"type", "individual_digits"}));
    BW_ASSIGN_OR_RETURN(bool individual,
                        reader.Bool("individual_digits", absl::nullopt));
    return std::make_unique<Digits>(individual);
  }
  return absl::UnimplementedError(absl::StrCat(where, ": the pre-tokenizer \"",
                                               type, "\" is not supported"));
}

}  // namespace bitwright
