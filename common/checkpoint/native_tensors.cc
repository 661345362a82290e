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

template <typename T>
absl::StatusOr<std::vector<T>> Values(absl::string_view tensor,
                                      absl::string_view bytes, uint64_t count) {
  if (bytes.size() != count * sizeof(T)) {
    return absl::InvalidArgumentError(
        absl::StrCat(tensor, " has ", bytes.size(), " bytes; ", count,
                     " elements of ", sizeof(T), " bytes are expected"));
  }
  std::vector<T> values(count);
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
  const CodeRuns runs = linear.runs();
  const std::vector<std::string> names = NativeTensorNames(prefix, runs);
  const std::array<DType, 4> types = NativeTensorTypes(runs);
  const std::vector<int64_t> ranges = {linear.rows, linear.groups()};
  const bool by_row = runs == CodeRuns::kRows;
  return {
      {{names[0], types[0], {by_row ? linear.rows : linear.cols}},
       by_row ? std::string(linear.row_bits.begin(), linear.row_bits.end())
              : Bytes16(linear.levels)},
      {{names[1], types[1], ranges}, Bytes16(linear.range_min)},
      {{names[2], types[2], ranges}, Bytes16(linear.range_max)},
      {{names[3], types[3], {static_cast<int64_t>(linear.codes.size())}},
       linear.codes},
  };
}

std::vector<std::string> NativeTensorNames(absl::string_view prefix,
                                           CodeRuns runs) {
  return {absl::StrCat(prefix, runs == CodeRuns::kRows ? ".weight_row_bits"
                                                       : ".weight_levels"),
          absl::StrCat(prefix, ".weight_min"),
          absl::StrCat(prefix, ".weight_max"),
          absl::StrCat(prefix, ".weight_codes")};
}

std::array<DType, 4> NativeTensorTypes(CodeRuns runs) {
  return {runs == CodeRuns::kRows ? DType::kU8 : DType::kU16, DType::kF16,
          DType::kF16, DType::kU8};
}

absl::StatusOr<CodeRuns> FindCodeRuns(
    absl::string_view prefix,
    const std::function<bool(const std::string& tensor)>& has) {
  const std::string levels = NativeTensorNames(prefix, CodeRuns::kColumns)[0];
  const std::string row_bits = NativeTensorNames(prefix, CodeRuns::kRows)[0];
  const bool by_column = has(levels), by_row = has(row_bits);
  if (by_column != by_row) {
    return by_row ? CodeRuns::kRows : CodeRuns::kColumns;
  }
  return absl::InvalidArgumentError(
      by_row ? absl::StrCat("tensors ", levels, " and ", row_bits,
                            " are both there; one of them is expected")
             : absl::StrCat("tensor ", levels, " is missing, and so is ",
                            row_bits, " in its place"));
}

absl::StatusOr<QuantizedLinear> FromTensors(
    absl::string_view prefix, int64_t rows, int64_t cols, int64_t group_size,
    CodeRuns runs, const std::array<absl::string_view, 4>& data) {
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
  const std::vector<std::string> names = NativeTensorNames(prefix, runs);
  if (runs == CodeRuns::kRows) {
    BW_ASSIGN_OR_RETURN(linear.row_bits,
                        Values<uint8_t>(names[0], data[0], rows));
  } else {
    BW_ASSIGN_OR_RETURN(linear.levels,
                        Values<uint16_t>(names[0], data[0], cols));
  }
  const uint64_t ranges = rows * linear.groups();
  BW_ASSIGN_OR_RETURN(linear.range_min,
                      Values<uint16_t>(names[1], data[1], ranges));
  BW_ASSIGN_OR_RETURN(linear.range_max,
                      Values<uint16_t>(names[2], data[2], ranges));
  linear.codes = std::string(data[3]);
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
  auto runs = FindCodeRuns(blob.name, [&](const std::string& tensor) {
    return file->Find(tensor) != nullptr;
  });
  BW_RETURN_IF_ERROR(Annotate(runs.status(), source));
  const std::vector<std::string> names = NativeTensorNames(blob.name, *runs);
  const std::array<DType, 4> types = NativeTensorTypes(*runs);
  std::array<absl::string_view, 4> data;
  for (size_t i = 0; i < data.size(); ++i) {
    BW_ASSIGN_OR_RETURN(const TensorInfo* info, file->Require(names[i]));
    if (info->dtype != types[i]) {
      return absl::InvalidArgumentError(absl::StrCat(
          source, ": ", names[i], " has the dtype ", DTypeName(info->dtype),
          "; expected ", DTypeName(types[i])));
    }
    data[i] = file->Data(*info);
  }
  auto linear = FromTensors(blob.name, rows, cols, group_size, *runs, data);
  BW_RETURN_IF_ERROR(Annotate(linear.status(), source));
  blob.linear = *std::move(linear);
  return blob;
}

}  // namespace bitwright
