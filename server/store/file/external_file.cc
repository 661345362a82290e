#include "server/store/file/external_file.h"

#include <cerrno>
#include <exception>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"

namespace bitwright {

ExternalFile ExternalFile::FromStat(const std::string& path,
                                    const struct stat& info) {
  ExternalFile file;
  file.path = path;
  file.size = static_cast<uint64_t>(info.st_size);
  file.mtime_ns =
      int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec;
  file.inode = info.st_ino;
  return file;
}

absl::StatusOr<ExternalFile> ExternalFile::Of(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0) {
    return ErrnoStatus(errno, "cannot find", path);
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is not a regular file"));
  }
  return FromStat(path, info);
}

absl::Status ExternalFile::CheckUnchanged(const ExternalFile& now) const {
  std::string what;
  if (now.size != size) {
    what =
        absl::StrCat("its size went from ", size, " to ", now.size, " bytes");
  } else if (now.mtime_ns != mtime_ns) {
    what = "it was written to";
  } else if (now.inode != inode) {
    what = "it was replaced";
  } else {
    return absl::OkStatus();
  }
  return absl::DataLossError(
      absl::StrCat(path, " is no longer the file that was registered: ", what,
                   "; put the original back, or start a new job"));
}

std::string ExternalFile::ToJson() const {
  nlohmann::json json = {
      {"path", path}, {"size", size}, {"mtime_ns", mtime_ns}, {"inode", inode}};
  // A path may hold any bytes: those that are not UTF-8 would throw.
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

absl::StatusOr<ExternalFile> ExternalFile::FromJson(absl::string_view json,
                                                    absl::string_view source) {
  try {
    nlohmann::json parsed = nlohmann::json::parse(json.begin(), json.end());
    ExternalFile file;
    parsed.at("path").get_to(file.path);
    parsed.at("size").get_to(file.size);
    parsed.at("mtime_ns").get_to(file.mtime_ns);
    parsed.at("inode").get_to(file.inode);
    return file;
  } catch (const std::exception& error) {
    return absl::DataLossError(absl::StrCat(
        source, " is not a record of an external file: ", error.what()));
  }
}

}  // namespace bitwright
