#include "worker/runtime/task_inputs.h"

#include <bit>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status_macros.h"

namespace bitwright {

static_assert(std::endian::native == std::endian::little,
              "blobs are written from memory as it is");

namespace {

// A number that a blob's metadata must have.
template <typename Number, bool (*Parse)(absl::string_view, Number*)>
absl::StatusOr<Number> MetadataOf(const SafetensorsFile& file,
                                  const std::string& input,
                                  const std::string& key) {
  Number value{};
  const auto it = file.metadata().find(key);
  if (it == file.metadata().end() || !Parse(it->second, &value)) {
    return absl::InvalidArgumentError(
        absl::StrCat("input ", input, " does not say its ", key));
  }
  return value;
}

}  // namespace

std::vector<std::string> InputsWithPrefix(const v1::Action& action,
                                          absl::string_view prefix) {
  std::vector<std::string> names;
  for (const v1::NamedBlob& input : action.inputs()) {
    if (absl::StartsWith(input.name(), prefix)) names.push_back(input.name());
  }
  return names;
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> OpenInput(
    const TaskContext& context, const std::string& name) {
  BW_ASSIGN_OR_RETURN(std::string path, context.inputs->Path(name));
  auto file = SafetensorsFile::Open(path);
  if (!file.ok()) return Annotate(file.status(), absl::StrCat("input ", name));
  return file;
}

absl::StatusOr<LinearBlob> ReadLinearInput(const TaskContext& context,
                                           const std::string& linear) {
  const std::string input = absl::StrCat("linear.", linear);
  BW_ASSIGN_OR_RETURN(std::string path, context.inputs->Path(input));
  BW_ASSIGN_OR_RETURN(std::string bytes, ReadFile(path));
  BW_ASSIGN_OR_RETURN(LinearBlob blob,
                      ParseLinearBlob(std::move(bytes), input));
  if (blob.name != linear) {
    return absl::InvalidArgumentError(
        absl::StrCat("input ", input, " holds the linear ", blob.name));
  }
  return blob;
}

model::WeightOverride QuantizedWeights(const TaskContext& context) {
  absl::flat_hash_set<std::string> available;
  for (std::string& name : InputsWithPrefix(*context.action, "linear.")) {
    available.insert(std::move(name));
  }
  if (available.empty()) return nullptr;
  return [&context, available = std::move(available)](const std::string& linear)
             -> absl::StatusOr<std::optional<std::vector<float>>> {
    if (!available.contains(absl::StrCat("linear.", linear))) {
      return std::nullopt;
    }
    BW_ASSIGN_OR_RETURN(LinearBlob blob, ReadLinearInput(context, linear));
    BW_ASSIGN_OR_RETURN(DType dtype, context.model->directory().WeightDType(
                                         linear + ".weight"));
    BW_ASSIGN_OR_RETURN(std::vector<float> weight,
                        DequantizeAs(dtype, blob.linear));
    return weight;
  };
}

absl::StatusOr<ShardRange> RangeOfShard(int64_t n, int64_t shard,
                                        int64_t shards) {
  if (shards < 1 || shard < 0 || shard >= shards) {
    return absl::InvalidArgumentError(
        absl::StrCat("there is no shard ", shard, " of ", shards));
  }
  return ShardRange{shard * n / shards, (shard + 1) * n / shards};
}

absl::StatusOr<TokenWindows> ReadWindows(const TaskContext& context,
                                         int64_t shard, int64_t shards) {
  BW_ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file,
                      OpenInput(context, "windows"));
  BW_ASSIGN_OR_RETURN(const TensorInfo* info, file->Require("tokens"));
  if (info->shape.size() != 2 || info->shape[1] < 2) {
    return absl::InvalidArgumentError(absl::StrCat(
        "input windows: tokens has shape ", ShapeString(info->shape),
        ", not [windows, seqlen] with seqlen at least 2"));
  }
  const int64_t seqlen = info->shape[1];
  BW_ASSIGN_OR_RETURN(ShardRange range,
                      RangeOfShard(info->shape[0], shard, shards));
  BW_ASSIGN_OR_RETURN(std::vector<int64_t> all, file->ReadIntegers("tokens"));
  TokenWindows windows{.count = range.end - range.begin, .seqlen = seqlen};
  if (auto it = file->metadata().find("tokens"); it != file->metadata().end()) {
    (void)absl::SimpleAtoi(it->second, &windows.text_tokens);
  }
  windows.tokens.assign(all.begin() + range.begin * seqlen,
                        all.begin() + range.end * seqlen);
  return windows;
}

absl::StatusOr<model::HiddenStates> ReadStates(const TaskContext& context,
                                               const std::string& name) {
  return ReadStates(context, name, /*input=*/name);
}

absl::StatusOr<model::HiddenStates> ReadStates(const TaskContext& context,
                                               const std::string& name,
                                               const std::string& input) {
  BW_ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file,
                      OpenInput(context, input));
  BW_ASSIGN_OR_RETURN(const TensorInfo* info, file->Require(name));
  const int64_t width = context.model->config().hidden_size;
  if (info->shape.size() != 3 || info->shape[2] != width) {
    return absl::InvalidArgumentError(
        absl::StrCat("input ", input, " has shape ", ShapeString(info->shape),
                     ", not [sequences, seqlen, ", width, "]"));
  }
  model::HiddenStates states{.sequences = info->shape[0],
                             .seqlen = info->shape[1],
                             .width = width,
                             .data = {}};
  BW_ASSIGN_OR_RETURN(states.data, file->ReadFloats(name, info->shape));
  file->Drop(*info);
  return states;
}

