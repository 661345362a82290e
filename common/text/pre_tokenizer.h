// The pre-tokenizers of a tokenizer.json: they cut a text into the pieces
// within which the model may merge, and rewrite them.
#ifndef BITWRIGHT_COMMON_TEXT_PRE_TOKENIZER_H_
#define BITWRIGHT_COMMON_TEXT_PRE_TOKENIZER_H_

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bitwright {

// Consecutive non-empty pieces of one text.
struct Pieces {
  std::string text;
  std::vector<size_t> ends;  // Piece i is text[ends[i - 1], ends[i]).
  // Whether the first piece stands at the very start of what Encode was given.
  bool at_start = false;

  // Ends the current piece at the end of `text`; nothing if it is empty.
  void Cut() {
    if (text.size() > (ends.empty() ? 0 : ends.back())) {
      ends.push_back(text.size());
    }
  }
  absl::string_view piece(size_t i) const {
    const size_t begin = i == 0 ? 0 : ends[i - 1];
    return absl::string_view(text).substr(begin, ends[i] - begin);
  }
};

// Immutable and thread-safe.
class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void Apply(Pieces* pieces) const = 0;
  // Whether what it gives depends on Pieces::at_start.
  virtual bool NeedsStart() const { return false; }
  // Whether it turns every byte into a character of the byte-level alphabet.
  virtual bool IsByteLevel() const { return false; }
};

// ByteLevel, Split, Digits, Metaspace and Sequence. UNIMPLEMENTED for other
// types or settings, INVALID_ARGUMENT for malformed ones; `where` opens the
// message.
absl::StatusOr<std::unique_ptr<PreTokenizer>> MakePreTokenizer(
    const nlohmann::json& json, const std::string& where);

// The byte-level alphabet of GPT-2: the character, in UTF-8, that stands for
// `byte`, and the byte for a character, or -1.
absl::string_view ByteLevelChar(unsigned char byte);
int ByteLevelByte(char32_t character);

}  // namespace bitwright

#endif  // BITWRIGHT_COMMON_TEXT_PRE_TOKENIZER_H_
