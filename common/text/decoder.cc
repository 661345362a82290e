#include "common/text/decoder.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "common/base/status_macros.h"
#include "common/text/json_reader.h"
#include "common/text/pattern.h"
#include "common/text/pre_tokenizer.h"
#include "common/text/utf8.h"

namespace bitwright {
namespace {

using Tokens = std::vector<std::string>;

class ByteLevel : public Decoder {
 public:
  Tokens Apply(Tokens tokens) const override {
    std::string bytes;
    for (const std::string& token : tokens) AppendBytes(token, &bytes);
    return {ReplaceInvalidUtf8(bytes)};
  }

 private:
  // A token outside the byte-level alphabet, an added one, is its own text.
  static void AppendBytes(const std::string& token, std::string* out) {
    const size_t before = out->size();
    for (size_t i = 0; i < token.size();) {
      const int byte = ByteLevelByte(NextCodePoint(token, &i));
      if (byte < 0) {
        out->resize(before);
        *out += token;
        return;
      }
      out->push_back(static_cast<char>(byte));
    }
  }
};

class ByteFallback : public Decoder {
 public:
  Tokens Apply(Tokens tokens) const override {
    Tokens out;
    std::string bytes;
    const auto flush = [&] {
      if (bytes.empty()) return;
      if (IsValidUtf8(bytes)) {
        out.push_back(bytes);
      } else {
        for (size_t i = 0; i < bytes.size(); ++i) out.push_back("\xEF\xBF\xBD");
      }
      bytes.clear();
    };
    for (std::string& token : tokens) {
      const int byte = ByteOf(token);
      if (byte >= 0) {
        bytes.push_back(static_cast<char>(byte));
      } else {
        flush();
        out.push_back(std::move(token));
      }
    }
    flush();
    return out;
  }

 private:
  // The byte of a token "<0xHH>", or -1.
  static int ByteOf(absl::string_view token) {
    if (token.size() != 6 || !absl::StartsWith(token, "<0x") ||
        token[5] != '>' || !absl::ascii_isxdigit(token[3]) ||
        !absl::ascii_isxdigit(token[4])) {
      return -1;
    }
    return std::stoi(std::string(token.substr(3, 2)), nullptr, 16);
  }
};

class Fuse : public Decoder {
 public:
  Tokens Apply(Tokens tokens) const override {
    return {absl::StrJoin(tokens, "")};
  }
};

// Takes a character off each token's ends, at most so many times.
class Strip : public Decoder {
 public:
  Strip(std::string content, int start, int stop)
      : content_(std::move(content)), start_(start), stop_(stop) {}
  Tokens Apply(Tokens tokens) const override {
    for (std::string& token : tokens) {
      absl::string_view rest = token;
      for (int i = 0; i < start_ && absl::ConsumePrefix(&rest, content_); ++i) {
      }
      for (int i = 0; i < stop_ && absl::ConsumeSuffix(&rest, content_); ++i) {
      }
      token = std::string(rest);
    }
    return tokens;
  }

 private:
  const std::string content_;
  const int start_;
  const int stop_;
};

class Replace : public Decoder {
 public:
  Replace(Pattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  Tokens Apply(Tokens tokens) const override {
    Pattern::Finder finder(pattern_);
    for (std::string& token : tokens) {
      token = finder.ReplaceAll(token, content_);
    }
    return tokens;
  }

 private:
  const Pattern pattern_;
  const std::string content_;
};

class Metaspace : public Decoder {
 public:
  Metaspace(std::string mark, bool drop_first)
      : mark_(std::move(mark)), drop_first_(drop_first) {}
  Tokens Apply(Tokens tokens) const override {
    Pattern::Finder finder(pattern_);
    for (size_t i = 0; i < tokens.size(); ++i) {
      tokens[i] =
          finder.ReplaceAll(tokens[i], i == 0 && drop_first_ ? "" : " ");
    }
    return tokens;
  }

 private:
  const std::string mark_;
  const Pattern pattern_ = Pattern::Literal(mark_);
  const bool drop_first_;
};

class Sequence : public Decoder {
 public:
  explicit Sequence(std::vector<std::unique_ptr<Decoder>> steps)
      : steps_(std::move(steps)) {}
  Tokens Apply(Tokens tokens) const override {
    for (const auto& step : steps_) tokens = step->Apply(std::move(tokens));
    return tokens;
  }

