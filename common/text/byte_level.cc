#include <array>
#include <string>

#include "common/text/pre_tokenizer.h"
#include "common/text/utf8.h"

namespace bitwright {
namespace {

struct Alphabet {
  std::array<std::string, 256> chars;
  std::array<int, 512> bytes;

  // Printable Latin-1 stands for itself, the others, in order, for U+0100 on.
  Alphabet() {
    bytes.fill(-1);
    char32_t next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') ||
                             (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      const char32_t code = printable ? static_cast<char32_t>(byte) : next++;
      AppendUtf8(code, &chars[byte]);
      bytes[code] = byte;
    }
  }
};

const Alphabet& GetAlphabet() {
  static const Alphabet* const alphabet = new Alphabet;
  return *alphabet;
}

}  // namespace

absl::string_view ByteLevelChar(unsigned char byte) {
  return GetAlphabet().chars[byte];
}

int ByteLevelByte(char32_t character) {
  return character < 512 ? GetAlphabet().bytes[character] : -1;
}

}  // namespace bitwright
