#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/checkpoint/safetensors.h"
#include "common/checkpoint/safetensors_header.h"

namespace bitwright {

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    const std::string& path, std::vector<TensorSpec> specs,
    const std::map<std::string, std::string>& metadata) {
  std::vector<TensorInfo> tensors;
  absl::flat_hash_set<std::string> names;
  uint64_t position = 0;
  for (TensorSpec& spec : specs) {
    auto error = [&](absl::string_view what) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": tensor ", spec.name, " ", what));
    };
    auto bytes = CheckedBytes(spec.shape, SizeOf(spec.dtype));
    if (!bytes.ok()) return error(bytes.status().message());
    if (!names.insert(spec.name).second) return error("is given twice");
    tensors.push_back({std::move(spec.name), spec.dtype, std::move(spec.shape),
                       position, position + *bytes});
    position += *bytes;
  }
  BW_ASSIGN_OR_RETURN(auto file, FileWriter::Create(path));
  std::string header = FormatSafetensorsHeader(tensors, metadata);
  const uint64_t expected = header.size() + position;
  std::unique_ptr<SafetensorsWriter> writer(
      new SafetensorsWriter(path, std::move(file), expected));
  BW_RETURN_IF_ERROR(writer->Append(header));
  return writer;
}

absl::Status SafetensorsWriter::Append(absl::string_view bytes) {
  if (bytes.size() > expected_ - file_->size()) {
    return absl::FailedPreconditionError(
        absl::StrCat(path_, ": more bytes than the header announces"));
  }
  hasher_.Update(bytes);
  return file_->Append(bytes);
}

absl::Status SafetensorsWriter::Close() {
  if (file_->size() != expected_) {
    return absl::FailedPreconditionError(
        absl::StrCat(path_, ": ", file_->size(), " bytes came of the ",
                     expected_, " that the header announces"));
  }
  digest_ = hasher_.Finish();
  return file_->Close();
}

Tensor FloatTensor(std::string name, std::vector<int64_t> shape,
                   absl::Span<const float> values) {
  return {{std::move(name), DType::kF32, std::move(shape)},
          std::string(reinterpret_cast<const char*>(values.data()),
                      values.size() * sizeof(float))};
}

std::string SerializeSafetensors(
    absl::Span<const Tensor> tensors,
    const std::map<std::string, std::string>& metadata) {
  std::vector<TensorInfo> infos;
  uint64_t position = 0;
  for (const Tensor& tensor : tensors) {
    infos.push_back({tensor.spec.name, tensor.spec.dtype, tensor.spec.shape,
                     position, position + tensor.bytes.size()});
    position += tensor.bytes.size();
  }
  std::string file = FormatSafetensorsHeader(infos, metadata);
  file.reserve(file.size() + position);
  for (const Tensor& tensor : tensors) file += tensor.bytes;
  return file;
}

}  // namespace bitwright
