#include "common/checkpoint/safetensors.h"

#include <cstring>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"
#include "common/checkpoint/safetensors_header.h"

namespace bitwright {
namespace {

template <typename T>
void Widen(absl::string_view bytes, std::vector<int64_t>* out) {
  for (size_t i = 0; i < out->size(); ++i) {
    T value;
    std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
    (*out)[i] = static_cast<int64_t>(value);
  }
}

}  // namespace

int64_t TensorInfo::num_elements() const {
  int64_t count = 1;
  for (int64_t dim : shape) count *= dim;
  return count;
}

std::string ShapeString(absl::Span<const int64_t> shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(
    const std::string& path) {
  std::unique_ptr<SafetensorsFile> file(new SafetensorsFile);
  file->path_ = path;
  BW_ASSIGN_OR_RETURN(file->mapped_, MappedFile::Open(path));
  file->data_ = file->mapped_->data();
  BW_RETURN_IF_ERROR(Annotate(file->ParseHeader(), path));
  return file;
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Parse(
    std::string bytes, std::string name) {
  std::unique_ptr<SafetensorsFile> file(new SafetensorsFile);
  file->path_ = std::move(name);
  file->owned_ = std::move(bytes);
  file->data_ = file->owned_;
  BW_RETURN_IF_ERROR(Annotate(file->ParseHeader(), file->path_));
  return file;
}

absl::Status SafetensorsFile::ParseHeader() {
  if (data_.size() < 8) {
    return absl::InvalidArgumentError(
        absl::StrCat("not a safetensors file: it has ", data_.size(),
                     " bytes, fewer than the header's length takes"));
  }
  uint64_t length;
  std::memcpy(&length, data_.data(), 8);
  if (length > kMaxSafetensorsHeaderBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the header's length is given as ", length, " bytes, more than ",
        kMaxSafetensorsHeaderBytes, ": not a safetensors file, or damaged"));
  }
  if (length > data_.size() - 8) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the header's length is given as ", length, " bytes, but the file has ",
        data_.size(), ": it is truncated or damaged; fetch it again"));
  }
  data_start_ = 8 + length;
  BW_ASSIGN_OR_RETURN(SafetensorsHeader header,
                      ParseSafetensorsHeader(data_.substr(8, length),
                                             data_.size() - data_start_));
  tensors_ = std::move(header.tensors);
  metadata_ = std::move(header.metadata);
  for (size_t i = 0; i < tensors_.size(); ++i) {
    index_.emplace(tensors_[i].name, i);
  }
  return absl::OkStatus();
}

const TensorInfo* SafetensorsFile::Find(absl::string_view name) const {
  auto it = index_.find(name);
  return it == index_.end() ? nullptr : &tensors_[it->second];
}

absl::StatusOr<const TensorInfo*> SafetensorsFile::Require(
    absl::string_view name) const {
  const TensorInfo* info = Find(name);
  if (info != nullptr) return info;
  return absl::NotFoundError(absl::StrCat(path_, " has no tensor ", name));
}

absl::string_view SafetensorsFile::Data(const TensorInfo& info) const {
  return data_.substr(data_start_ + info.begin, info.num_bytes());
}

absl::StatusOr<std::vector<float>> SafetensorsFile::ReadFloats(
    absl::string_view name, absl::Span<const int64_t> shape) const {
  BW_ASSIGN_OR_RETURN(const TensorInfo* info, Require(name));
  if (absl::MakeConstSpan(info->shape) != shape) {
    return absl::InvalidArgumentError(absl::StrCat(
        path_, ": tensor ", name, " has the shape ", ShapeString(info->shape),
        "; expected ", ShapeString(shape)));
  }
  std::vector<float> values(info->num_elements());
  BW_RETURN_IF_ERROR(
      Annotate(ToFloats(info->dtype, Data(*info), absl::MakeSpan(values)),
               absl::StrCat(path_, ": tensor ", name)));
  return values;
}

absl::StatusOr<std::vector<int64_t>> SafetensorsFile::ReadIntegers(
    absl::string_view name) const {
  BW_ASSIGN_OR_RETURN(const TensorInfo* info, Require(name));
  std::vector<int64_t> values(info->num_elements());
  absl::string_view bytes = Data(*info);
  switch (info->dtype) {
    case DType::kU8:
      Widen<uint8_t>(bytes, &values);
      break;
    case DType::kU16:
      Widen<uint16_t>(bytes, &values);
      break;
    case DType::kU32:
      Widen<uint32_t>(bytes, &values);
      break;
    case DType::kI32:
      Widen<int32_t>(bytes, &values);
      break;
    case DType::kI64:
      Widen<int64_t>(bytes, &values);
      break;
    default:
      return absl::InvalidArgumentError(absl::StrCat(
          path_, ": tensor ", name, " has the dtype ", DTypeName(info->dtype),
          "; expected one of I32, I64, U8, U16, U32"));
  }
  return values;
}

void SafetensorsFile::Drop(const TensorInfo& info) const {
  if (mapped_ != nullptr) {
    mapped_->DropPages(data_start_ + info.begin, info.num_bytes());
  }
}

}  // namespace bitwright
