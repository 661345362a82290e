// Safetensors files, read strictly and written as a stream.
//
//   BW_ASSIGN_OR_RETURN(auto file, SafetensorsFile::Open("model.safetensors"));
//   const TensorInfo* info = file->Find("lm_head.weight");
//   absl::string_view bytes = file->Data(*info);   // Mapped, not copied.
//
// Every rule of formats.md "In" is enforced on open: header length, JSON
// object, known dtypes, offsets in bounds, contiguous, without overlap or hole,
// shape times dtype equal to the span, no duplicate key. A violation is
// INVALID_ARGUMENT and names the file and the tensor.
#ifndef BITWRIGHT_COMMON_CHECKPOINT_SAFETENSORS_H_
#define BITWRIGHT_COMMON_CHECKPOINT_SAFETENSORS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/base/digest.h"
#include "common/base/file.h"
#include "common/checkpoint/dtype.h"

namespace bitwright {

struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // Offsets in the file's data section, in bytes.
  uint64_t end = 0;

  int64_t num_elements() const;
  uint64_t num_bytes() const { return end - begin; }
};

std::string ShapeString(absl::Span<const int64_t> shape);  // "[3, 4]".

// Thread-safe once open.
class SafetensorsFile {
 public:
  // Maps `path`.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(
      const std::string& path);
  // Owns `bytes`; `name` stands for the path in errors.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Parse(
      std::string bytes, std::string name);

  // In the order of their data.
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const {
    return metadata_;
  }
  const std::string& path() const { return path_; }

  const TensorInfo* Find(absl::string_view name) const;  // Null if absent.
  // NOT_FOUND names file and tensor.
  absl::StatusOr<const TensorInfo*> Require(absl::string_view name) const;
  absl::string_view Data(const TensorInfo& info) const;
  // The tensor as float, any floating-point dtype; INVALID_ARGUMENT unless its
  // shape is `shape`.
  absl::StatusOr<std::vector<float>> ReadFloats(
      absl::string_view name, absl::Span<const int64_t> shape) const;
  // Integer tensors (I32, I64, U8, U16, U32) as int64.
  absl::StatusOr<std::vector<int64_t>> ReadIntegers(
      absl::string_view name) const;
  // Lets the kernel drop the tensor's pages (mapped files only).
  void Drop(const TensorInfo& info) const;

 private:
  SafetensorsFile() = default;
  absl::Status ParseHeader();

  std::string path_;
  std::unique_ptr<MappedFile> mapped_;
  std::string owned_;
  absl::string_view data_;  // The whole file.
  uint64_t data_start_ = 0;
  std::vector<TensorInfo> tensors_;
  absl::flat_hash_map<std::string, size_t> index_;
  std::map<std::string, std::string> metadata_;
};

// What a writer must know of a tensor before its bytes come.
struct TensorSpec {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
};

// Streams a file: the header first, then each tensor's bytes in the order of
// `specs`, in any number of pieces. Never holds more than a piece.
class SafetensorsWriter {
 public:
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(
      const std::string& path, std::vector<TensorSpec> specs,
      const std::map<std::string, std::string>& metadata);
  absl::Status Append(absl::string_view bytes);
  // FAILED_PRECONDITION unless exactly all bytes came. Syncs.
  absl::Status Close();
  // Of the whole file, as it was meant to be. Valid once Close has succeeded.
  const Digest& digest() const { return digest_; }

 private:
  SafetensorsWriter(std::string path, std::unique_ptr<FileWriter> file,
                    uint64_t expected)
      : path_(std::move(path)), file_(std::move(file)), expected_(expected) {}
  std::string path_;
  std::unique_ptr<FileWriter> file_;
  uint64_t expected_;
  Hasher hasher_;
  Digest digest_;
};

// A small file in memory, e.g. a blob. Tensors keep their order.
struct Tensor {
  TensorSpec spec;
  std::string bytes;
};
Tensor FloatTensor(std::string name, std::vector<int64_t> shape,
                   absl::Span<const float> values);
std::string SerializeSafetensors(
    absl::Span<const Tensor> tensors,
    const std::map<std::string, std::string>& metadata = {});

}  // namespace bitwright

#endif  // BITWRIGHT_COMMON_CHECKPOINT_SAFETENSORS_H_
