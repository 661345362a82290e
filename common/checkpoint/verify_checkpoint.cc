// VerifyCheckpoint and DescribeCheckpoint.
#include <cmath>
#include <filesystem>
#include <set>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/digest.h"
#include "common/base/status_macros.h"
#include "common/checkpoint/checkpoint_writer.h"
#include "common/checkpoint/finite.h"
#include "common/checkpoint/json_util.h"
#include "common/checkpoint/lineage_file.h"

namespace bitwright {
namespace fs = std::filesystem;
namespace {

using nlohmann::ordered_json;

class Verifier {
 public:
  explicit Verifier(const std::string& directory) : directory_(directory) {}

  absl::StatusOr<VerifyReport> Run() {
    std::string text;
    auto lineage = ReadLineage(directory_, &text);
    if (!lineage.ok() && text.empty()) return lineage.status();
    ++report_.files;
    report_.bytes += text.size();
    Note(CheckLineageDigest(text));
    if (lineage.ok()) {
      BW_RETURN_IF_ERROR(CheckFiles(*lineage));
    } else {
      Note(lineage.status());
    }
    auto model = ModelDirectory::Open(directory_);
    if (!model.ok()) {
      Note(model.status());
      return std::move(report_);
    }
    CheckTensors(**model);
    if (lineage.ok()) CheckAgainst(*lineage, **model);
    return std::move(report_);
  }

 private:
  void Note(const absl::Status& status) {
    if (!status.ok()) {
      report_.problems.push_back(std::string(status.message()));
    }
  }
  void Problem(std::string text) {
    report_.problems.push_back(std::move(text));
  }
  absl::Status CheckFiles(const ordered_json& lineage);
  absl::Status CheckFile(const std::string& name, const ordered_json& entry);
  void CheckTensors(const ModelDirectory& model);
  void CheckAgainst(const ordered_json& lineage, const ModelDirectory& model);

