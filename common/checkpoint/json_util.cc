#include "common/checkpoint/json_util.h"

#include <limits>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status_macros.h"

namespace bitwright {
namespace {

using nlohmann::ordered_json;

// Walks a text without building anything: duplicate keys and deep nesting are
// found before the parser below makes a tree of them.
class StrictnessCheck : public nlohmann::json_sax<ordered_json> {
 public:
  static constexpr size_t kMaxDepth = 64;

  explicit StrictnessCheck(size_t max_keys) : max_keys_(max_keys) {}

  const std::string& error() const { return error_; }

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(size_t) override { return Enter(); }
  bool start_array(size_t) override { return Enter(); }
  bool end_object() override { return Leave(); }
  bool end_array() override { return Leave(); }
  bool key(string_t& key) override {
    if (keys_.back().size() >= max_keys_) {
      error_ = absl::StrCat("has an object of more than ", max_keys_, " keys");
      return false;
    }
    if (keys_.back().insert(key).second) return true;
    error_ = absl::StrCat("the key \"", key, "\" occurs twice");
    return false;
  }
  bool parse_error(size_t, const std::string&,
                   const nlohmann::detail::exception& exception) override {
    error_ = absl::StrCat("is not JSON: ", exception.what());
    return false;
  }

 private:
  bool Enter() {
    keys_.emplace_back();
    if (keys_.size() <= kMaxDepth) return true;
    error_ = absl::StrCat("is nested deeper than ", kMaxDepth, " levels");
    return false;
  }
  bool Leave() {
    keys_.pop_back();
    return true;
  }

  const size_t max_keys_;
  std::vector<absl::flat_hash_set<std::string>> keys_;
  std::string error_;
};

template <typename Json>
absl::StatusOr<Json> ParseStrictly(absl::string_view text,
                                   absl::string_view source, size_t max_keys) {
  StrictnessCheck check(max_keys);
  if (!ordered_json::sax_parse(text.begin(), text.end(), &check)) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": ", check.error()));
  }
  Json json = Json::parse(text.begin(), text.end(), nullptr, false);
  if (!json.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": is not a JSON object"));
  }
  return json;
}

}  // namespace

absl::StatusOr<ordered_json> ParseJsonObject(absl::string_view text,
                                             absl::string_view source) {
  return ParseStrictly<ordered_json>(text, source, 20'000);
}

absl::StatusOr<nlohmann::json> ParseSortedJsonObject(absl::string_view text,
                                                     absl::string_view source) {
  return ParseStrictly<nlohmann::json>(text, source,
                                       std::numeric_limits<size_t>::max());
}

absl::StatusOr<std::string> ReadTextFile(const std::string& path,
                                         uint64_t max_bytes) {
  BW_ASSIGN_OR_RETURN(auto file, MappedFile::Open(path));
  if (file->data().size() > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has ", file->data().size(), " bytes; at most ",
                     max_bytes, " are expected of such a file"));
  }
  return std::string(file->data());
}

std::string DumpJson(const ordered_json& json) {
  return json.dump(2, ' ', false, ordered_json::error_handler_t::replace) +
         "\n";
}

std::string JsonString(const ordered_json& json, const char* key,
                       absl::string_view fallback) {
  if (json.is_object()) {
    auto it = json.find(key);
    if (it != json.end() && it->is_string()) return it->get<std::string>();
  }
  return std::string(fallback);
}

double JsonNumber(const ordered_json& json, const char* key, double fallback) {
  if (json.is_object()) {
    auto it = json.find(key);
    if (it != json.end() && it->is_number()) return it->get<double>();
  }
  return fallback;
}

int64_t JsonInteger(const ordered_json& json, const char* key,
                    int64_t fallback) {
  if (json.is_object()) {
    auto it = json.find(key);
    if (it != json.end() && it->is_number_unsigned() &&
        it->get<uint64_t>() >
            static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return fallback;
    }
    if (it != json.end() && it->is_number_integer()) return it->get<int64_t>();
  }
  return fallback;
}

}  // namespace bitwright
