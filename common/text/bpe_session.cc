#include <algorithm>
#include <cstring>

#include "common/text/bpe_model.h"

namespace bitwright {
namespace {

// Only what recurs is worth remembering, and not without bound.
constexpr size_t kMaxCachedBytes = 256;
constexpr size_t kMaxCacheEntries = 1 << 17;

absl::string_view AsKey(absl::Span<const int32_t> ids) {
  return absl::string_view(reinterpret_cast<const char*>(ids.data()),
                           ids.size() * sizeof(int32_t));
}

}  // namespace

bool BpeModel::Session::Recall(const Cache& cache, absl::string_view key,
                               std::vector<int32_t>* ids) const {
  auto it = cache.find(key);
  if (it == cache.end()) return false;
  ids->insert(ids->end(), cached_ids_.begin() + it->second.first,
              cached_ids_.begin() + it->second.second);
  return true;
}

void BpeModel::Session::Remember(Cache* cache, absl::string_view key,
                                 absl::Span<const int32_t> ids) {
  if (cache->size() >= kMaxCacheEntries) return;
  const size_t begin = cached_ids_.size();
  cached_ids_.insert(cached_ids_.end(), ids.begin(), ids.end());
  cache->try_emplace(std::string(key), begin, cached_ids_.size());
}

void BpeModel::Session::Encode(absl::string_view piece,
                               std::vector<int32_t>* ids) {
  if (piece.empty()) return;
  if (model_.options_.ignore_merges) {
    if (absl::optional<int32_t> whole = model_.IdOf(piece)) {
      ids->push_back(*whole);
      return;
    }
  }
  const bool cached = piece.size() <= kMaxCachedBytes;
  if (cached && Recall(pieces_, piece, ids)) return;
  const size_t begin = ids->size();
  EncodeUncached(piece, ids);
  if (cached) {
    Remember(&pieces_, piece, absl::MakeConstSpan(*ids).subspan(begin));
  }
}

void BpeModel::Session::EncodeUncached(absl::string_view piece,
                                       std::vector<int32_t>* ids) {
  initial_.clear();
  model_.InitialSymbols(piece, &initial_);
  const absl::Span<const int32_t> all = absl::MakeConstSpan(initial_);
  size_t begin = 0;
  for (size_t i = 1; i <= all.size(); ++i) {
    const bool cut = i == all.size() ||
                     (!model_.decorated_ &&
                      !model_.joins_.contains(PairKey(all[i - 1], all[i])));
    if (!cut) continue;
    const absl::Span<const int32_t> segment = all.subspan(begin, i - begin);
    if (segment.size() == all.size()) {
      Merge(segment, ids);
    } else {
      EncodeSegment(segment, ids);
    }
    begin = i;
  }
}

void BpeModel::Session::EncodeSegment(absl::Span<const int32_t> segment,
                                      std::vector<int32_t>* ids) {
  if (segment.size() == 1) {
    ids->push_back(segment[0]);
    return;
  }
  const absl::string_view key = AsKey(segment);
  const bool cached = segment.size() <= kMaxCachedBytes;
  if (cached && Recall(segments_, key, ids)) return;
  const size_t begin = ids->size();
  Merge(segment, ids);
  if (cached) {
    Remember(&segments_, key, absl::MakeConstSpan(*ids).subspan(begin));
  }
}

void BpeModel::Session::Push(int32_t left) {
  if (left < 0) return;
  const int32_t right = symbols_[left].next;
  if (right < 0) return;
  auto it = model_.merges_.find(PairKey(symbols_[left].id, symbols_[right].id));
  if (it == model_.merges_.end()) return;
  heap_.push_back({it->second.rank, left, it->second.new_id});
  std::push_heap(heap_.begin(), heap_.end());
}

void BpeModel::Session::Merge(absl::Span<const int32_t> segment,
                              std::vector<int32_t>* ids) {
  const auto size = static_cast<int32_t>(segment.size());
  symbols_.clear();
  heap_.clear();
  for (int32_t i = 0; i < size; ++i) {
    symbols_.push_back({segment[i], i - 1, i + 1 < size ? i + 1 : -1, true});
  }
  for (int32_t i = 0; i + 1 < size; ++i) Push(i);
  while (!heap_.empty()) {
    std::pop_heap(heap_.begin(), heap_.end());
    const Candidate top = heap_.back();
    heap_.pop_back();
    Symbol& left = symbols_[top.position];
    if (!left.alive || left.next < 0) continue;
    // Either side may have changed since; it still counts if the pair that is
    // there now makes the same token.
    Symbol& right = symbols_[left.next];
    auto rule = model_.merges_.find(PairKey(left.id, right.id));
    if (rule == model_.merges_.end() || rule->second.new_id != top.new_id) {
      continue;
    }
    left.id = top.new_id;
    right.alive = false;
    left.next = right.next;
    if (left.next >= 0) symbols_[left.next].previous = top.position;
    Push(left.previous);
    Push(top.position);
  }
  for (int32_t i = 0; i >= 0; i = symbols_[i].next) {
    ids->push_back(symbols_[i].id);
  }
}

}  // namespace bitwright