 private:
  const std::vector<std::unique_ptr<Decoder>> steps_;
};

using Made = absl::StatusOr<std::unique_ptr<Decoder>>;

Made MakeSequence(const ObjectReader& reader) {
  BW_RETURN_IF_ERROR(reader.AllowOnly({"type", "decoders"}));
  BW_ASSIGN_OR_RETURN(const nlohmann::json* steps, reader.Array("decoders"));
  std::vector<std::unique_ptr<Decoder>> made;
  for (size_t i = 0; i < steps->size(); ++i) {
    BW_ASSIGN_OR_RETURN(
        auto step,
        MakeDecoder((*steps)[i],
                    absl::StrCat(reader.WhereOf("decoders"), "[", i, "]")));
    made.push_back(std::move(step));
  }
  return std::make_unique<Sequence>(std::move(made));
}

Made MakeStrip(const ObjectReader& reader) {
  BW_RETURN_IF_ERROR(reader.AllowOnly({"type", "content", "start", "stop"}));
  BW_ASSIGN_OR_RETURN(std::string content, reader.String("content"));
  BW_ASSIGN_OR_RETURN(int start, reader.Index("start", 1 << 20));
  BW_ASSIGN_OR_RETURN(int stop, reader.Index("stop", 1 << 20));
  if (content.empty() ||
      Utf8Step(content) != static_cast<int>(content.size())) {
    return absl::InvalidArgumentError(
        absl::StrCat(reader.WhereOf("content"), ": expected one character"));
  }
  return std::make_unique<Strip>(std::move(content), start, stop);
}

Made MakeMetaspace(const ObjectReader& reader) {
  BW_RETURN_IF_ERROR(
      reader.AllowOnly({"type", "replacement", "str_rep", "add_prefix_space",
                        "prepend_scheme", "split"}));
  BW_ASSIGN_OR_RETURN(std::string mark, reader.String("replacement"));
  BW_ASSIGN_OR_RETURN(bool prefix, reader.Bool("add_prefix_space", true));
  if (reader.Find("prepend_scheme") != nullptr) {
    BW_ASSIGN_OR_RETURN(std::string scheme, reader.String("prepend_scheme"));
    prefix = scheme != "never";
  }
  if (mark.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        reader.WhereOf("replacement"), ": expected one character"));
  }
  return std::make_unique<Metaspace>(std::move(mark), prefix);
}

}  // namespace

Made MakeDecoder(const nlohmann::json& json, const std::string& where) {
  BW_ASSIGN_OR_RETURN(ObjectReader reader, ObjectReader::Create(json, where));
  BW_ASSIGN_OR_RETURN(std::string type, reader.String("type"));
  if (type == "Sequence") return MakeSequence(reader);
  if (type == "Strip") return MakeStrip(reader);
  if (type == "Metaspace") return MakeMetaspace(reader);
  if (type == "ByteLevel") {
    BW_RETURN_IF_ERROR(reader.AllowOnly(
        {"type", "add_prefix_space", "trim_offsets", "use_regex"}));
    return std::make_unique<ByteLevel>();
  }
  if (type == "ByteFallback") {
    BW_RETURN_IF_ERROR(reader.AllowOnly({"type"}));
    return std::make_unique<ByteFallback>();
  }
  if (type == "Fuse") {
    BW_RETURN_IF_ERROR(reader.AllowOnly({"type"}));
    return std::make_unique<Fuse>();
  }
  if (type == "Replace") {
    BW_RETURN_IF_ERROR(reader.AllowOnly({"type", "pattern", "content"}));
    BW_ASSIGN_OR_RETURN(Pattern pattern, Pattern::Read(reader));
    BW_ASSIGN_OR_RETURN(std::string content, reader.String("content"));
    return std::make_unique<Replace>(std::move(pattern), std::move(content));
  }
  return absl::UnimplementedError(
      absl::StrCat(where, ": the decoder \"", type, "\" is not supported"));
}

}  // namespace bitwright