  const std::string directory_;
  VerifyReport report_;
  CheckpointTotals totals_;
};

absl::Status Verifier::CheckFiles(const ordered_json& lineage) {
  auto files = lineage.find("files");
  if (files == lineage.end() || !files->is_object()) {
    Problem(absl::StrCat(kLineageFile, " lists no files"));
    return absl::OkStatus();
  }
  for (const auto& [name, entry] : files->items()) {
    BW_RETURN_IF_ERROR(CheckFile(name, entry));
  }
  // Strangers beside the checkpoint do no harm, unless they pass for weights.
  std::error_code error;
  std::set<std::string> strangers;
  for (fs::directory_iterator it(directory_, error), end; !error && it != end;
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (absl::EndsWith(name, ".safetensors") && !files->contains(name)) {
      strangers.insert(name);
    }
  }
  for (const std::string& name : strangers) {
    Problem(absl::StrCat(name, " does not belong to the checkpoint"));
  }
  return absl::OkStatus();
}

absl::Status Verifier::CheckFile(const std::string& name,
                                 const ordered_json& entry) {
  if (name.empty() || name.find('/') != std::string::npos ||
      name.find('\0') != std::string::npos || name == "..") {
    Problem(absl::StrCat(kLineageFile, " lists the impossible file name \"",
                         name, "\""));
    return absl::OkStatus();
  }
  auto digest = DigestOfFile(absl::StrCat(directory_, "/", name));
  if (absl::IsNotFound(digest.status())) {
    Problem(absl::StrCat(name, " is missing"));
    return absl::OkStatus();
  }
  if (!digest.ok()) return digest.status();
  ++report_.files;
  report_.bytes += digest->size;
  const int64_t size = JsonInteger(entry, "size", -1);
  if (static_cast<int64_t>(digest->size) != size) {
    Problem(absl::StrCat(name, " has ", digest->size, " bytes; it had ", size,
                         " when it was written"));
  } else if (digest->sha256 != JsonString(entry, "sha256")) {
    Problem(absl::StrCat(name, " has the SHA-256 ", digest->sha256, "; it had ",
                         JsonString(entry, "sha256"), " when it was written"));
  }
  return absl::OkStatus();
}

void Verifier::CheckTensors(const ModelDirectory& model) {
  for (const ModelDirectory::StoredTensor& tensor : model.stored()) {
    ++report_.tensors;
    Note(CheckFiniteTensor(*tensor.file, *tensor.info));
    tensor.file->Drop(*tensor.info);
  }
  for (const ExpectedTensor& expected : ExpectedTensors(model.config())) {
    const std::string linear(absl::StripSuffix(expected.name, ".weight"));
    if (!model.IsQuantized(linear)) continue;
    ++report_.quantized_linears;
    auto quantized = model.ReadQuantized(linear);
    if (!quantized.ok()) {
      Note(quantized.status());
      continue;
    }
    auto codes = UnpackCodes(*quantized);
    if (codes.ok()) {
      totals_.Add(*quantized);
    } else {
      Note(Annotate(codes.status(), linear));
    }
  }
}

void Verifier::CheckAgainst(const ordered_json& lineage,
                            const ModelDirectory& model) {
  const std::string format = JsonString(lineage, "format");
  if (format != (model.is_native() ? "native" : "dense")) {
    Problem(absl::StrCat(kLineageFile, " says that the format is \"", format,
                         "\", config.json says otherwise"));
  }
  if (auto it = lineage.find("layers"); it != lineage.end() && it->is_array()) {
    for (const ordered_json& layer : *it) {
      const std::string name = JsonString(layer, "name");
      if (model.is_native() ? !model.IsQuantized(name)
                            : !model.Has(name + ".weight")) {
        Problem(absl::StrCat(kLineageFile, " lists the layer ", name,
                             ", which the weights have not"));
      }
    }
  }
  if (!model.is_native()) return;
  const ordered_json totals = lineage.value("totals", ordered_json::object());
  if (JsonInteger(totals, "quantized_weights", -1) !=
          totals_.quantized_weights ||
      std::abs(JsonNumber(totals, "file_bits_per_weight", -1) -
               totals_.file_bits) > 1e-9) {
    Problem(absl::StrCat(
        kLineageFile, " gives other totals than the weights have: ",
        totals_.quantized_weights, " weights at ", totals_.file_bits, " bits"));
  }
}

}  // namespace

absl::StatusOr<VerifyReport> VerifyCheckpoint(const std::string& directory) {
  return Verifier(directory).Run();
}

absl::StatusOr<CheckpointDescription> DescribeCheckpoint(
    const std::string& directory) {
  std::string text;
  BW_ASSIGN_OR_RETURN(ordered_json lineage, ReadLineage(directory, &text));
  if (JsonInteger(lineage, "format_version") != 1) {
    return absl::UnimplementedError(absl::StrCat(
        directory, "/", kLineageFile, ": this program reads format_version 1"));
  }
  CheckpointDescription description;
  description.format = JsonString(lineage, "format");
  description.method = JsonString(lineage, "method");
  const ordered_json empty = ordered_json::object();
  auto totals = lineage.find("totals");
  const ordered_json& counts = totals == lineage.end() ? empty : *totals;
  description.quantized_weights = JsonInteger(counts, "quantized_weights");
  description.other_weights = JsonInteger(counts, "other_weights");
  description.code_bits_per_weight = JsonNumber(counts, "code_bits_per_weight");
  description.file_bits_per_weight = JsonNumber(counts, "file_bits_per_weight");
  auto layers = lineage.find("layers");
  if (layers != lineage.end() && layers->is_array()) {
    for (const ordered_json& entry : *layers) {
      LayerDescription layer;
      layer.name = JsonString(entry, "name");
      layer.rows = JsonInteger(entry, "rows");
      layer.cols = JsonInteger(entry, "cols");
      const bool has = entry.is_object() && entry.contains("report");
      const ordered_json& report = has ? entry["report"] : empty;
      layer.code_bits = JsonNumber(report, "code_bits");
      layer.file_bits = JsonNumber(report, "file_bits");
      layer.loss = JsonNumber(report, "loss");
      layer.uniform_loss = JsonNumber(report, "uniform_loss");
      layer.report_json =
          report.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
      description.layers.push_back(std::move(layer));
    }
  }
  description.lineage_json = std::move(text);
  return description;
}

}  // namespace bitwright
