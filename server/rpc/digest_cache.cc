#include "server/rpc/digest_cache.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <exception>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status_macros.h"
#include "server/store/file/external_file.h"

namespace bitwright {
namespace {

// What a record says about `now`; nothing if it is about an earlier version.
std::optional<Digest> Lookup(const std::string& record,
                             const ExternalFile& now) {
  absl::StatusOr<std::string> text = ReadFile(record);
  if (!text.ok()) return std::nullopt;
  try {
    const nlohmann::json json = nlohmann::json::parse(*text);
    absl::StatusOr<ExternalFile> then =
        ExternalFile::FromJson(json.at("file").get<std::string>(), record);
    absl::StatusOr<Digest> digest =
        Digest::Parse(json.at("digest").get<std::string>());
    if (then.ok() && digest.ok() && then->path == now.path &&
        then->CheckUnchanged(now).ok()) {
      return *digest;
    }
  } catch (const std::exception&) {
    // Damaged: hash the file again.
  }
  return std::nullopt;
}

absl::StatusOr<Digest> Hash(const std::string& path,
                            const std::function<bool()>& stop) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ErrnoStatus(errno, "cannot open", path);
  absl::Cleanup close_fd = [fd] { close(fd); };
  Hasher hasher;
  std::vector<char> buffer(size_t{1} << 20);
  while (true) {
    if (stop()) {
      return absl::CancelledError(absl::StrCat("stopped reading ", path));
    }
    const ssize_t n = read(fd, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "cannot read", path);
    if (n == 0) return hasher.Finish();
    hasher.Update({buffer.data(), static_cast<size_t>(n)});
  }
}

}  // namespace

absl::StatusOr<DigestCache> DigestCache::Open(std::string directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) {
    return ErrnoStatus(error.value(), "cannot create directory", directory);
  }
  return DigestCache(std::move(directory));
}

absl::StatusOr<Digest> DigestCache::DigestOf(
    const std::string& path, const std::function<bool()>& stop) {
  BW_ASSIGN_OR_RETURN(ExternalFile before, ExternalFile::Of(path));
  const std::string record =
      absl::StrCat(directory_, "/", bitwright::DigestOf(path).sha256, ".json");
  if (std::optional<Digest> known = Lookup(record, before)) return *known;
  BW_ASSIGN_OR_RETURN(Digest digest, Hash(path, stop));
  BW_ASSIGN_OR_RETURN(ExternalFile after, ExternalFile::Of(path));
  BW_RETURN_IF_ERROR(before.CheckUnchanged(after));
  nlohmann::json json = {{"file", after.ToJson()},
                         {"digest", digest.ToString()}};
  BW_RETURN_IF_ERROR(WriteFileAtomically(record, json.dump()));
  return digest;
}

}  // namespace bitwright
