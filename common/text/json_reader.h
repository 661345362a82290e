// Reading hand-me-down JSON with errors that say where: every access checks the
// type, and unknown keys can be refused.
//
//   BW_ASSIGN_OR_RETURN(nlohmann::json json, ParseJson(text,
//   "tokenizer.json")); BW_ASSIGN_OR_RETURN(auto object,
//   ObjectReader::Create(json, "tokenizer.json"));
//   BW_RETURN_IF_ERROR(object.AllowOnly({"type", "prepend"}));
//   BW_ASSIGN_OR_RETURN(std::string prepend, object.String("prepend"));
#ifndef BITWRIGHT_COMMON_TEXT_JSON_READER_H_
#define BITWRIGHT_COMMON_TEXT_JSON_READER_H_

#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"

namespace bitwright {

// INVALID_ARGUMENT, naming `source` and the byte, for anything that is not one
// JSON value in UTF-8, is larger than 256 MiB or is nested deeper than 64.
absl::StatusOr<nlohmann::json> ParseJson(absl::string_view text,
                                         absl::string_view source);

// A view of one JSON object, which must outlive it. `where` is what messages
// call it ("tokenizer.json: pre_tokenizer"). A key whose value is null counts
// as absent. All errors are INVALID_ARGUMENT unless stated otherwise.
class ObjectReader {
 public:
  static absl::StatusOr<ObjectReader> Create(const nlohmann::json& value,
                                             std::string where);

  // UNIMPLEMENTED, naming it, if a key is none of `keys`.
  absl::Status AllowOnly(std::initializer_list<absl::string_view> keys) const;

  // Null if absent.
  const nlohmann::json* Find(absl::string_view key) const;

  absl::StatusOr<std::string> String(absl::string_view key) const;
  // `fallback` if absent; an error if that is nullopt.
  absl::StatusOr<bool> Bool(absl::string_view key,
                            absl::optional<bool> fallback) const;
  // A number from 0 to `limit` - 1.
  absl::StatusOr<int32_t> Index(absl::string_view key, int64_t limit) const;
  absl::StatusOr<const nlohmann::json*> Array(absl::string_view key) const;
  absl::StatusOr<ObjectReader> Object(absl::string_view key) const;

  const std::string& where() const { return where_; }
  std::string WhereOf(absl::string_view key) const;
  const nlohmann::json& json() const { return *value_; }

 private:
  ObjectReader(const nlohmann::json* value, std::string where)
      : value_(value), where_(std::move(where)) {}
  absl::Status Missing(absl::string_view key, absl::string_view type) const;

  const nlohmann::json* value_;
  std::string where_;
};

// `value` as an id from 0 to `limit` - 1.
absl::StatusOr<int32_t> JsonIndex(const nlohmann::json& value, int64_t limit,
                                  absl::string_view where);

}  // namespace bitwright

#endif  // BITWRIGHT_COMMON_TEXT_JSON_READER_H_
