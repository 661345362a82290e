// Content digests: every blob is named by the SHA-256 of its bytes and its
// size.
//
//   Digest d = DigestOf("hello");
//   d.ToString()                 // "2cf24dba...9824/5"
//   Digest::Parse(d.ToString())  // == d
#ifndef BITWRIGHT_COMMON_BASE_DIGEST_H_
#define BITWRIGHT_COMMON_BASE_DIGEST_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bitwright {

struct Digest {
  std::string sha256;  // 64 lower-case hex digits.
  uint64_t size = 0;   // Bytes.

  std::string ToString() const;  // "<sha256>/<size>".
  // INVALID_ARGUMENT unless `text` has the form that ToString writes.
  static absl::StatusOr<Digest> Parse(absl::string_view text);

  bool operator==(const Digest& other) const {
    return size == other.size && sha256 == other.sha256;
  }
  bool operator!=(const Digest& other) const { return !(*this == other); }
  bool operator<(const Digest& other) const {
    return sha256 != other.sha256 ? sha256 < other.sha256 : size < other.size;
  }
  template <typename H>
  friend H AbslHashValue(H h, const Digest& d) {
    return H::combine(std::move(h), d.sha256, d.size);
  }
};

// Digests a stream piece by piece. Not thread-safe.
class Hasher {
 public:
  Hasher();
  ~Hasher();
  Hasher(Hasher&&) noexcept;
  Hasher& operator=(Hasher&&) noexcept;

  void Update(absl::string_view data);
  // The digest of everything seen. Call once, last.
  Digest Finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

Digest DigestOf(absl::string_view data);

// Reads `path` in pieces. NOT_FOUND or another file error, naming the path.
absl::StatusOr<Digest> DigestOfFile(const std::string& path);

}  // namespace bitwright

#endif  // BITWRIGHT_COMMON_BASE_DIGEST_H_
