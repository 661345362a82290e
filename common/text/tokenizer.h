// Text to token ids and back, as the model was trained with.
//
// Reads a Hugging Face `tokenizer.json` (byte-level BPE as in GPT-2, OPT,
// Llama-3 and Qwen2; BPE with byte fallback as in Llama-2) or a sentencepiece
// `tokenizer.model`, and gives the ids that the Hugging Face `tokenizers`
// library and sentencepiece give, token for token:
//
//   BW_ASSIGN_OR_RETURN(auto tokenizer, Tokenizer::FromDirectory(model_dir));
//   std::vector<int32_t> ids = tokenizer->EncodeWithBos(text);  // One BOS.
//   BW_ASSIGN_OR_RETURN(auto windows, EvalWindows(ids, 2048));  // windows.h
//
// What a file asks for and this library does not do is an error when the file
// is read (UNIMPLEMENTED, naming it), never ignored: the ids are right or there
// are none.
//
// Invalid UTF-8 is replaced by U+FFFD before anything else, one for each
// maximal ill-formed part, exactly as Python's bytes.decode("utf-8", "replace")
// does; a lone surrogate written as three bytes becomes three U+FFFD.
//
// Character properties in regular expressions are those of Unicode 14 and those
// in normalization of Unicode 9, as in `tokenizers` 0.13 to 0.20: later
// characters count as unassigned. Digits, lower case and the single_word flag
// of added tokens follow ICU. The ids of added tokens are those that the file
// states.
#ifndef BITWRIGHT_COMMON_TEXT_TOKENIZER_H_
#define BITWRIGHT_COMMON_TEXT_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"

namespace bitwright {

// Thread-safe: all methods are const and share no mutable state.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Reads `tokenizer.json` if `model_dir` has one, otherwise `tokenizer.model`,
  // and learns the beginning-of-sequence token as bos_id() describes.
  // If both are there, agree on words, and only tokenizer.model removes extra
  // spaces, then tokenizer.json is a conversion that has lost that step (some
  // of llama2.c's models): tokenizer.model, which the model was trained with,
  // is read instead. NOT_FOUND, naming both files, if there is neither;
  // INVALID_ARGUMENT for a malformed file; UNIMPLEMENTED for one that asks for
  // something unsupported.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromDirectory(
      const std::string& model_dir);

  // From the text of a tokenizer.json. `source_name` stands in error messages.
  // bos_id() then comes from its post-processor alone.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromJson(
      absl::string_view tokenizer_json, absl::string_view source_name);

  // From the bytes of a sentencepiece model (BPE, unigram, char or word). A
  // dummy prefix is added as the model says (Llama's do: one "▁" in front of
  // the whole text). Text that looks like a control symbol ("<s>") is text.
  // bos_id() is the model's own.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromSentencePiece(
      absl::string_view model_bytes, absl::string_view source_name);

  // The ids of `utf8`, without any token that a post-processor would put around
  // it (no BOS, no EOS). At most 1 GiB of text; memory is about 30 bytes a byte
  // of text while it runs.
  virtual std::vector<int32_t> Encode(absl::string_view utf8) const = 0;

  // bos_id(), if there is one, followed by Encode(utf8) (math.md §5).
  std::vector<int32_t> EncodeWithBos(absl::string_view utf8) const;

  // The text of `ids`, special tokens included. Ids that no token has are
  // dropped. Bytes that do not make UTF-8 become U+FFFD.
  virtual std::string Decode(absl::Span<const int32_t> ids) const = 0;

  // One more than the largest id that Encode can return.
  virtual int vocab_size() const = 0;

  // The beginning-of-sequence token that the model's own tokenizer puts in
  // front of a text, or nullopt if it puts none (GPT-2, Pythia, Qwen2). The
  // first of these that says something decides:
  //   1. `add_bos_token` in tokenizer_config.json: its `bos_token`, or none;
  //   2. the post-processor of tokenizer.json, or the sentencepiece model;
  //   3. `tokenizer_class` and `bos_token` in tokenizer_config.json (Llama's
  //   and
  //      Gemma's classes add one, all others do not);
  //   4. without a tokenizer_config.json: `bos_token_id` in config.json.
  absl::optional<int32_t> bos_id() const { return bos_id_; }

  // The file that it was read from, or the source_name.
  const std::string& source() const { return source_; }

 protected:
  friend class BosResolver;
  std::string source_;
  absl::optional<int32_t> bos_id_;
  // Whether the tokenizer file itself said whether a text starts with a BOS.
  bool file_decides_bos_ = false;

  // The id of a token by its exact text.
  virtual absl::optional<int32_t> IdOf(absl::string_view token) const = 0;
};

}  // namespace bitwright

#endif  // BITWRIGHT_COMMON_TEXT_TOKENIZER_H_
