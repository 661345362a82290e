// A file that the blob store refers to in place: where it is and what it looked
// like when its digest was taken. One is kept on disk as a small JSON record.
#ifndef BITWRIGHT_SERVER_STORE_FILE_EXTERNAL_FILE_H_
#define BITWRIGHT_SERVER_STORE_FILE_EXTERNAL_FILE_H_

#include <sys/stat.h>

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bitwright {

struct ExternalFile {
  std::string path;
  uint64_t size = 0;
  int64_t mtime_ns = 0;
  uint64_t inode = 0;

  // How `path` looks now. NOT_FOUND, or INVALID_ARGUMENT if it is not a regular
  // file.
  static absl::StatusOr<ExternalFile> Of(const std::string& path);
  static ExternalFile FromStat(const std::string& path,
                               const struct stat& info);

  // DATA_LOSS naming path and difference unless `now` is the same file,
  // unchanged.
  absl::Status CheckUnchanged(const ExternalFile& now) const;

  std::string ToJson() const;
  // DATA_LOSS naming `source` if `json` is not what ToJson wrote.
  static absl::StatusOr<ExternalFile> FromJson(absl::string_view json,
                                               absl::string_view source);
};

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_STORE_FILE_EXTERNAL_FILE_H_
