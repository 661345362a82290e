// The normalizers of a tokenizer.json: text in, text out.
#ifndef BITWRIGHT_COMMON_TEXT_NORMALIZER_H_
#define BITWRIGHT_COMMON_TEXT_NORMALIZER_H_

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"

namespace bitwright {

// Immutable and thread-safe.
class Normalizer {
 public:
  virtual ~Normalizer() = default;
  // Well-formed UTF-8 to well-formed UTF-8.
  virtual std::string Apply(std::string text) const = 0;
  // Whether it may delete characters at the start of a text, so that what then
  // comes first no longer stands at the start of the original.
  virtual bool DeletesAtStart() const { return false; }
};

// NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Strip, StripAccents and
// Sequence. UNIMPLEMENTED for other types or settings, INVALID_ARGUMENT for
// malformed ones; `where` opens the message.
absl::StatusOr<std::unique_ptr<Normalizer>> MakeNormalizer(
    const nlohmann::json& json, const std::string& where);

}  // namespace bitwright

#endif  // BITWRIGHT_COMMON_TEXT_NORMALIZER_H_
