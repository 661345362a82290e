// What the post-processor of a tokenizer.json puts in front of a text. Nothing
// else of it matters here: Encode returns the text's own tokens.
#ifndef BITWRIGHT_COMMON_TEXT_POST_PROCESSOR_H_
#define BITWRIGHT_COMMON_TEXT_POST_PROCESSOR_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"

namespace bitwright {

// The id of the one token that it puts in front of a single text, or nullopt if
// it puts none. TemplateProcessing, RobertaProcessing, BertProcessing,
// ByteLevel and Sequence; UNIMPLEMENTED for others, and for more than one token
// in front.
absl::StatusOr<absl::optional<int32_t>> FirstTokenOf(const nlohmann::json& json,
                                                     const std::string& where);

}  // namespace bitwright

#endif  // BITWRIGHT_COMMON_TEXT_POST_PROCESSOR_H_
