// From a flag's word to a protobuf enumerator. Private to this folder.
#ifndef BITWRIGHT_CLIENT_CLI_PARSE_ENUM_H_
#define BITWRIGHT_CLIENT_CLI_PARSE_ENUM_H_

#include <google/protobuf/stubs/port.h>

#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace bitwright {

// The enumerator `prefix` + NAME. CLI11 has checked that `name` is one of the
// allowed words.
template <typename Enum>
Enum ParseEnum(bool (*parse)(const std::string&, Enum*),
               absl::string_view prefix, absl::string_view name) {
  Enum value{};
  parse(absl::StrCat(prefix, absl::AsciiStrToUpper(name)), &value);
  return value;
}

// protobuf's *_Parse functions take their own string view type.
template <typename Enum,
          bool (*Parse)(::google::protobuf::ConstStringParam, Enum*)>
bool ParseName(const std::string& name, Enum* value) {
  return Parse(name, value);
}

}  // namespace bitwright

#endif  // BITWRIGHT_CLIENT_CLI_PARSE_ENUM_H_
