#include "common/checkpoint/model_directory.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <set>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "common/base/file.h"
#include "common/base/status_macros.h"
#include "common/checkpoint/finite.h"
#include "common/checkpoint/json_util.h"

namespace bitwright {
namespace fs = std::filesystem;
namespace {

using nlohmann::ordered_json;

constexpr absl::string_view kWeight = ".weight";
constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";

// Beside config and weights; copied into every checkpoint.
constexpr absl::string_view kCompanions[] = {"added_tokens.json",
                                             "chat_template.jinja",
                                             "chat_template.json",
                                             "generation_config.json",
                                             "merges.txt",
                                             "special_tokens_map.json",
                                             "tokenizer.json",
                                             "tokenizer.model",
                                             "tokenizer_config.json",
                                             "vocab.json"};

bool IsCompanion(absl::string_view name) {
  return std::find(std::begin(kCompanions), std::end(kCompanions), name) !=
             std::end(kCompanions) ||
         absl::StartsWith(name, "LICENSE") || absl::StartsWith(name, "NOTICE");
}

// Names of the regular files (or links to such) of a directory, sorted.
absl::StatusOr<std::set<std::string>> ListFiles(const std::string& path) {
  std::set<std::string> names;
  std::error_code error;
  fs::directory_iterator it(path, error), end;
  for (; !error && it != end; it.increment(error)) {
    std::error_code ignored;
    if (it->is_regular_file(ignored)) names.insert(it->path().filename());
  }
  if (error) return ErrnoStatus(error.value(), "cannot list", path);
  return names;
}

absl::Status NoWeights(const std::string& path,
                       const std::set<std::string>& names) {
  for (const std::string& name : names) {
    for (absl::string_view suffix : {".bin", ".pt", ".pth", ".ckpt"}) {
      if (!absl::EndsWith(name, suffix)) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          path, " has weights only as ", name,
          ", a pickle, which is never loaded; convert it to safetensors: "
          "python3 -c \"from transformers import AutoModelForCausalLM as M; "
          "M.from_pretrained('",
          path, "').save_pretrained('", path,
          "-safetensors', safe_serialization=True)\""));
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat(path, " has no weights: neither ", kSingleFile, " nor ",
                   kIndexFile, " is there"));
}

// Limits a list in a message.
std::string SomeOf(const std::vector<std::string>& names) {
  constexpr size_t kShown = 5;
  std::string text = absl::StrJoin(
      names.begin(), names.begin() + std::min(kShown, names.size()), ", ");
  if (names.size() > kShown) {
    absl::StrAppend(&text, " and ", names.size() - kShown, " more");
  }
  return text;
}

std::string Where(const ModelDirectory::StoredTensor& tensor) {
  return absl::StrCat(tensor.file->path(), ": tensor ", tensor.info->name);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelDirectory>> ModelDirectory::Open(
    const std::string& path) {
  std::unique_ptr<ModelDirectory> directory(new ModelDirectory);
  directory->path_ = path;
  BW_RETURN_IF_ERROR(directory->Load());
  return directory;
}

absl::Status ModelDirectory::Load() {
  std::error_code error;
  fs::file_status status = fs::status(path_, error);
  if (status.type() == fs::file_type::not_found) {
    return absl::NotFoundError(absl::StrCat(path_, " does not exist"));
  }
  if (error) return ErrnoStatus(error.value(), "cannot open", path_);
  if (!fs::is_directory(status)) {
    return absl::InvalidArgumentError(absl::StrCat(
        path_, " is not a directory; expected a Hugging Face model directory"));
  }
  BW_RETURN_IF_ERROR(LoadConfig());
  BW_RETURN_IF_ERROR(LoadWeights());
  // Some OPT directories leave out the outer "model.".
  if (config_.family == ModelFamily::kOpt &&
      !Has("model.decoder.embed_tokens.weight") &&
      Has("decoder.embed_tokens.weight")) {
    config_.name_prefix = "decoder.";
  }
  BW_ASSIGN_OR_RETURN(std::set<std::string> names, ListFiles(path_));
  for (const std::string& name : names) {
    if (IsCompanion(name)) companions_.push_back(name);
  }
  files_.insert(files_.end(), companions_.begin(), companions_.end());
  std::sort(files_.begin(), files_.end());
  return CheckTensors();
}

absl::Status ModelDirectory::LoadConfig() {
  const std::string source = path_ + "/config.json";
  auto text = ReadTextFile(source, kMaxConfigBytes);
  if (absl::IsNotFound(text.status())) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, " has no config.json: not a model directory"));
  }
  if (!text.ok()) return text.status();
  config_json_ = *std::move(text);
  files_.push_back("config.json");
  BW_ASSIGN_OR_RETURN(config_, ParseModelConfig(config_json_, source));
  BW_ASSIGN_OR_RETURN(ordered_json json, ParseJsonObject(config_json_, source));
  auto it = json.find("quantization_config");
  if (it == json.end() || it->is_null()) return absl::OkStatus();
  const std::string method = JsonString(*it, "quant_method");
  if (method != "bitwright") {
    return absl::UnimplementedError(absl::StrCat(
        source, ": the model is already quantized with \"", method,
        "\"; expected an original model or a bitwright checkpoint"));
  }
  if (JsonInteger(*it, "format_version") != 1) {
    return absl::UnimplementedError(
        absl::StrCat(source,
                     ": this program reads format_version 1 of "
                     "bitwright checkpoints only"));
  }
  native_ = true;
  group_size_ = JsonInteger(*it, "group_size", -1);
  if (group_size_ < 0 || group_size_ > (int64_t{1} << 31)) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": quantization_config needs a group_size >= 0"));
  }
  auto dtype = ParseDType(JsonString(*it, "weight_dtype"));
  BW_RETURN_IF_ERROR(
      Annotate(dtype.status(), absl::StrCat(source, ": quantization_config")));
  quantization_.dtype = *dtype;
  if (auto map = it->find("weight_dtypes"); map != it->end()) {
    for (const auto& [name, value] : map->items()) {
      auto own = ParseDType(value.is_string() ? value.get<std::string>() : "");
      BW_RETURN_IF_ERROR(Annotate(
          own.status(), absl::StrCat(source, ": weight_dtypes of ", name)));
      quantization_.exceptions.emplace(name, *own);
    }
  }
  if (auto map = it->find("weight_columns"); map != it->end()) {
    for (const auto& [name, value] : map->items()) {
      quantization_.columns.emplace(
          name, value.is_number_integer() ? value.get<int64_t>() : -1);
    }
  }
  return absl::OkStatus();
}

