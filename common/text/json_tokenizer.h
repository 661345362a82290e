// A tokenizer.json as a Tokenizer: added tokens, normalizer, pre-tokenizer,
// BPE.
#ifndef BITWRIGHT_COMMON_TEXT_JSON_TOKENIZER_H_
#define BITWRIGHT_COMMON_TEXT_JSON_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/text/added_tokens.h"
#include "common/text/bpe_model.h"
#include "common/text/decoder.h"
#include "common/text/normalizer.h"
#include "common/text/pre_tokenizer.h"
#include "common/text/tokenizer.h"

namespace bitwright {

// The parts of a tokenizer.json, read and checked.
struct TokenizerParts {
  std::vector<AddedToken> added_tokens;
  std::unique_ptr<Normalizer> normalizer;       // Null: none.
  std::unique_ptr<PreTokenizer> pre_tokenizer;  // Null: none.
  std::unique_ptr<Decoder> decoder;             // Null: joined by spaces.
  std::unique_ptr<BpeModel> model;
  bool has_post_processor = false;
  // The token that the post-processor puts first, if it does.
  absl::optional<int32_t> bos_id;
};

// INVALID_ARGUMENT or UNIMPLEMENTED, as Tokenizer::FromJson says.
absl::StatusOr<TokenizerParts> ReadTokenizerJson(absl::string_view text,
                                                 absl::string_view source);

class JsonTokenizer : public Tokenizer {
 public:
  // INVALID_ARGUMENT if an added token is empty once normalized.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(
      TokenizerParts parts, absl::string_view source);

  std::vector<int32_t> Encode(absl::string_view utf8) const override;
  std::string Decode(absl::Span<const int32_t> ids) const override;
  int vocab_size() const override;

 protected:
  absl::optional<int32_t> IdOf(absl::string_view token) const override;

 private:
  JsonTokenizer(TokenizerParts parts, AddedTokenMatcher raw,
                AddedTokenMatcher normalized, std::string source);
  // Encodes text that no added token claims before normalization.
  void EncodeSection(absl::string_view text, bool at_start,
                     BpeModel::Session* session,
                     std::vector<int32_t>* ids) const;

  const TokenizerParts parts_;
  const AddedTokenMatcher raw_;         // Sought in the text as given,
  const AddedTokenMatcher normalized_;  // and in what normalization makes.
  absl::flat_hash_map<int32_t, std::string> added_by_id_;
};

}  // namespace bitwright

#endif  // BITWRIGHT_COMMON_TEXT_JSON_TOKENIZER_H_
