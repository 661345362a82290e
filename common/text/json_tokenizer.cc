#include "common/text/json_tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"
#include "common/text/utf8.h"

namespace bitwright {

absl::StatusOr<std::unique_ptr<Tokenizer>> JsonTokenizer::Create(
    TokenizerParts parts, absl::string_view source) {
  // Special tokens come first: of equal patterns the first counts.
  std::stable_partition(parts.added_tokens.begin(), parts.added_tokens.end(),
                        [](const AddedToken& token) { return token.special; });
  std::vector<AddedToken> tokens[2];  // As given; normalized.
  std::vector<std::string> patterns[2];
  for (const AddedToken& token : parts.added_tokens) {
    std::string pattern = token.content;
    if (token.normalized && parts.normalizer != nullptr) {
      pattern = parts.normalizer->Apply(std::move(pattern));
    }
    if (pattern.empty()) {
      return absl::UnimplementedError(
          absl::StrCat(source, ": added_tokens: nothing is left of \"",
                       token.content, "\" once it is normalized"));
    }
    tokens[token.normalized].push_back(token);
    patterns[token.normalized].push_back(std::move(pattern));
  }
  return std::unique_ptr<Tokenizer>(new JsonTokenizer(
      std::move(parts), AddedTokenMatcher(tokens[0], patterns[0]),
      AddedTokenMatcher(tokens[1], patterns[1]), std::string(source)));
}

JsonTokenizer::JsonTokenizer(TokenizerParts parts, AddedTokenMatcher raw,
                             AddedTokenMatcher normalized, std::string source)
    : parts_(std::move(parts)),
      raw_(std::move(raw)),
      normalized_(std::move(normalized)) {
  for (const AddedToken& token : parts_.added_tokens) {
    added_by_id_[token.id] = token.content;
  }
  source_ = std::move(source);
  bos_id_ = parts_.bos_id;
  file_decides_bos_ = parts_.has_post_processor;
}

std::vector<int32_t> JsonTokenizer::Encode(absl::string_view utf8) const {
  std::string replaced;
  if (!IsValidUtf8(utf8)) {
    replaced = ReplaceInvalidUtf8(utf8);
    utf8 = replaced;
  }
  BpeModel::Session session(*parts_.model);
  std::vector<int32_t> ids;
  ids.reserve(utf8.size() / 4 + 8);
  for (const AddedTokenMatcher::Section& section : raw_.Split(utf8)) {
    if (section.id >= 0) {
      ids.push_back(section.id);
    } else {
      EncodeSection(section.text, section.text.data() == utf8.data(), &session,
                    &ids);
    }
  }
  return ids;
}

void JsonTokenizer::EncodeSection(absl::string_view text, bool at_start,
                                  BpeModel::Session* session,
                                  std::vector<int32_t>* ids) const {
  std::string normalized;
  if (parts_.normalizer != nullptr) {
    normalized = parts_.normalizer->Apply(std::string(text));
    text = normalized;
  }
  for (const AddedTokenMatcher::Section& section : normalized_.Split(text)) {
    if (section.id >= 0) {
      ids->push_back(section.id);
      continue;
    }
    if (parts_.pre_tokenizer == nullptr) {
      session->Encode(section.text, ids);
      continue;
    }
    Pieces pieces;
    pieces.text = std::string(section.text);
    pieces.at_start = at_start && section.text.data() == text.data();
    pieces.Cut();
    parts_.pre_tokenizer->Apply(&pieces);
    for (size_t i = 0; i < pieces.ends.size(); ++i) {
      session->Encode(pieces.piece(i), ids);
    }
  }
}

std::string JsonTokenizer::Decode(absl::Span<const int32_t> ids) const {
  std::vector<std::string> tokens;
  tokens.reserve(ids.size());
  for (int32_t id : ids) {
    auto added = added_by_id_.find(id);
    if (added != added_by_id_.end()) {
      tokens.push_back(added->second);
    } else if (const std::string* token = parts_.model->TokenOf(id)) {
      tokens.push_back(*token);
    }
  }
  if (parts_.decoder == nullptr) return absl::StrJoin(tokens, " ");
  return absl::StrJoin(parts_.decoder->Apply(std::move(tokens)), "");
}

int JsonTokenizer::vocab_size() const {
  int32_t max_id = parts_.model->max_id();
  for (const AddedToken& token : parts_.added_tokens) {
    max_id = std::max(max_id, token.id);
  }
  return max_id + 1;
}

absl::optional<int32_t> JsonTokenizer::IdOf(absl::string_view token) const {
  for (const AddedToken& added : parts_.added_tokens) {
    if (added.content == token) return added.id;
  }
  return parts_.model->IdOf(token);
}

}  // namespace bitwright
