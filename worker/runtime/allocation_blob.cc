#include "worker/runtime/allocation_blob.h"

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

bool ReadNumber(const Json& json, const char* key, double* value) {
  const auto it = json.find(key);
  if (it == json.end() || !it->is_number()) return false;
  *value = it->get<double>();
  return true;
}

}  // namespace

std::string SerializeAllocation(const AllocationBlob& blob) {
  const v1::Prediction& p = blob.prediction;
  Json json;
  json["bits"] = p.bits();
  json["budget"] = Word(v1::Budget_Name(blob.method.budget()), "BUDGET_");
  json["scope"] = Word(v1::Scope_Name(blob.method.scope()), "SCOPE_");
  if (blob.method.granularity() != v1::GRANULARITY_UNSPECIFIED) {
    json["granularity"] =
        Word(v1::Granularity_Name(blob.method.granularity()), "GRANULARITY_");
  }
  json["weights"] = p.quantized_weights();
  json["achieved"] = {{"bits", blob.achieved_bits},
                      {"code_bits", p.code_bits_per_weight()},
                      {"file_bits", p.file_bits_per_weight()}};
  json["predicted"] = {{"loss", p.loss()},
                       {"weighted_loss", p.weighted_loss()},
                       {"nll_rise", p.nll_rise()}};
  json["calibration"] = {{"nll", blob.nll},
                         {"predictions", blob.predictions},
                         {"perplexity", p.calibration_perplexity()}};
  json["linears"] = Json::array();
  for (const AllocatedLinear& linear : blob.linears) {
    json["linears"].push_back({{"name", linear.name},
                               {"rows", linear.rows},
                               {"cols", linear.cols},
                               {"bits", linear.allocation.bits},
                               {"code_bits", linear.allocation.code_bits},
                               {"file_bits", linear.allocation.file_bits},
                               {"sensitivity", linear.sensitivity},
                               {"loss", linear.allocation.loss}});
  }
  return absl::StrCat(json.dump(1), "\n");
}

absl::StatusOr<AllocatedLinear> FindInAllocation(const std::string& text,
                                                 const std::string& linear) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("linears") ||
      !json["linears"].is_array()) {
    return absl::InvalidArgumentError("input allocation is not an allocation");
  }
  for (const Json& entry : json["linears"]) {
    if (!entry.is_object() || entry.value("name", Json()) != Json(linear)) {
      continue;
    }
    AllocatedLinear found{.name = linear, .allocation = {}};
    if (!ReadNumber(entry, "bits", &found.allocation.bits) ||
        !ReadNumber(entry, "loss", &found.allocation.loss) ||
        !ReadNumber(entry, "sensitivity", &found.sensitivity)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "input allocation: ", linear, " lacks bits, loss or sensitivity"));
    }
    return found;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("input allocation has no linear ", linear));
}

}  // namespace bitwright
