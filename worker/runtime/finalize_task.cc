// finalize: assemble the checkpoint, verify it by reading it back, and hand out
// its files (worker.proto, FinalizeParameters; formats.md).
#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "bitwright/v1/checkpoint.pb.h"
#include "common/base/digest.h"
#include "common/base/file.h"
#include "common/base/status_macros.h"
#include "common/base/version.h"
#include "common/checkpoint/checkpoint_writer.h"
#include "worker/runtime/executor.h"
#include "worker/runtime/lineage.h"
#include "worker/runtime/task_inputs.h"

namespace bitwright {
namespace {

// The checkpoint copies tensors from the source: what was planned with must
// still be there.
absl::Status CheckSourceUnchanged(const TaskContext& context) {
  const v1::ModelSource& planned = context.action->finalize().spec().model();
  const std::string& root = context.model->directory().path();
  for (const v1::SourceFile& file : planned.files()) {
    BW_RETURN_IF_ERROR(context.control->Check());
    const std::string path = absl::StrCat(root, "/", file.name());
    auto found = DigestOfFile(path);
    if (!found.ok() && !absl::IsNotFound(found.status())) return found.status();
    if (found.ok() && found->sha256 == file.digest().sha256()) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        "the model's file ", file.name(),
        found.ok() ? " has changed" : " has gone",
        " since the job was planned (it had SHA-256 ", file.digest().sha256(),
        found.ok() ? absl::StrCat(", and now has ", found->sha256) : "",
        "); put it back, or submit the job again"));
  }
  return absl::OkStatus();
}

// Every quantized linear in the model's order, described but not kept.
absl::StatusOr<std::vector<LayerLineage>> DescribeLayers(
    const TaskContext& context) {
  const ModelConfig& config = context.model->config();
  absl::flat_hash_set<std::string> inputs;
  for (std::string& name : InputsWithPrefix(*context.action, "linear.")) {
    inputs.insert(std::move(name));
  }
  std::vector<LayerLineage> layers;
  for (int64_t block = 0; block < config.num_layers; ++block) {
    BW_RETURN_IF_ERROR(context.control->Check());
    for (const LinearSpec& linear : BlockLinears(config, block)) {
      if (inputs.erase(absl::StrCat("linear.", linear.name)) == 0) continue;
      BW_ASSIGN_OR_RETURN(LinearBlob blob,
                          ReadLinearInput(context, linear.name));
      layers.push_back(DescribeLayer(blob));
    }
  }
  if (!inputs.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the model has no such linear: ", absl::StrJoin(inputs, ", ")));
  }
  return layers;
}

absl::Status Write(const TaskContext& context,
                   const std::vector<LayerLineage>& layers,
                   const std::string& directory) {
  const v1::FinalizeParameters& parameters = context.action->finalize();
  CheckpointOptions options;
  options.format = parameters.format() == v1::FORMAT_DENSE
                       ? CheckpointFormat::kDense
                       : CheckpointFormat::kNative;
  options.group_size = parameters.spec().method().group_size();
  options.method = std::string(MethodName(parameters.spec().method().method()));
  BW_ASSIGN_OR_RETURN(options.lineage_json,
                      LineageJson(parameters, layers, kVersion));
  std::vector<std::string> names;
  for (const LayerLineage& layer : layers) names.push_back(layer.name);
  double done = 0;
  auto provider =
      [&](const std::string& name) -> absl::StatusOr<QuantizedLinear> {
    BW_RETURN_IF_ERROR(context.control->Check());
    context.control->SetFraction(0.2 + 0.4 * (done++ / layers.size()));
    BW_ASSIGN_OR_RETURN(LinearBlob blob, ReadLinearInput(context, name));
    return std::move(blob.linear);
  };
  return WriteCheckpoint(context.model->directory(), names, provider, options,
                         directory);
}

absl::Status VerifyWritten(const std::string& directory) {
  BW_ASSIGN_OR_RETURN(VerifyReport report, VerifyCheckpoint(directory));
  if (report.problems.empty()) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("the checkpoint does not read back as it was written: ",
                   absl::StrJoin(report.problems, "; ")));
}

absl::StatusOr<std::vector<std::string>> ListFiles(
    const std::string& directory) {
  namespace fs = std::filesystem;
  std::vector<std::string> files;
  std::error_code error;
  for (fs::recursive_directory_iterator it(directory, error), end;
       !error && it != end; it.increment(error)) {
    if (!it->is_regular_file(error)) continue;
    files.push_back(fs::relative(it->path(), directory, error).string());
  }
  if (error) return ErrnoStatus(error.value(), "list", directory);
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

absl::StatusOr<TaskResult> ExecuteFinalize(const TaskContext& context) {
  BW_RETURN_IF_ERROR(CheckSourceUnchanged(context));
  BW_ASSIGN_OR_RETURN(std::vector<LayerLineage> layers,
                      DescribeLayers(context));
  context.control->SetFraction(0.2);
  const std::string directory = absl::StrCat(context.scratch, "/checkpoint");
  std::error_code error;
  std::filesystem::create_directory(directory, error);
  if (error) return ErrnoStatus(error.value(), "create", directory);
  BW_RETURN_IF_ERROR(Write(context, layers, directory));
  BW_RETURN_IF_ERROR(context.control->Check());
  context.control->SetFraction(0.6);
  BW_RETURN_IF_ERROR(VerifyWritten(directory));
  BW_RETURN_IF_ERROR(context.control->Check());
  context.control->SetFraction(0.8);

  TaskResult result;
  v1::CheckpointManifest manifest;
  manifest.set_format(context.action->finalize().format());
  BW_ASSIGN_OR_RETURN(std::vector<std::string> files, ListFiles(directory));
  for (const std::string& name : files) {
    TaskOutput output{.name = absl::StrCat("file.", name),
                      .path = absl::StrCat(directory, "/", name)};
    BW_ASSIGN_OR_RETURN(output.digest, DigestOfFile(output.path));
    v1::CheckpointFile* entry = manifest.add_files();
    entry->set_path(name);
    entry->mutable_digest()->set_sha256(output.digest->sha256);
    entry->mutable_digest()->set_size_bytes(output.digest->size);
    result.outputs.push_back(std::move(output));
  }
  result.outputs.push_back(
      {.name = "manifest", .bytes = manifest.SerializeAsString()});
  *result.summary.mutable_finalize() = SummarizeLayers(layers);
  return result;
}

}  // namespace bitwright
