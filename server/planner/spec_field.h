// How fields of a job's spec are refused, and defaults filled in. Private to
// this folder.
#ifndef BITWRIGHT_SERVER_PLANNER_SPEC_FIELD_H_
#define BITWRIGHT_SERVER_PLANNER_SPEC_FIELD_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace bitwright {

// INVALID_ARGUMENT: "spec.<field> is <value>; it must be <allowed>".
template <typename Value>
absl::Status BadField(absl::string_view field, const Value& value,
                      absl::string_view allowed) {
  return absl::InvalidArgumentError(
      absl::StrCat("spec.", field, " is ", value, "; it must be ", allowed));
}

// `value` of an enum with default `fallback` and values up to `last`.
template <typename Enum>
absl::StatusOr<Enum> ResolveEnum(absl::string_view field, Enum value,
                                 Enum fallback, Enum last,
                                 absl::string_view allowed) {
  if (value == 0) return fallback;
  if (value < 0 || value > last)
    return BadField(field, static_cast<int>(value), allowed);
  return value;
}

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_PLANNER_SPEC_FIELD_H_
