// The added tokens of a tokenizer.json: texts that become one token whatever is
// around them, found before (or, if `normalized`, after) normalization and
// before any merge.
#ifndef BITWRIGHT_COMMON_TEXT_ADDED_TOKENS_H_
#define BITWRIGHT_COMMON_TEXT_ADDED_TOKENS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bitwright {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false;  // Only where no word character touches it.
  bool lstrip = false;       // Takes the white space before it too.
  bool rstrip = false;       // And after it.
  bool normalized = false;   // Sought, normalized, in the normalized text.
  bool special = false;
};

// Finds the tokens of one kind. Immutable and thread-safe.
class AddedTokenMatcher {
 public:
  // A piece of a text: token `id`, or text that no token claims if id < 0.
  struct Section {
    int32_t id;
    absl::string_view text;
  };

  // Seeks patterns[i], which is not empty, for tokens[i]. Of equal patterns the
  // first counts.
  AddedTokenMatcher(const std::vector<AddedToken>& tokens,
                    const std::vector<std::string>& patterns);

  // Cuts `text` at the tokens: at each place the longest, from left to right.
  // Empty sections are left out.
  std::vector<Section> Split(absl::string_view text) const;

 private:
  struct Node {
    int32_t token = -1;  // Index into tokens_.
  };
  // The longest pattern at `text`'s start: its token and its length, or -1.
  int32_t LongestAt(absl::string_view text, size_t* length) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_;  // A trie; nodes_[0] is its root.
  absl::flat_hash_map<uint64_t, uint32_t> children_;  // (node, byte) to node.
  bool starts_[256] = {};
};

}  // namespace bitwright

#endif  // BITWRIGHT_COMMON_TEXT_ADDED_TOKENS_H_
