#include "common/text/added_tokens.h"

#include <unicode/uchar.h>

#include <algorithm>

#include "common/text/utf8.h"

namespace bitwright {
namespace {

bool IsWord(char32_t code) {
  const uint32_t mask = U_MASK(u_charType(code));
  return (mask & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0 ||
         u_hasBinaryProperty(code, UCHAR_ALPHABETIC) ||
         u_hasBinaryProperty(code, UCHAR_JOIN_CONTROL);
}

bool EndsWithWord(absl::string_view text) {
  size_t end = text.size();
  return end > 0 && IsWord(PreviousCodePoint(text, &end));
}

bool StartsWithWord(absl::string_view text) {
  size_t begin = 0;
  return !text.empty() && IsWord(NextCodePoint(text, &begin));
}

// Where the white space that ends `text` begins.
size_t TrailingSpace(absl::string_view text) {
  size_t begin = text.size();
  while (begin > 0) {
    size_t previous = begin;
    if (!u_isUWhiteSpace(PreviousCodePoint(text, &previous))) break;
    begin = previous;
  }
  return begin;
}

// How long the white space that starts `text` is.
size_t LeadingSpace(absl::string_view text) {
  size_t end = 0;
  while (end < text.size()) {
    size_t next = end;
    if (!u_isUWhiteSpace(NextCodePoint(text, &next))) break;
    end = next;
  }
  return end;
}

uint64_t ChildKey(uint32_t node, char byte) {
  return static_cast<uint64_t>(node) << 8 | static_cast<unsigned char>(byte);
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(const std::vector<AddedToken>& tokens,
                                     const std::vector<std::string>& patterns)
    : tokens_(tokens), nodes_(1) {
  for (size_t i = 0; i < patterns.size(); ++i) {
    uint32_t node = 0;
    for (char byte : patterns[i]) {
      const auto [it, inserted] = children_.try_emplace(
          ChildKey(node, byte), static_cast<uint32_t>(nodes_.size()));
      if (inserted) nodes_.emplace_back();
      node = it->second;
    }
    if (nodes_[node].token < 0) nodes_[node].token = static_cast<int32_t>(i);
    starts_[static_cast<unsigned char>(patterns[i][0])] = true;
  }
}

int32_t AddedTokenMatcher::LongestAt(absl::string_view text,
                                     size_t* length) const {
  int32_t token = -1;
  uint32_t node = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    auto it = children_.find(ChildKey(node, text[i]));
    if (it == children_.end()) break;
    node = it->second;
    if (nodes_[node].token >= 0) {
      token = nodes_[node].token;
      *length = i + 1;
    }
  }
  return token;
}

std::vector<AddedTokenMatcher::Section> AddedTokenMatcher::Split(
    absl::string_view text) const {
  std::vector<Section> sections;
  size_t done = 0;  // Everything before it is in `sections`.
  for (size_t i = 0; i < text.size();) {
    size_t length = 0;
    const int32_t found = starts_[static_cast<unsigned char>(text[i])]
                              ? LongestAt(text.substr(i), &length)
                              : -1;
    if (found < 0) {
      ++i;
      continue;
    }
    const AddedToken& token = tokens_[found];
    size_t begin = i;
    size_t end = i + length;
    i = end;
    if (token.single_word && (EndsWithWord(text.substr(0, begin)) ||
                              StartsWithWord(text.substr(end)))) {
      continue;
    }
    if (token.lstrip) {
      begin = std::max(TrailingSpace(text.substr(0, begin)), done);
    }
    // A token that starts within white space taken here is still found.
    if (token.rstrip) end += LeadingSpace(text.substr(end));
    if (begin >= end) continue;
    if (done < begin) {
      sections.push_back({-1, text.substr(done, begin - done)});
    }
    sections.push_back({token.id, text.substr(begin, end - begin)});
    done = end;
  }
  if (done < text.size()) sections.push_back({-1, text.substr(done)});
  return sections;
}

}  // namespace bitwright
