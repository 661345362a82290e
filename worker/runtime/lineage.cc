#include "worker/runtime/lineage.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "google/protobuf/util/json_util.h"
#include "nlohmann/json.hpp"

namespace bitwright {
namespace {

using Json = nlohmann::ordered_json;

absl::StatusOr<Json> ParseJson(const std::string& text,
                               absl::string_view what) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) {
    return absl::InvalidArgumentError(absl::StrCat(what, " is not JSON"));
  }
  return json;
}

absl::StatusOr<Json> SpecJson(v1::JobSpec spec) {
  spec.mutable_model()->clear_path();
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string text;
  const auto status =
      google::protobuf::util::MessageToJsonString(spec, &text, options);
  if (!status.ok()) {
    return absl::InternalError(
        absl::StrCat("the spec does not print: ", status.ToString()));
  }
  return ParseJson(text, "the spec");
}

Json DigestJson(const std::string& name, const v1::BlobDigest& digest) {
  return {{"name", name},
          {"sha256", digest.sha256()},
          {"size", digest.size_bytes()}};
}

Json CalibrationJson(const v1::CalibrationSpec& spec) {
  Json json;
  if (spec.source().has_tokens()) {
    json["tokens"] = DigestJson(spec.source().tokens().name(),
                                spec.source().tokens().digest());
  } else {
    json["texts"] = Json::array();
    for (const v1::NamedBlob& text : spec.source().texts()) {
      json["texts"].push_back(DigestJson(text.name(), text.digest()));
    }
  }
  json["nsamples"] = spec.nsamples();
  json["seqlen"] = spec.seqlen();
  json["seed"] = spec.seed();
  json["shards"] = spec.shards();
  return json;
}

absl::StatusOr<Json> LayerJson(const LayerLineage& layer) {
  BW_ASSIGN_OR_RETURN(
      Json report,
      ParseJson(layer.report, absl::StrCat("the report of ", layer.name)));
  Json json;
  json["name"] = layer.name;
  json["rows"] = layer.rows;
  json["cols"] = layer.cols;
  json["report"] = std::move(report);
  return json;
}

}  // namespace

LayerLineage DescribeLayer(const LinearBlob& blob) {
  return {.name = blob.name,
          .rows = blob.linear.rows,
          .cols = blob.linear.cols,
          .code_bits = blob.linear.CodeBitsPerWeight(),
          .file_bits = blob.linear.FileBitsPerWeight(),
          .report = blob.report};
}

v1::FinalizeSummary SummarizeLayers(const std::vector<LayerLineage>& layers) {
  double code_bits = 0, file_bits = 0;
  int64_t weights = 0;
  for (const LayerLineage& layer : layers) {
    const int64_t count = layer.rows * layer.cols;
    code_bits += layer.code_bits * count;
    file_bits += layer.file_bits * count;
    weights += count;
  }
  v1::FinalizeSummary summary;
  summary.set_quantized_weights(weights);
  if (weights > 0) {
    summary.set_code_bits_per_weight(code_bits / weights);
    summary.set_file_bits_per_weight(file_bits / weights);
  }
  return summary;
}

absl::string_view MethodName(v1::Method method) {
  switch (method) {
    case v1::METHOD_RTN:
      return "rtn";
    case v1::METHOD_GPTQ:
      return "gptq";
    case v1::METHOD_BAQ:
      return "baq";
    case v1::METHOD_RATIO:
      return "ratio";
    default:
      return "unknown";
  }
}

absl::StatusOr<std::string> LineageJson(
    const v1::FinalizeParameters& parameters,
    const std::vector<LayerLineage>& layers, absl::string_view tool_version) {
  const v1::JobSpec& spec = parameters.spec();
  Json json;
  json["tool_version"] = std::string(tool_version);
  BW_ASSIGN_OR_RETURN(json["spec"], SpecJson(spec));
  json["source_files"] = Json::array();
  for (const v1::SourceFile& file : spec.model().files()) {
    json["source_files"].push_back(DigestJson(file.name(), file.digest()));
  }
  if (spec.has_calibration()) {
    json["calibration"] = CalibrationJson(spec.calibration());
  }
  json["layers"] = Json::array();
  for (const LayerLineage& layer : layers) {
    BW_ASSIGN_OR_RETURN(Json entry, LayerJson(layer));
    json["layers"].push_back(std::move(entry));
  }
  return absl::StrCat(json.dump(2, ' ', false, Json::error_handler_t::replace),
                      "\n");
}

}  // namespace bitwright
