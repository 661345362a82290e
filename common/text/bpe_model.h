// Byte-pair encoding of one piece of text: characters to symbols, then the
// merges, the one of lowest rank first and the leftmost among equals.
//
//   BpeModel::Session session(*model);
//   std::vector<int32_t> ids;
//   session.Encode("▁hello", &ids);
//
// A piece of n symbols takes O(n log n) at most. Two things make it fast: a
// piece is cut where no merge can ever join two neighbouring symbols (with
// Llama-2, which has no pre-tokenizer, a piece is the whole text, and this cuts
// it into words), and the result for each word is remembered.
#ifndef BITWRIGHT_COMMON_TEXT_BPE_MODEL_H_
#define BITWRIGHT_COMMON_TEXT_BPE_MODEL_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"

namespace bitwright {

// Ids are below this.
inline constexpr int32_t kMaxTokenId = 1 << 24;

struct BpeOptions {
  absl::flat_hash_map<std::string, int32_t> vocab;
  // In order of rank; all in `vocab`, their concatenations too.
  std::vector<std::pair<std::string, std::string>> merges;
  absl::optional<std::string> unk_token;
  std::string continuing_subword_prefix;
  std::string end_of_word_suffix;
  bool fuse_unk = false;
  bool byte_fallback = false;
  bool ignore_merges = false;
};

// Immutable and thread-safe; a Session serves one thread.
class BpeModel {
 public:
  // INVALID_ARGUMENT for ids that are negative, too large or shared by two
  // tokens, and for a merge or unk_token that the vocabulary lacks; `where`
  // opens the message. `always_known` waives the last: no unknown character can
  // occur.
  static absl::StatusOr<std::unique_ptr<BpeModel>> Create(
      BpeOptions options, bool always_known, absl::string_view where);

  absl::optional<int32_t> IdOf(absl::string_view token) const;
  // Null if no token has that id.
  const std::string* TokenOf(int32_t id) const;
  int32_t max_id() const { return max_id_; }

  class Session {
   public:
    explicit Session(const BpeModel& model) : model_(model) {}
    // Appends the ids of `piece`.
    void Encode(absl::string_view piece, std::vector<int32_t>* ids);

   private:
    struct Symbol {
      int32_t id;
      int32_t previous;
      int32_t next;
      bool alive;
    };
    struct Candidate {
      int32_t rank;
      int32_t position;
      int32_t new_id;
      // Orders a heap whose top is the merge to do next.
      bool operator<(const Candidate& other) const {
        return rank != other.rank ? rank > other.rank
                                  : position > other.position;
      }
    };
    void EncodeUncached(absl::string_view piece, std::vector<int32_t>* ids);
    void EncodeSegment(absl::Span<const int32_t> segment,
                       std::vector<int32_t>* ids);
    void Merge(absl::Span<const int32_t> segment, std::vector<int32_t>* ids);
    void Push(int32_t left);

    // Ids by what they came from; [first, second) of cached_ids_.
    using Cache = absl::flat_hash_map<std::string, std::pair<size_t, size_t>>;
    // Appends what is remembered; false if nothing is.
    bool Recall(const Cache& cache, absl::string_view key,
                std::vector<int32_t>* ids) const;
    void Remember(Cache* cache, absl::string_view key,
                  absl::Span<const int32_t> ids);

    const BpeModel& model_;
    Cache pieces_;
    Cache segments_;
    std::vector<int32_t> cached_ids_;
    std::vector<int32_t> initial_;
    std::vector<Symbol> symbols_;
    std::vector<Candidate> heap_;
  };

 private:
  struct MergeRule {
    int32_t rank;
    int32_t new_id;
  };
  static uint64_t PairKey(int32_t left, int32_t right) {
    return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  }

  explicit BpeModel(BpeOptions options) : options_(std::move(options)) {}
  absl::Status IndexTokens(absl::string_view where);
  absl::Status IndexMerges(absl::string_view where);
  void IndexJoins();
  // The symbols that can stand at the start (or end) of `token`.
  std::vector<int32_t> EdgeSymbols(const std::string& token, bool at_end) const;
  void InitialSymbols(absl::string_view piece, std::vector<int32_t>* ids) const;
  int32_t CharId(char32_t code) const;
  bool AppendBytes(absl::string_view symbol, std::vector<int32_t>* ids) const;

  BpeOptions options_;
  bool decorated_ = false;  // A subword prefix or a word suffix is in use.
  int32_t max_id_ = -1;
  int32_t unk_id_ = -1;
  std::array<int32_t, 256> byte_ids_;  // -1: none.
  std::array<int32_t, 0x400> low_char_ids_;
  absl::flat_hash_map<char32_t, int32_t> char_ids_;
  absl::flat_hash_map<int32_t, const std::string*> tokens_;
  absl::flat_hash_map<uint64_t, MergeRule> merges_;
  // Neighbouring symbols that some merge can join, whatever is around them.
  absl::flat_hash_set<uint64_t> joins_;
};

}  // namespace bitwright

#endif  // BITWRIGHT_COMMON_TEXT_BPE_MODEL_H_