absl::Status ModelDirectory::AddFile(const std::string& name) {
  const std::string path = path_ + "/" + name;
  auto file = SafetensorsFile::Open(path);
  if (absl::IsNotFound(file.status())) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is missing, but ", kIndexFile,
                     " lists it: fetch the model again"));
  }
  if (!file.ok()) return file.status();
  for (const TensorInfo& info : (*file)->tensors()) {
    auto [it, inserted] = index_.emplace(info.name, stored_.size());
    if (!inserted) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", info.name, " is both in ",
                       stored_[it->second].file->path(), " and in ", path));
    }
    stored_.push_back({file->get(), &info});
  }
  weights_.push_back(*std::move(file));
  files_.push_back(name);
  return absl::OkStatus();
}

absl::Status ModelDirectory::LoadWeights() {
  BW_ASSIGN_OR_RETURN(std::set<std::string> names, ListFiles(path_));
  // As Transformers does: one file wins over shards.
  if (names.contains(kSingleFile)) return AddFile(kSingleFile);
  if (names.contains(kIndexFile)) return LoadShards(kIndexFile);
  return NoWeights(path_, names);
}

absl::Status ModelDirectory::LoadShards(const std::string& index_name) {
  const std::string source = path_ + "/" + index_name;
  files_.push_back(index_name);
  BW_ASSIGN_OR_RETURN(std::string text, ReadTextFile(source, kMaxIndexBytes));
  BW_ASSIGN_OR_RETURN(nlohmann::json json, ParseSortedJsonObject(text, source));
  auto map = json.find("weight_map");
  if (map == json.end() || !map->is_object() || map->empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": \"weight_map\" is missing or empty"));
  }
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : map->items()) {
    const std::string name =
        shard.is_string() ? shard.get<std::string>() : std::string();
    if (!absl::EndsWith(name, ".safetensors") ||
        name.find('/') != std::string::npos ||
        name.find('\0') != std::string::npos) {
      return absl::InvalidArgumentError(absl::StrCat(
          source, ": tensor ", tensor, " is mapped to \"", name,
          "\"; expected the name of a .safetensors file of this directory"));
    }
    shards.insert(name);
  }
  for (const std::string& shard : shards) BW_RETURN_IF_ERROR(AddFile(shard));
  for (const auto& [tensor, shard] : map->items()) {
    const std::string path = absl::StrCat(path_, "/", shard.get<std::string>());
    auto it = index_.find(tensor);
    if (it == index_.end() || stored_[it->second].file->path() != path) {
      return absl::InvalidArgumentError(absl::StrCat(
          source, " maps tensor ", tensor, " to ", path, ", where it is not"));
    }
  }
  for (const StoredTensor& tensor : stored_) {
    if (map->find(tensor.info->name) == map->end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(Where(tensor), " is not listed in ", source));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelDirectory::StoredTensor> ModelDirectory::Stored(
    absl::string_view name) const {
  auto it = index_.find(name);
  if (it != index_.end()) return stored_[it->second];
  return absl::NotFoundError(absl::StrCat(path_, " has no tensor ", name));
}

bool ModelDirectory::IsQuantized(absl::string_view prefix) const {
  return native_ && index_.contains(absl::StrCat(prefix, ".weight_codes"));
}

bool ModelDirectory::Has(absl::string_view name) const {
  if (index_.contains(name)) return true;
  return absl::ConsumeSuffix(&name, kWeight) && IsQuantized(name);
}

absl::StatusOr<CodeRuns> ModelDirectory::RunsOf(
    absl::string_view prefix) const {
  auto runs = FindCodeRuns(prefix, [this](const std::string& tensor) {
    return index_.contains(tensor);
  });
  BW_RETURN_IF_ERROR(Annotate(runs.status(), path_));
  return runs;
}

absl::StatusOr<std::vector<int64_t>> ModelDirectory::QuantizedShape(
    absl::string_view prefix) const {
  BW_ASSIGN_OR_RETURN(StoredTensor low,
                      Stored(absl::StrCat(prefix, ".weight_min")));
  if (low.info->shape.size() != 2) {
    return absl::InvalidArgumentError(
        absl::StrCat(Where(low), " has the shape ",
                     ShapeString(low.info->shape), "; expected [R, G]"));
  }
  const int64_t rows = low.info->shape[0];
  BW_ASSIGN_OR_RETURN(CodeRuns runs, RunsOf(prefix));
  if (runs == CodeRuns::kRows) {
    auto it = quantization_.columns.find(prefix);
    if (it != quantization_.columns.end()) {
      return std::vector<int64_t>{rows, it->second};
    }
    return absl::InvalidArgumentError(absl::StrCat(
        path_, "/config.json: weight_columns of quantization_config lacks ",
        prefix, ", which has weight_row_bits"));
  }
  BW_ASSIGN_OR_RETURN(StoredTensor levels,
                      Stored(NativeTensorNames(prefix, runs)[0]));
  if (levels.info->shape.size() != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(Where(levels), " has the shape ",
                     ShapeString(levels.info->shape), "; expected [C]"));
  }
  return std::vector<int64_t>{rows, levels.info->shape[0]};
}

