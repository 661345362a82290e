#include "common/text/bpe_model.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status_macros.h"
#include "common/text/utf8.h"

namespace bitwright {
namespace {

// The code point of a token of one character, or nullopt.
absl::optional<char32_t> OnlyChar(absl::string_view token) {
  if (token.empty()) return absl::nullopt;
  size_t end = 0;
  const char32_t code = NextCodePoint(token, &end);
  if (end != token.size()) return absl::nullopt;
  return code;
}

}  // namespace

absl::StatusOr<std::unique_ptr<BpeModel>> BpeModel::Create(
    BpeOptions options, bool always_known, absl::string_view where) {
  std::unique_ptr<BpeModel> model(new BpeModel(std::move(options)));
  const BpeOptions& o = model->options_;
  model->decorated_ =
      !o.continuing_subword_prefix.empty() || !o.end_of_word_suffix.empty();
  BW_RETURN_IF_ERROR(model->IndexTokens(where));
  if (o.unk_token.has_value()) {
    model->unk_id_ = model->IdOf(*o.unk_token).value_or(-1);
    if (model->unk_id_ < 0 && !always_known) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ".unk_token: \"", *o.unk_token,
                       "\" is not in the vocabulary"));
    }
  }
  BW_RETURN_IF_ERROR(model->IndexMerges(where));
  model->IndexJoins();
  return model;
}

absl::Status BpeModel::IndexTokens(absl::string_view where) {
  byte_ids_.fill(-1);
  low_char_ids_.fill(-1);
  for (const auto& [token, id] : options_.vocab) {
    if (id < 0 || id >= kMaxTokenId) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ".vocab: the id ", id, " of \"", token,
                       "\" is not from 0 to ", kMaxTokenId - 1));
    }
    const auto [it, inserted] = tokens_.try_emplace(id, &token);
    if (!inserted) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ".vocab: \"", token, "\" and \"", *it->second,
                       "\" have the same id ", id));
    }
    max_id_ = std::max(max_id_, id);
    if (absl::optional<char32_t> code = OnlyChar(token)) {
      if (*code < low_char_ids_.size()) {
        low_char_ids_[*code] = id;
      } else {
        char_ids_[*code] = id;
      }
    }
  }
  for (int byte = 0; options_.byte_fallback && byte < 256; ++byte) {
    byte_ids_[byte] = IdOf(absl::StrFormat("<0x%02X>", byte)).value_or(-1);
  }
  return absl::OkStatus();
}

absl::Status BpeModel::IndexMerges(absl::string_view where) {
  const size_t prefix = options_.continuing_subword_prefix.size();
  merges_.reserve(options_.merges.size());
  for (size_t rank = 0; rank < options_.merges.size(); ++rank) {
    const auto& [left, right] = options_.merges[rank];
    const auto left_id = IdOf(left);
    const auto right_id = IdOf(right);
    if (!left_id || !right_id || right.size() < prefix) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ".merges[", rank, "]: \"", left_id ? right : left,
                       "\" is not in the vocabulary"));
    }
    const std::string joined = left + right.substr(prefix);
    const auto new_id = IdOf(joined);
    if (!new_id) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ".merges[", rank, "]: \"", joined,
                       "\", which it makes, is not in the vocabulary"));
    }
    // A pair that is listed twice keeps the later rank, as in the reference.
    merges_[PairKey(*left_id, *right_id)] = {static_cast<int32_t>(rank),
                                             *new_id};
  }
  return absl::OkStatus();
}

// A merge that reaches across the boundary of two symbols joins a token that
// ends with the first to one that starts with the second. A token made by
// merges is the concatenation of its symbols, so its first and last symbol can
// be read off its text.
void BpeModel::IndexJoins() {
  if (decorated_) return;
  absl::flat_hash_map<int32_t, std::vector<int32_t>> firsts;
  absl::flat_hash_map<int32_t, std::vector<int32_t>> lasts;
  for (const auto& [key, rule] : merges_) {
    const auto left = static_cast<int32_t>(key >> 32);
    const auto right = static_cast<int32_t>(key & 0xFFFFFFFFu);
    auto& last = lasts[left];
    if (last.empty()) last = EdgeSymbols(*TokenOf(left), true);
    auto& first = firsts[right];
    if (first.empty()) first = EdgeSymbols(*TokenOf(right), false);
    for (int32_t a : last) {
      for (int32_t b : first) joins_.insert(PairKey(a, b));
    }
  }
}

std::vector<int32_t> BpeModel::EdgeSymbols(const std::string& token,
                                           bool at_end) const {
  std::vector<int32_t> ids;
  if (token.empty()) return ids;
  size_t position = at_end ? token.size() : 0;
  const int32_t char_id = CharId(at_end ? PreviousCodePoint(token, &position)
                                        : NextCodePoint(token, &position));
  if (char_id >= 0) ids.push_back(char_id);
  // Symbols that stand for something else than their own text.
  const auto add_if_edge = [&](int32_t id) {
    if (id < 0) return;
    const std::string& text = *TokenOf(id);
    if (at_end ? absl::EndsWith(token, text) : absl::StartsWith(token, text)) {
      ids.push_back(id);
    }
  };
  add_if_edge(unk_id_);
  for (int byte = 0; absl::StrContains(token, "<0x") && byte < 256; ++byte) {
    add_if_edge(byte_ids_[byte]);
  }
  return ids;
}

absl::optional<int32_t> BpeModel::IdOf(absl::string_view token) const {
  auto it = options_.vocab.find(token);
  if (it == options_.vocab.end()) return absl::nullopt;
  return it->second;
}

const std::string* BpeModel::TokenOf(int32_t id) const {
  auto it = tokens_.find(id);
  return it == tokens_.end() ? nullptr : it->second;
}

int32_t BpeModel::CharId(char32_t code) const {
  if (code < low_char_ids_.size()) return low_char_ids_[code];
  auto it = char_ids_.find(code);
  return it == char_ids_.end() ? -1 : it->second;
}

bool BpeModel::AppendBytes(absl::string_view symbol,
                           std::vector<int32_t>* ids) const {
  for (unsigned char byte : symbol) {
    if (byte_ids_[byte] < 0) return false;
  }
  for (unsigned char byte : symbol) ids->push_back(byte_ids_[byte]);
  return true;
}

// As in the reference, an unknown symbol is held back until a known one comes;
// bytes that stand in for a character go ahead of it.
void BpeModel::InitialSymbols(absl::string_view piece,
                              std::vector<int32_t>* ids) const {
  bool unk_pending = false;
  for (size_t i = 0; i < piece.size();) {
    const size_t begin = i;
    const char32_t code = NextCodePoint(piece, &i);
    absl::string_view symbol = piece.substr(begin, i - begin);
    std::string decorated;
    int32_t id;
    if (decorated_) {
      decorated = absl::StrCat(
          begin == 0 ? "" : options_.continuing_subword_prefix, symbol,
          i == piece.size() ? options_.end_of_word_suffix : "");
      symbol = decorated;
      id = IdOf(symbol).value_or(-1);
    } else {
      id = CharId(code);
    }
    if (id >= 0) {
      if (unk_pending) ids->push_back(unk_id_);
      unk_pending = false;
      ids->push_back(id);
    } else if (options_.byte_fallback && AppendBytes(symbol, ids)) {
      continue;
    } else if (unk_id_ >= 0) {
      if (unk_pending && !options_.fuse_unk) ids->push_back(unk_id_);
      unk_pending = true;
    }
  }
  if (unk_pending) ids->push_back(unk_id_);
}

}  // namespace bitwright
