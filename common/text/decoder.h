// The decoders of a tokenizer.json: tokens back to text.
#ifndef BITWRIGHT_COMMON_TEXT_DECODER_H_
#define BITWRIGHT_COMMON_TEXT_DECODER_H_

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace bitwright {

// Immutable and thread-safe.
class Decoder {
 public:
  virtual ~Decoder() = default;
  // Rewrites tokens; joined, the last result is the text.
  virtual std::vector<std::string> Apply(
      std::vector<std::string> tokens) const = 0;
};

// ByteLevel, ByteFallback, Fuse, Strip, Replace, Metaspace and Sequence.
// UNIMPLEMENTED for other types or settings, INVALID_ARGUMENT for malformed
// ones; `where` opens the message.
absl::StatusOr<std::unique_ptr<Decoder>> MakeDecoder(const nlohmann::json& json,
                                                     const std::string& where);

}  // namespace bitwright

#endif  // BITWRIGHT_COMMON_TEXT_DECODER_H_