absl::StatusOr<std::vector<int64_t>> ModelDirectory::Shape(
    absl::string_view name) const {
  absl::string_view prefix = name;
  if (!index_.contains(name) && absl::ConsumeSuffix(&prefix, kWeight) &&
      IsQuantized(prefix)) {
    return QuantizedShape(prefix);
  }
  BW_ASSIGN_OR_RETURN(StoredTensor tensor, Stored(name));
  return tensor.info->shape;
}

absl::StatusOr<DType> ModelDirectory::WeightDType(
    absl::string_view name) const {
  absl::string_view prefix = name;
  if (!index_.contains(name) && absl::ConsumeSuffix(&prefix, kWeight) &&
      IsQuantized(prefix)) {
    auto it = quantization_.exceptions.find(prefix);
    return it == quantization_.exceptions.end() ? quantization_.dtype
                                                : it->second;
  }
  BW_ASSIGN_OR_RETURN(StoredTensor tensor, Stored(name));
  return tensor.info->dtype;
}

absl::StatusOr<std::vector<float>> ModelDirectory::ReadFloats(
    absl::string_view name) const {
  absl::string_view prefix = name;
  if (!index_.contains(name) && absl::ConsumeSuffix(&prefix, kWeight) &&
      IsQuantized(prefix)) {
    BW_ASSIGN_OR_RETURN(QuantizedLinear linear, ReadQuantized(prefix));
    BW_ASSIGN_OR_RETURN(DType dtype, WeightDType(name));
    auto weight = DequantizeAs(dtype, linear);
    BW_RETURN_IF_ERROR(
        Annotate(weight.status(), absl::StrCat(path_, ": ", prefix)));
    return weight;
  }
  BW_ASSIGN_OR_RETURN(StoredTensor tensor, Stored(name));
  BW_ASSIGN_OR_RETURN(std::vector<float> values,
                      tensor.file->ReadFloats(name, tensor.info->shape));
  tensor.file->Drop(*tensor.info);
  BW_RETURN_IF_ERROR(CheckFinite(values, tensor.info->shape, Where(tensor)));
  return values;
}

