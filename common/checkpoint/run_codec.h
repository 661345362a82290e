// Packs and unpacks one run of codes of equal level count (formats.md "Out 1").
#ifndef BITWRIGHT_COMMON_CHECKPOINT_RUN_CODEC_H_
#define BITWRIGHT_COMMON_CHECKPOINT_RUN_CODEC_H_

#include <cstdint>
#include <vector>

namespace bitwright {

// For one level count; holds its tables, so make one and use it for many runs.
// Thread-safe once made.
class RunCodec {
 public:
  explicit RunCodec(int levels);  // 1..256

  int64_t Bytes(int64_t count) const;
  // `out` has room for Bytes(count).
  void Pack(const uint8_t* codes, int64_t count, char* out) const;
  // False if a code is not below the level count or padding is not zero;
  // `codes` is then unspecified. Reads exactly Bytes(count).
  bool Unpack(const char* bytes, int64_t count, uint8_t* codes) const;

 private:
  void PackBits(const uint8_t* codes, int64_t count, char* out) const;
  bool UnpackBits(const char* bytes, int64_t count, uint8_t* codes) const;
  void PackRadix(const uint8_t* codes, int64_t count, char* out) const;
  bool UnpackRadix(const char* bytes, int64_t count, uint8_t* codes) const;
  bool UnpackWord(uint64_t word, int count, uint8_t* codes) const;

  int levels_;
  int bits_ = 0;        // A power of two: bits a code. Otherwise 0, and:
  int per_word_ = 0;    // codes in a 64-bit word,
  int per_chunk_ = 0;   // codes taken off a word by one division,
  uint64_t chunk_ = 0;  // levels ^ per_chunk: the divisor,
  // and the per_chunk codes of each remainder, one a byte, first lowest.
  std::vector<uint64_t> table_;
};

}  // namespace bitwright

#endif  // BITWRIGHT_COMMON_CHECKPOINT_RUN_CODEC_H_
