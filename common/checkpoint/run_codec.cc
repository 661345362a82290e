#include "common/checkpoint/run_codec.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace bitwright {
namespace {

// A table of at most this many words stays in the first-level cache.
constexpr uint64_t kMaxChunk = 4096;

}  // namespace

RunCodec::RunCodec(int levels) : levels_(levels) {
  if (levels <= 1) return;
  const uint64_t base = levels;
  if (std::has_single_bit(base)) {
    bits_ = std::countr_zero(base);
    return;
  }
  // The largest k with levels^k <= 2^64; equality needs a power of two.
  uint64_t power = 1;
  while (!__builtin_mul_overflow(power, base, &power)) ++per_word_;
  chunk_ = 1;
  while (per_chunk_ < 8 && chunk_ * base <= kMaxChunk) {
    chunk_ *= base;
    ++per_chunk_;
  }
  table_.resize(chunk_);
  for (uint64_t i = 0; i < chunk_; ++i) {
    uint64_t rest = i;
    for (int k = 0; k < per_chunk_; ++k, rest /= base) {
      table_[i] |= (rest % base) << (8 * k);
    }
  }
}

int64_t RunCodec::Bytes(int64_t count) const {
  if (levels_ <= 1) return 0;
  if (bits_ != 0) return (count * bits_ + 7) / 8;
  return (count + per_word_ - 1) / per_word_ * 8;
}

void RunCodec::Pack(const uint8_t* codes, int64_t count, char* out) const {
  if (levels_ <= 1 || count == 0) return;
  if (bits_ == 8) {
    std::memcpy(out, codes, count);
  } else if (bits_ != 0) {
    PackBits(codes, count, out);
  } else {
    PackRadix(codes, count, out);
  }
}

bool RunCodec::Unpack(const char* bytes, int64_t count, uint8_t* codes) const {
  if (count == 0) return true;
  if (levels_ <= 1) {
    std::memset(codes, 0, count);
    return true;
  }
  if (bits_ == 8) {
    std::memcpy(codes, bytes, count);
    return true;
  }
  return bits_ != 0 ? UnpackBits(bytes, count, codes)
                    : UnpackRadix(bytes, count, codes);
}

// Eight codes are exactly `bits_` bytes.
void RunCodec::PackBits(const uint8_t* codes, int64_t count, char* out) const {
  for (int64_t i = 0; i < count; i += 8) {
    const int n = static_cast<int>(std::min<int64_t>(8, count - i));
    uint64_t word = 0;
    for (int k = 0; k < n; ++k) {
      word |= static_cast<uint64_t>(codes[i + k]) << (k * bits_);
    }
    const int bytes = (n * bits_ + 7) / 8;
    std::memcpy(out, &word, bytes);
    out += bytes;
  }
}

bool RunCodec::UnpackBits(const char* bytes, int64_t count,
                          uint8_t* codes) const {
  const uint64_t mask = levels_ - 1;
  for (int64_t i = 0; i < count; i += 8) {
    const int n = static_cast<int>(std::min<int64_t>(8, count - i));
    const int used = (n * bits_ + 7) / 8;
    uint64_t word = 0;
    std::memcpy(&word, bytes, used);
    bytes += used;
    for (int k = 0; k < n; ++k) codes[i + k] = (word >> (k * bits_)) & mask;
    if (n < 8 && word >> (n * bits_) != 0) return false;
  }
  return true;
}

void RunCodec::PackRadix(const uint8_t* codes, int64_t count, char* out) const {
  for (int64_t i = 0; i < count; i += per_word_, out += 8) {
    const int64_t n = std::min<int64_t>(per_word_, count - i);
    uint64_t word = 0;
    for (int64_t k = n - 1; k >= 0; --k) word = word * levels_ + codes[i + k];
    std::memcpy(out, &word, 8);
  }
}

bool RunCodec::UnpackRadix(const char* bytes, int64_t count,
                           uint8_t* codes) const {
  for (int64_t i = 0; i < count; i += per_word_, bytes += 8) {
    uint64_t word;
    std::memcpy(&word, bytes, 8);
    const int n = static_cast<int>(std::min<int64_t>(per_word_, count - i));
    if (!UnpackWord(word, n, codes + i)) return false;
  }
  return true;
}

bool RunCodec::UnpackWord(uint64_t word, int count, uint8_t* codes) const {
  while (count >= per_chunk_) {
    const uint64_t quotient = word / chunk_;
    const uint64_t digits = table_[word - quotient * chunk_];
    std::memcpy(codes, &digits, per_chunk_);
    word = quotient;
    codes += per_chunk_;
    count -= per_chunk_;
  }
  for (; count > 0; --count, word /= levels_) *codes++ = word % levels_;
  return word == 0;
}

}  // namespace bitwright