absl::StatusOr<QuantizedLinear> ModelDirectory::ReadQuantized(
    absl::string_view prefix) const {
  if (!IsQuantized(prefix)) {
    return absl::NotFoundError(
        absl::StrCat(path_, " has no quantized linear ", prefix));
  }
  BW_ASSIGN_OR_RETURN(std::vector<int64_t> shape, QuantizedShape(prefix));
  BW_ASSIGN_OR_RETURN(CodeRuns runs, RunsOf(prefix));
  std::vector<StoredTensor> parts;
  std::array<absl::string_view, 4> data;
  for (const std::string& name : NativeTensorNames(prefix, runs)) {
    BW_ASSIGN_OR_RETURN(StoredTensor part, Stored(name));
    data[parts.size()] = part.file->Data(*part.info);
    parts.push_back(part);
  }
  auto linear =
      FromTensors(prefix, shape[0], shape[1], group_size_, runs, data);
  for (const StoredTensor& part : parts) part.file->Drop(*part.info);
  BW_RETURN_IF_ERROR(Annotate(linear.status(), parts[0].file->path()));
  return linear;
}

absl::Status ModelDirectory::CheckTensors() const {
  for (const ExpectedTensor& expected : ExpectedTensors(config_)) {
    BW_RETURN_IF_ERROR(CheckTensor(expected));
  }
  return CheckNothingElse();
}

