// Early return on error, for functions that return absl::Status or StatusOr.
//
//   absl::StatusOr<Config> Load(const std::string& path) {
//     BW_ASSIGN_OR_RETURN(std::string text, ReadFile(path));
//     BW_RETURN_IF_ERROR(Check(text));
//     return Parse(text);
//   }
#ifndef BITWRIGHT_COMMON_BASE_STATUS_MACROS_H_
#define BITWRIGHT_COMMON_BASE_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace bitwright {

// The same status with "context: " before its message; OK stays OK. Payloads
// are kept.
inline absl::Status Annotate(const absl::Status& status,
                             absl::string_view context) {
  if (status.ok()) return status;
  absl::Status annotated(status.code(),
                         absl::StrCat(context, ": ", status.message()));
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    annotated.SetPayload(url, payload);
  });
  return annotated;
}

}  // namespace bitwright

#define BW_CONCAT_INNER_(a, b) a##b
#define BW_CONCAT_(a, b) BW_CONCAT_INNER_(a, b)

#define BW_RETURN_IF_ERROR(expr)                                               \
  do {                                                                         \
    if (absl::Status bw_status_ = (expr); !bw_status_.ok()) return bw_status_; \
  } while (false)

#define BW_ASSIGN_OR_RETURN(lhs, expr) \
  BW_ASSIGN_OR_RETURN_IMPL_(BW_CONCAT_(bw_statusor_, __LINE__), lhs, expr)

#define BW_ASSIGN_OR_RETURN_IMPL_(statusor, lhs, expr)     \
  auto statusor = (expr);                                  \
  if (!statusor.ok()) return std::move(statusor).status(); \
  lhs = *std::move(statusor)

#endif  // BITWRIGHT_COMMON_BASE_STATUS_MACROS_H_
