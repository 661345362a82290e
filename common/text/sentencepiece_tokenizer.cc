#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "common/text/sentencepiece_model.h"
#include "common/text/tokenizer.h"
#include "common/text/utf8.h"

namespace bitwright {
namespace {

// Whether the ids of "x y" are those of "x" followed by those of "y", x ending
// and y starting with a printable ASCII character: no piece reaches from a
// character into a following space, and the model puts a space in front of what
// it is given. Then a text can be encoded word by word.
bool WordsAreIndependent(const SentencePieceModel& model) {
  constexpr absl::string_view kSpace = "\xE2\x96\x81";  // U+2581.
  for (int id = 0; id < model.size(); ++id) {
    const absl::string_view piece = model.PieceOf(id);
    const size_t last = piece.rfind(kSpace);
    if (last == absl::string_view::npos) continue;
    for (size_t i = 0; i < last; i += kSpace.size()) {
      if (piece.substr(i, kSpace.size()) != kSpace) return false;
    }
  }
  for (char c = '!'; c <= '~'; ++c) {
    const std::string word(1, c);
    std::vector<int> twice = model.Encode(word);
    const std::vector<int> once = twice;
    twice.insert(twice.end(), once.begin(), once.end());
    if (model.Encode(word + " " + word) != twice) return false;
  }
  return true;
}

bool IsPrintableAscii(char c) { return c >= '!' && c <= '~'; }

class SentencePieceTokenizer : public Tokenizer {
 public:
  SentencePieceTokenizer(std::unique_ptr<SentencePieceModel> model,
                         std::string source)
      : model_(std::move(model)), by_word_(WordsAreIndependent(*model_)) {
    source_ = std::move(source);
    if (model_->bos_id() >= 0) bos_id_ = model_->bos_id();
    file_decides_bos_ = true;
  }

  std::vector<int32_t> Encode(absl::string_view utf8) const override {
    std::string replaced;
    if (!IsValidUtf8(utf8)) {
      replaced = ReplaceInvalidUtf8(utf8);
      utf8 = replaced;
    }
    return by_word_ ? EncodeByWord(utf8)
                    : model_->Encode({utf8.data(), utf8.size()});
  }

  std::string Decode(absl::Span<const int32_t> ids) const override {
    std::vector<int> known;
    for (int32_t id : ids) {
      if (id >= 0 && id < model_->size()) known.push_back(id);
    }
    return model_->Decode(known);
  }

  int vocab_size() const override { return model_->size(); }

 protected:
  absl::optional<int32_t> IdOf(absl::string_view token) const override {
    const int id = model_->IdOf({token.data(), token.size()});
    if (id < 0) return absl::nullopt;
    return id;
  }

 private:
  // The library takes time for every piece it returns; most words recur.
  std::vector<int32_t> EncodeByWord(absl::string_view text) const {
    constexpr size_t kMaxCachedBytes = 128;
    constexpr size_t kMaxCacheEntries = 1 << 17;
    absl::flat_hash_map<std::string, std::vector<int>> cache;
    std::vector<int32_t> ids;
    for (size_t begin = 0, end; begin < text.size(); begin = end + 1) {
      end = begin;
      do {
        end = text.find(' ', end + 1);
        if (end > text.size()) end = text.size();
      } while (end + 1 < text.size() && !(IsPrintableAscii(text[end - 1]) &&
                                          IsPrintableAscii(text[end + 1])));
      if (end + 1 == text.size()) end = text.size();  // A space ends the text.
      const absl::string_view word = text.substr(begin, end - begin);
      auto it = cache.find(word);
      if (it != cache.end()) {
        ids.insert(ids.end(), it->second.begin(), it->second.end());
        continue;
      }
      std::vector<int> encoded = model_->Encode({word.data(), word.size()});
      ids.insert(ids.end(), encoded.begin(), encoded.end());
      if (word.size() <= kMaxCachedBytes && cache.size() < kMaxCacheEntries) {
        cache.emplace(std::string(word), std::move(encoded));
      }
    }
    return ids;
  }

  const std::unique_ptr<SentencePieceModel> model_;
  const bool by_word_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromSentencePiece(
    absl::string_view model_bytes, absl::string_view source_name) {
  std::string problem;
  std::unique_ptr<SentencePieceModel> model = SentencePieceModel::Load(
      {model_bytes.data(), model_bytes.size()}, &problem);
  if (model == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        source_name, ": not a usable sentencepiece model: ", problem));
  }
  return std::unique_ptr<Tokenizer>(
      new SentencePieceTokenizer(std::move(model), std::string(source_name)));
}

}  // namespace bitwright