absl::Status ModelDirectory::CheckTensor(const ExpectedTensor& expected) const {
  absl::string_view prefix = expected.name;
  auto it = index_.find(expected.name);
  if (absl::ConsumeSuffix(&prefix, kWeight) && IsQuantized(prefix)) {
    if (it != index_.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(Where(stored_[it->second]),
                       " is stored both quantized and unquantized"));
    }
    return CheckNative(expected, prefix);
  }
  if (it == index_.end()) {
    if (expected.optional) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        path_, ": tensor ", expected.name, " ", ShapeString(expected.shape),
        " is missing from ",
        weights_.size() == 1 ? weights_[0]->path()
                             : absl::StrCat(weights_.size(), " shards")));
  }
  const StoredTensor& tensor = stored_[it->second];
  if (tensor.info->shape != expected.shape) {
    return absl::InvalidArgumentError(absl::StrCat(
        Where(tensor), " has the shape ", ShapeString(tensor.info->shape),
        "; config.json implies ", ShapeString(expected.shape)));
  }
  const DType dtype = tensor.info->dtype;
  if (!expected.optional && dtype != DType::kF32 && dtype != DType::kF16 &&
      dtype != DType::kBF16) {
    return absl::InvalidArgumentError(
        absl::StrCat(Where(tensor), " has the dtype ", DTypeName(dtype),
                     "; expected F32, F16 or BF16"));
  }
  return absl::OkStatus();
}

absl::Status ModelDirectory::CheckNative(const ExpectedTensor& expected,
                                         absl::string_view prefix) const {
  if (expected.shape.size() != 2) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ": ", expected.name, " cannot be quantized"));
  }
  const int64_t rows = expected.shape[0], cols = expected.shape[1];
  const int64_t groups =
      group_size_ == 0 ? 1 : (cols + group_size_ - 1) / group_size_;
  BW_ASSIGN_OR_RETURN(CodeRuns runs, RunsOf(prefix));
  const std::vector<std::string> names = NativeTensorNames(prefix, runs);
  const std::array<DType, 4> dtypes = NativeTensorTypes(runs);
  const std::vector<int64_t> shapes[] = {
      {runs == CodeRuns::kRows ? rows : cols},
      {rows, groups},
      {rows, groups},
      {}};
  for (size_t i = 0; i < names.size(); ++i) {
    auto it = index_.find(names[i]);
    if (it == index_.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path_, ": tensor ", names[i], " is missing"));
    }
    const TensorInfo& info = *stored_[it->second].info;
    const bool fits = i == 3 ? info.shape.size() == 1 : info.shape == shapes[i];
    if (!fits || info.dtype != dtypes[i]) {
      return absl::InvalidArgumentError(absl::StrCat(
          Where(stored_[it->second]), " is ", DTypeName(info.dtype), " ",
          ShapeString(info.shape), "; expected ", DTypeName(dtypes[i]), " ",
          i == 3 ? "[bytes]" : ShapeString(shapes[i])));
    }
  }
  BW_ASSIGN_OR_RETURN(std::vector<int64_t> shape, QuantizedShape(prefix));
  if (shape[1] != cols) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, "/config.json: weight_columns of ", prefix, " is ",
                     shape[1], "; the rest of it implies ", cols));
  }
  return absl::OkStatus();
}

absl::Status ModelDirectory::CheckNothingElse() const {
  absl::flat_hash_set<std::string> known;
  for (const ExpectedTensor& expected : ExpectedTensors(config_)) {
    known.insert(expected.name);
    absl::string_view prefix = expected.name;
    if (absl::ConsumeSuffix(&prefix, kWeight) && IsQuantized(prefix)) {
      BW_ASSIGN_OR_RETURN(CodeRuns runs, RunsOf(prefix));
      for (std::string& name : NativeTensorNames(prefix, runs)) {
        known.insert(std::move(name));
      }
    }
  }
  std::vector<std::string> unknown;
  for (const StoredTensor& tensor : stored_) {
    if (!known.contains(tensor.info->name)) {
      unknown.push_back(
          absl::StrCat(tensor.info->name, " (", tensor.file->path(), ")"));
    }
  }
  if (unknown.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      path_, ": config.json implies no tensor ", SomeOf(unknown),
      ": the config is of another model, or the architecture differs"));
}

}  // namespace bitwright
