#include "common/checkpoint/lineage_file.h"

#include <filesystem>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/checkpoint/json_util.h"

namespace bitwright {
namespace {

using nlohmann::ordered_json;

constexpr uint64_t kMaxLineageBytes = 1'000'000'000;
constexpr size_t kHexDigits = 64;
constexpr char kTail[] = "\"\n}\n";  // What follows self_sha256's digits.
constexpr char kSelf[] = "\"self_sha256\": \"";
constexpr const char* kOwnKeys[] = {"format_version", "format", "method",
                                    "group_size",     "totals", "files",
                                    "self_sha256"};

}  // namespace

void CheckpointTotals::Add(const QuantizedLinear& linear) {
  const double before = static_cast<double>(quantized_weights);
  const double weights =
      static_cast<double>(linear.rows) * static_cast<double>(linear.cols);
  const double all = before + weights;
  code_bits = (code_bits * before + linear.CodeBitsPerWeight() * weights) / all;
  file_bits = (file_bits * before + linear.FileBitsPerWeight() * weights) / all;
  quantized_weights += linear.rows * linear.cols;
}

absl::StatusOr<std::string> FormatLineage(
    const CheckpointOptions& options, const CheckpointTotals& totals,
    const std::map<std::string, Digest>& files) {
  ordered_json caller = ordered_json::object();
  if (!options.lineage_json.empty()) {
    BW_ASSIGN_OR_RETURN(
        caller, ParseJsonObject(options.lineage_json, "the lineage given"));
  }
  ordered_json json;
  json["format_version"] = 1;
  json["format"] =
      options.format == CheckpointFormat::kNative ? "native" : "dense";
  json["method"] = options.method;
  json["group_size"] = options.group_size;
  const ordered_json given = CallerLineage(std::move(caller));
  for (const auto& [key, value] : given.items()) {
    json[key] = value;
  }
  json["totals"] = {{"quantized_weights", totals.quantized_weights},
                    {"other_weights", totals.other_weights},
                    {"code_bits_per_weight", totals.code_bits},
                    {"file_bits_per_weight", totals.file_bits}};
  ordered_json& listed = json["files"] = ordered_json::object();
  for (const auto& [name, digest] : files) {
    listed[name] = {{"sha256", digest.sha256}, {"size", digest.size}};
  }
  json["self_sha256"] = std::string(kHexDigits, '0');
  std::string text = DumpJson(json);
  const std::string own = DigestOf(text).sha256;
  text.replace(text.size() - (sizeof(kTail) - 1) - kHexDigits, kHexDigits, own);
  return text;
}

absl::Status CheckLineageDigest(absl::string_view text) {
  const size_t tail = sizeof(kTail) - 1;
  if (text.size() > tail + kHexDigits && absl::EndsWith(text, kTail)) {
    std::string zeroed(text);
    const size_t at = text.size() - tail - kHexDigits;
    zeroed.replace(at, kHexDigits, kHexDigits, '0');
    if (absl::EndsWith(text.substr(0, at), kSelf) &&
        DigestOf(zeroed).sha256 == text.substr(at, kHexDigits)) {
      return absl::OkStatus();
    }
  }
  return absl::DataLossError(
      absl::StrCat(kLineageFile, " is not as it was written"));
}

ordered_json CallerLineage(ordered_json lineage) {
  for (const char* key : kOwnKeys) lineage.erase(key);
  return lineage;
}

absl::StatusOr<ordered_json> ReadLineage(const std::string& directory,
                                         std::string* text) {
  std::error_code error;
  if (!std::filesystem::exists(directory, error)) {
    return absl::NotFoundError(absl::StrCat(directory, " does not exist"));
  }
  const std::string path = absl::StrCat(directory, "/", kLineageFile);
  auto contents = ReadTextFile(path, kMaxLineageBytes);
  if (absl::IsNotFound(contents.status())) {
    return absl::InvalidArgumentError(
        absl::StrCat(directory, " has no ", kLineageFile,
                     ": not a checkpoint made by bitwright"));
  }
  if (!contents.ok()) return contents.status();
  if (text != nullptr) *text = *contents;
  return ParseJsonObject(*contents, path);
}

}  // namespace bitwright
