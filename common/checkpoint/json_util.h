// JSON files from strangers, parsed strictly: a duplicate key, nesting deeper
// than 64 and trailing text are errors, and nothing throws.
//
//   BW_ASSIGN_OR_RETURN(nlohmann::ordered_json json,
//                       ReadJsonFile(dir + "/config.json", kMaxConfigBytes));
#ifndef BITWRIGHT_COMMON_CHECKPOINT_JSON_UTIL_H_
#define BITWRIGHT_COMMON_CHECKPOINT_JSON_UTIL_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace bitwright {

inline constexpr uint64_t kMaxConfigBytes = 16'000'000;
inline constexpr uint64_t kMaxIndexBytes = 100'000'000;

// A JSON object, its keys in the order of the text. INVALID_ARGUMENT names
// `source` and says what is wrong. Finding a key takes time linear in their
// number, so an object of more than 20,000 is an error as well.
absl::StatusOr<nlohmann::ordered_json> ParseJsonObject(
    absl::string_view text, absl::string_view source);

// The same for large maps: sorted by key, any number of them.
absl::StatusOr<nlohmann::json> ParseSortedJsonObject(absl::string_view text,
                                                     absl::string_view source);

// The whole text of a regular file of at most `max_bytes`. NOT_FOUND if there
// is none; INVALID_ARGUMENT if it is larger or not a file.
absl::StatusOr<std::string> ReadTextFile(const std::string& path,
                                         uint64_t max_bytes);

// `json`, two spaces a level and a final newline. Invalid UTF-8 is replaced.
std::string DumpJson(const nlohmann::ordered_json& json);

// `json[key]` if it is of the type, else the fallback. Never throw.
std::string JsonString(const nlohmann::ordered_json& json, const char* key,
                       absl::string_view fallback = "");
double JsonNumber(const nlohmann::ordered_json& json, const char* key,
                  double fallback = 0);
int64_t JsonInteger(const nlohmann::ordered_json& json, const char* key,
                    int64_t fallback = 0);

}  // namespace bitwright

#endif  // BITWRIGHT_COMMON_CHECKPOINT_JSON_UTIL_H_
