#include "common/base/digest.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"

namespace bitwright {

std::string Digest::ToString() const { return absl::StrCat(sha256, "/", size); }

absl::StatusOr<Digest> Digest::Parse(absl::string_view text) {
  Digest digest;
  constexpr size_t kHexDigits = 64;
  bool well_formed =
      text.size() > kHexDigits + 1 && text[kHexDigits] == '/' &&
      absl::ascii_isdigit(text[kHexDigits + 1]) &&
      absl::SimpleAtoi(text.substr(kHexDigits + 1), &digest.size);
  for (size_t i = 0; well_formed && i < kHexDigits; ++i) {
    well_formed =
        absl::ascii_isdigit(text[i]) || (text[i] >= 'a' && text[i] <= 'f');
  }
  digest.sha256 = std::string(text.substr(0, kHexDigits));
  // The round trip also refuses leading zeros and trailing blanks of the size.
  if (!well_formed || digest.ToString() != text) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", absl::CHexEscape(text),
                     "' is not a digest; expected <sha256 in hex>/<size>"));
  }
  return digest;
}

struct Hasher::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  uint64_t size = 0;
  ~State() { EVP_MD_CTX_free(context); }
};

Hasher::Hasher() : state_(std::make_unique<State>()) {
  EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr);
}
Hasher::~Hasher() = default;
Hasher::Hasher(Hasher&&) noexcept = default;
Hasher& Hasher::operator=(Hasher&&) noexcept = default;

void Hasher::Update(absl::string_view data) {
  EVP_DigestUpdate(state_->context, data.data(), data.size());
  state_->size += data.size();
}

Digest Hasher::Finish() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> bytes;
  unsigned int length = 0;
  EVP_DigestFinal_ex(state_->context, bytes.data(), &length);
  return {absl::BytesToHexString(absl::string_view(
              reinterpret_cast<const char*>(bytes.data()), length)),
          state_->size};
}

Digest DigestOf(absl::string_view data) {
  Hasher hasher;
  hasher.Update(data);
  return hasher.Finish();
}

absl::StatusOr<Digest> DigestOfFile(const std::string& path) {
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus(errno, "cannot open", path);
  Hasher hasher;
  std::vector<char> buffer(1 << 20);
  ssize_t n;
  while ((n = read(fd, buffer.data(), buffer.size())) != 0) {
    if (n < 0) {
      if (errno == EINTR) continue;
      int error_number = errno;
      close(fd);
      return ErrnoStatus(error_number, "cannot read", path);
    }
    hasher.Update(absl::string_view(buffer.data(), n));
  }
  close(fd);
  return hasher.Finish();
}

}  // namespace bitwright
