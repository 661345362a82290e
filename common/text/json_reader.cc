#include "common/text/json_reader.h"

#include <algorithm>
#include <exception>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace bitwright {
namespace {

constexpr size_t kMaxBytes = size_t{256} << 20;
constexpr int kMaxDepth = 64;

// Nesting is bounded before the parser sees the text. Brackets inside strings
// do not count.
bool TooDeep(absl::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxDepth) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

}  // namespace

absl::StatusOr<nlohmann::json> ParseJson(absl::string_view text,
                                         absl::string_view source) {
  if (text.size() > kMaxBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": ", text.size(), " bytes is more than the ",
                     kMaxBytes, " that are read"));
  }
  if (TooDeep(text)) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": nested deeper than ", kMaxDepth, " levels"));
  }
  try {
    return nlohmann::json::parse(text.begin(), text.end());
  } catch (const std::exception& e) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": not valid JSON: ", e.what()));
  }
}

absl::StatusOr<ObjectReader> ObjectReader::Create(const nlohmann::json& value,
                                                  std::string where) {
  if (!value.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(
        where, ": expected a JSON object, found ", value.type_name()));
  }
  return ObjectReader(&value, std::move(where));
}

absl::Status ObjectReader::AllowOnly(
    std::initializer_list<absl::string_view> keys) const {
  for (const auto& item : value_->items()) {
    if (std::find(keys.begin(), keys.end(), item.key()) == keys.end()) {
      return absl::UnimplementedError(absl::StrCat(
          where_, ": the setting \"", item.key(), "\" is not supported"));
    }
  }
  return absl::OkStatus();
}

const nlohmann::json* ObjectReader::Find(absl::string_view key) const {
  auto it = value_->find(std::string(key));
  return it == value_->end() || it->is_null() ? nullptr : &*it;
}

std::string ObjectReader::WhereOf(absl::string_view key) const {
  return absl::StrCat(where_, ".", key);
}

absl::Status ObjectReader::Missing(absl::string_view key,
                                   absl::string_view type) const {
  const nlohmann::json* found = Find(key);
  return absl::InvalidArgumentError(
      absl::StrCat(WhereOf(key), ": expected ", type, ", found ",
                   found == nullptr ? "nothing" : found->type_name()));
}

absl::StatusOr<std::string> ObjectReader::String(absl::string_view key) const {
  const nlohmann::json* found = Find(key);
  if (found == nullptr || !found->is_string()) return Missing(key, "a string");
  return found->get_ref<const std::string&>();
}

absl::StatusOr<bool> ObjectReader::Bool(absl::string_view key,
                                        absl::optional<bool> fallback) const {
  const nlohmann::json* found = Find(key);
  if (found == nullptr && fallback.has_value()) return *fallback;
  if (found == nullptr || !found->is_boolean()) {
    return Missing(key, "true or false");
  }
  return found->get<bool>();
}

absl::StatusOr<int32_t> ObjectReader::Index(absl::string_view key,
                                            int64_t limit) const {
  const nlohmann::json* found = Find(key);
  if (found == nullptr) return Missing(key, "a number");
  return JsonIndex(*found, limit, WhereOf(key));
}

absl::StatusOr<const nlohmann::json*> ObjectReader::Array(
    absl::string_view key) const {
  const nlohmann::json* found = Find(key);
  if (found == nullptr || !found->is_array()) return Missing(key, "an array");
  return found;
}

absl::StatusOr<ObjectReader> ObjectReader::Object(absl::string_view key) const {
  const nlohmann::json* found = Find(key);
  if (found == nullptr) return Missing(key, "an object");
  return Create(*found, WhereOf(key));
}

absl::StatusOr<int32_t> JsonIndex(const nlohmann::json& value, int64_t limit,
                                  absl::string_view where) {
  if (value.is_number_unsigned()) {
    const uint64_t number = value.get<uint64_t>();
    if (number < static_cast<uint64_t>(limit)) {
      return static_cast<int32_t>(number);
    }
  }
  return absl::InvalidArgumentError(absl::StrCat(
      where, ": expected a whole number from 0 to ", limit - 1, ", found ",
      value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)
          .substr(0, 80)));
}

}  // namespace bitwright
