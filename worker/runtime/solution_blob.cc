#include "worker/runtime/solution_blob.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "nlohmann/json.hpp"

namespace bitwright {
namespace {

using Json = nlohmann::ordered_json;

// "BUDGET_FILE" to "file".
std::string Word(const std::string& name, absl::string_view prefix) {
  return absl::AsciiStrToLower(absl::StripPrefix(name, prefix));
}

std::string WordOf(v1::Interactions interactions) {
  return Word(v1::Interactions_Name(interactions), "INTERACTIONS_");
}

Json AlternativeJson(const OtherChoice& other) {
  return {{"interactions", WordOf(other.interactions)},
          {"objective", other.solution.objective},
          {"bits", other.solution.bits},
          {"choice", other.solution.choice}};
}

Json LinearJson(const SolutionBlob& blob, size_t l) {
  const LinearSpec& linear = blob.linears[l];
  const v1::RatioSpec& spec = blob.method.ratio();
  const int option = blob.chosen.choice[l];
  const double ratio = spec.ratios(option);
  return {{"name", linear.name},
          {"rows", linear.rows},
          {"cols", linear.cols},
          {"option", option},
          {"ratio", ratio},
          {"high_rows", quant::HighRows(ratio, linear.rows)},
          {"bits_normal", spec.bits_normal()},
          {"bits_high", spec.bits_high()}};
}

template <typename Number>
bool Read(const Json& json, const char* key, Number* value) {
  const auto it = json.find(key);
  if (it == json.end() || !it->is_number()) return false;
  *value = it->get<Number>();
  return true;
}

}  // namespace

std::string SerializeSolution(const SolutionBlob& blob) {
  const v1::RatioSpec& spec = blob.method.ratio();
  Json json;
  json["bits"] = blob.method.bits();
  json["budget"] = Word(v1::Budget_Name(blob.method.budget()), "BUDGET_");
  json["bits_normal"] = spec.bits_normal();
  json["bits_high"] = spec.bits_high();
  json["ratios"] =
      std::vector<double>(spec.ratios().begin(), spec.ratios().end());
  json["interactions"] = WordOf(spec.interactions());
  json["estimate"] = Word(v1::Estimate_Name(spec.estimate()), "ESTIMATE_");
  json["weights"] = blob.weights;
  json["sequences"] = blob.sequences;
  json["budget_bits"] = blob.budget_bits;
  json["chosen"] = {{"objective", blob.chosen.objective},
                    {"bits", blob.chosen.bits},
                    {"optimal", blob.chosen.optimal}};
  json["alternatives"] = Json::array();
  for (const OtherChoice& other : blob.alternatives) {
    json["alternatives"].push_back(AlternativeJson(other));
  }
  json["linears"] = Json::array();
  for (size_t l = 0; l < blob.linears.size(); ++l) {
    json["linears"].push_back(LinearJson(blob, l));
  }
  return absl::StrCat(json.dump(1), "\n");
}

absl::StatusOr<ChosenRatio> FindInSolution(const std::string& text,
                                           const std::string& linear) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("linears") ||
      !json["linears"].is_array()) {
    return absl::InvalidArgumentError("input solution is not a solution");
  }
  for (const Json& entry : json["linears"]) {
    if (!entry.is_object() || entry.value("name", Json()) != Json(linear)) {
      continue;
    }
    ChosenRatio chosen;
    if (!Read(entry, "ratio", &chosen.ratio) ||
        !Read(entry, "bits_normal", &chosen.bits_normal) ||
        !Read(entry, "bits_high", &chosen.bits_high)) {
      return absl::InvalidArgumentError(
          absl::StrCat("input solution: ", linear,
                       " lacks ratio, bits_normal or bits_high"));
    }
    return chosen;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("input solution has no linear ", linear));
}

}  // namespace bitwright
