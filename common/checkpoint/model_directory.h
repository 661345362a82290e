// A Hugging Face model directory, opened and checked, read tensor by tensor.
//
//   BW_ASSIGN_OR_RETURN(auto model, ModelDirectory::Open("/models/llama"));
//   std::vector<float> w;
//   BW_ASSIGN_OR_RETURN(w, model->ReadFloats("model.norm.weight"));
//
// The directory may hold an original model, a dense checkpoint or a native
// one (formats.md): in a native one "P.weight" of a quantized linear P reads as
// its decoded values, rounded to the source model's dtype. Open checks
// everything that headers can tell: file set and index, every expected tensor
// present once with the right shape, nothing unexpected. Errors name file and
// tensor; `.bin`-only directories are refused with a hint.
#ifndef BITWRIGHT_COMMON_CHECKPOINT_MODEL_DIRECTORY_H_
#define BITWRIGHT_COMMON_CHECKPOINT_MODEL_DIRECTORY_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/checkpoint/model_config.h"
#include "common/checkpoint/native.h"
#include "common/checkpoint/safetensors.h"

namespace bitwright {

// Thread-safe once open.
class ModelDirectory {
 public:
  static absl::StatusOr<std::unique_ptr<ModelDirectory>> Open(
      const std::string& path);

  const std::string& path() const { return path_; }
  const ModelConfig& config() const { return config_; }
  const std::string& config_json() const { return config_json_; }
  bool is_native() const { return native_; }
  // Native: columns a group of every quantized linear; 0: one group.
  int64_t group_size() const { return group_size_; }

  // Tensors as stored, in file order; in a native directory the components
  // ("P.weight_codes", ...) too.
  struct StoredTensor {
    const SafetensorsFile* file;
    const TensorInfo* info;
  };
  const std::vector<StoredTensor>& stored() const { return stored_; }
  // NOT_FOUND names it.
  absl::StatusOr<StoredTensor> Stored(absl::string_view name) const;

  bool Has(absl::string_view name) const;  // Logical names, e.g. "P.weight".
  absl::StatusOr<std::vector<int64_t>> Shape(absl::string_view name) const;
  // Decoded to float, row by row; INVALID_ARGUMENT names file, tensor and the
  // first place if it holds NaN or infinity. Its mapped pages are let go.
  absl::StatusOr<std::vector<float>> ReadFloats(absl::string_view name) const;
  // What a dense checkpoint stores `name` in: its dtype in the file, or, for a
  // quantized linear's weight, that of the model it was made from.
  absl::StatusOr<DType> WeightDType(absl::string_view name) const;
  // Whether `prefix` is a linear in quantized form.
  bool IsQuantized(absl::string_view prefix) const;
  // Native directories: the quantized form of linear `prefix`. NOT_FOUND if it
  // is not quantized.
  absl::StatusOr<QuantizedLinear> ReadQuantized(absl::string_view prefix) const;

  // Names, relative to path(), of the files that make up the model: config,
  // weights, index, tokenizer and generation files. Sorted.
  const std::vector<std::string>& files() const { return files_; }
  // Those of files() that every checkpoint takes along as they are: tokenizer,
  // generation settings, licences.
  const std::vector<std::string>& companions() const { return companions_; }

 private:
  ModelDirectory() = default;
  struct Quantization {  // config.json's quantization_config, if native.
    DType dtype = DType::kF16;
    absl::flat_hash_map<std::string, DType> exceptions;
    // Of linears with weight_row_bits, whose tensors do not tell it.
    absl::flat_hash_map<std::string, int64_t> columns;
  };

  absl::Status Load();
  absl::Status LoadConfig();
  absl::Status LoadWeights();
  absl::Status LoadShards(const std::string& index_name);
  absl::Status AddFile(const std::string& name);
  absl::Status CheckTensors() const;
  absl::Status CheckTensor(const ExpectedTensor& expected) const;
  absl::Status CheckNative(const ExpectedTensor& expected,
                           absl::string_view prefix) const;
  absl::Status CheckNothingElse() const;
  // What the codes of the quantized linear `prefix` go along.
  absl::StatusOr<CodeRuns> RunsOf(absl::string_view prefix) const;
  // The shape of linear `prefix` in quantized form: [rows, cols].
  absl::StatusOr<std::vector<int64_t>> QuantizedShape(
      absl::string_view prefix) const;

  std::string path_;
  std::string config_json_;
  ModelConfig config_;
  bool native_ = false;
  int64_t group_size_ = 0;
  Quantization quantization_;
  std::vector<std::unique_ptr<SafetensorsFile>> weights_;
  std::vector<StoredTensor> stored_;
  absl::flat_hash_map<std::string, size_t> index_;
  std::vector<std::string> files_, companions_;
};

}  // namespace bitwright

#endif  // BITWRIGHT_COMMON_CHECKPOINT_MODEL_DIRECTORY_H_