absl::StatusOr<TaskOutput> WriteStates(const TaskContext& context,
                                       const std::string& name,
                                       const model::HiddenStates& states) {
  TaskOutput output{.name = name,
                    .path = absl::StrCat(context.scratch, "/", name)};
  BW_ASSIGN_OR_RETURN(
      std::unique_ptr<SafetensorsWriter> writer,
      SafetensorsWriter::Create(
          output.path,
          {{.name = name,
            .dtype = DType::kF32,
            .shape = {states.sequences, states.seqlen, states.width}}},
          {}));
  BW_RETURN_IF_ERROR(writer->Append(BytesOf(states.data)));
  BW_RETURN_IF_ERROR(writer->Close());
  return output;
}

absl::StatusOr<std::vector<double>> ReadDoubles(
    const SafetensorsFile& file, const std::string& name,
    const std::vector<int64_t>& shape) {
  BW_ASSIGN_OR_RETURN(const TensorInfo* info, file.Require(name));
  if (info->dtype != DType::kF64 || info->shape != shape) {
    return absl::InvalidArgumentError(absl::StrCat(
        file.path(), ": ", name, " is ", DTypeName(info->dtype), " ",
        ShapeString(info->shape), ", not F64 ", ShapeString(shape)));
  }
  const absl::string_view bytes = file.Data(*info);
  std::vector<double> values(bytes.size() / sizeof(double));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

absl::StatusOr<int64_t> IntegerOf(const SafetensorsFile& file,
                                  const std::string& input,
                                  const std::string& key) {
  return MetadataOf<int64_t, absl::SimpleAtoi<int64_t>>(file, input, key);
}

absl::StatusOr<double> DoubleOf(const SafetensorsFile& file,
                                const std::string& input,
                                const std::string& key) {
  return MetadataOf<double, absl::SimpleAtod>(file, input, key);
}

absl::string_view BytesOf(const std::vector<double>& values) {
  return {reinterpret_cast<const char*>(values.data()),
          values.size() * sizeof(double)};
}

absl::string_view BytesOf(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()),
          values.size() * sizeof(float)};
}

absl::string_view BytesOf(const std::vector<int32_t>& values) {
  return {reinterpret_cast<const char*>(values.data()),
          values.size() * sizeof(int32_t)};
}

}  // namespace bitwright
