// QuantizedLinear to safetensors and back.
#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/checkpoint/native.h"

namespace bitwright {
namespace {

std::string Bytes16(const std::vector<uint16_t>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()),
                     values.size() * sizeof(uint16_t));
}

absl::StatusOr<std::vector<uint16_t>> Values16(absl::string_view prefix,
                                               absl::string_view suffix,
                                               absl::string_view bytes,
                                               uint64_t count) {
  if (bytes.size() != count * sizeof(uint16_t)) {
    return absl::InvalidArgumentError(
        absl::StrCat(prefix, suffix, " has ", bytes.size(), " bytes; ", count,
                     " elements of 2 bytes are expected"));
  }
  std::vector<uint16_t> values(count);
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

absl::StatusOr<int64_t> MetadataInteger(const SafetensorsFile& file,
                                        const std::string& key) {
  auto it = file.metadata().find(key);
  int64_t value = 0;
  if (it == file.metadata().end() || !absl::SimpleAtoi(it->second, &value) ||
      value < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        file.path(), ": the metadata needs a number for \"", key, "\""));
  }
  return value;
}

}  // namespace

std::vector<Tensor> ToTensors(const QuantizedLinear& linear,
                              absl::string_view prefix) {
  const std::vector<int64_t> ranges = {linear.rows, linear.groups()};
  return {
      {{absl::StrCat(prefix, ".weight_levels"), DType::kU16, {linear.cols}},
       Bytes16(linear.levels)},
      {{absl::StrCat(prefix, ".weight_min"), DType::kF16, ranges},
       Bytes16(linear.range_min)},
      {{absl::StrCat(prefix, ".weight_max"), DType::kF16, ranges},
       Bytes16(linear.range_max)},
      {{absl::StrCat(prefix, ".weight_codes"),
        DType::kU8,
        {static_cast<int64_t>(linear.codes.size())}},
       linear.codes},
  };
}

std::vector<std::string> NativeTensorNames(absl::string_view prefix) {
  return {absl::StrCat(prefix, ".weight_levels"),
          absl::StrCat(prefix, ".weight_min"),
          absl::StrCat(prefix, ".weight_max"),
          absl::StrCat(prefix, ".weight_codes")};
}

absl::StatusOr<QuantizedLinear> FromTensors(
    absl::string_view prefix, int64_t rows, int64_t cols, int64_t group_size,
    absl::string_view levels, absl::string_view range_min,
    absl::string_view range_max, absl::string_view codes) {
  constexpr int64_t kMaxDimension = int64_t{1} << 31;
  if (rows < 1 || cols < 1 || rows > kMaxDimension || cols > kMaxDimension ||
      group_size < 0 || group_size > kMaxDimension) {
    return absl::InvalidArgumentError(
        absl::StrCat(prefix, " has the impossible shape [", rows, ", ", cols,
                     "] or group size ", group_size));
  }
  QuantizedLinear linear;
  linear.rows = rows;
  linear.cols = cols;
  linear.group_size = group_size;
  BW_ASSIGN_OR_RETURN(linear.levels,
                      Values16(prefix, ".weight_levels", levels, cols));
  const uint64_t ranges = rows * linear.groups();
  BW_ASSIGN_OR_RETURN(linear.range_min,
                      Values16(prefix, ".weight_min", range_min, ranges));
  BW_ASSIGN_OR_RETURN(linear.range_max,
                      Values16(prefix, ".weight_max", range_max, ranges));
  linear.codes = std::string(codes);
  return linear;
}

std::string SerializeLinearBlob(const LinearBlob& blob) {
  return SerializeSafetensors(
      ToTensors(blob.linear, blob.name),
      {{"name", blob.name},
       {"rows", absl::StrCat(blob.linear.rows)},
       {"cols", absl::StrCat(blob.linear.cols)},
       {"group_size", absl::StrCat(blob.linear.group_size)},
       {"report", blob.report}});
}

absl::StatusOr<LinearBlob> ParseLinearBlob(std::string bytes,
                                           const std::string& source) {
  BW_ASSIGN_OR_RETURN(auto file,
                      SafetensorsFile::Parse(std::move(bytes), source));
  LinearBlob blob;
  auto name = file->metadata().find("name");
  if (name == file->metadata().end()) {
    return absl::InvalidArgumentError(
        absl::StrCat(source,
                     ": the metadata has no \"name\": not the result "
                     "of a quantize task"));
  }
  blob.name = name->second;
  if (auto it = file->metadata().find("report"); it != file->metadata().end()) {
    blob.report = it->second;
  }
  BW_ASSIGN_OR_RETURN(int64_t rows, MetadataInteger(*file, "rows"));
  BW_ASSIGN_OR_RETURN(int64_t cols, MetadataInteger(*file, "cols"));
  BW_ASSIGN_OR_RETURN(int64_t group_size, MetadataInteger(*file, "group_size"));
  constexpr DType kTypes[] = {DType::kU16, DType::kF16, DType::kF16,
                              DType::kU8};
  std::vector<absl::string_view> data;
  for (const std::string& tensor : NativeTensorNames(blob.name)) {
    BW_ASSIGN_OR_RETURN(const TensorInfo* info, file->Require(tensor));
    if (info->dtype != kTypes[data.size()]) {
      return absl::InvalidArgumentError(absl::StrCat(
          source, ": ", tensor, " has the dtype ", DTypeName(info->dtype),
          "; expected ", DTypeName(kTypes[data.size()])));
    }
    data.push_back(file->Data(*info));
  }
  auto linear = FromTensors(blob.name, rows, cols, group_size, data[0], data[1],
                            data[2], data[3]);
  BW_RETURN_IF_ERROR(Annotate(linear.status(), source));
  blob.linear = *std::move(linear);
  return blob;
}

}  // namespace bitwright
