// WriteCheckpoint and ExportDense.
//
// Safetensors headers come before the data and so need every size, but a packed
// linear's size is only known once it is there. Native checkpoints are
// therefore written in two steps: each quantized linear is asked for once and
// put into a spool file; then the shards are laid out and streamed, from the
// source and from the spool.
#include "common/checkpoint/checkpoint_writer.h"

#include <unistd.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "common/base/digest.h"
#include "common/base/file.h"
#include "common/base/status_macros.h"
#include "common/checkpoint/finite.h"
#include "common/checkpoint/json_util.h"
#include "common/checkpoint/lineage_file.h"
#include "common/checkpoint/safetensors_header.h"

namespace bitwright {
namespace {

using nlohmann::ordered_json;

constexpr size_t kCopyPiece = 8 << 20;

// One tensor of the checkpoint, and where its bytes come from.
struct Piece {
  TensorSpec spec;
  std::optional<ModelDirectory::StoredTensor> stored;  // Copied unchanged.
  std::string linear;         // Else: this linear's weight, decoded,
  bool spooled = false;       // or bytes of the spool file
  uint64_t spool_offset = 0;  // from here on.

  uint64_t bytes() const {
    return CheckedBytes(spec.shape, SizeOf(spec.dtype)).value_or(0);
  }
};

class Writer {
 public:
  Writer(const ModelDirectory& source, const std::vector<std::string>& linears,
         const LinearProvider& provider, const CheckpointOptions& options,
         const std::string& directory)
      : source_(source),
        quantized_(linears.begin(), linears.end()),
        provider_(provider),
        options_(options),
        directory_(directory) {}

  absl::Status Run() {
    BW_RETURN_IF_ERROR(CheckRequest());
    BW_RETURN_IF_ERROR(MakePieces());
    BW_RETURN_IF_ERROR(WriteShards());
    BW_RETURN_IF_ERROR(WriteConfig());
    BW_RETURN_IF_ERROR(CopyCompanions());
    BW_ASSIGN_OR_RETURN(std::string lineage,
                        FormatLineage(options_, totals_, files_));
    return WriteSmallFile(kLineageFile, lineage);
  }

 private:
  std::string PathOf(absl::string_view name) const {
    return absl::StrCat(directory_, "/", name);
  }
  std::string SpoolPath() const { return PathOf(".quantized.spool"); }

  absl::Status CheckRequest() const;
  absl::Status MakePieces();
  absl::Status AddQuantized(const std::string& linear, FileWriter* spool);
  absl::StatusOr<QuantizedLinear> Provide(const std::string& linear);
  std::vector<std::vector<Piece>> LayOut();
  absl::Status WriteShards();
  absl::Status WriteShard(const std::string& name,
                          const std::vector<Piece>& pieces,
                          const MappedFile* spool);
  absl::Status WritePiece(const Piece& piece, const MappedFile* spool,
                          SafetensorsWriter* writer);
  absl::Status WriteConfig();
  absl::Status CopyCompanions();
  absl::Status WriteSmallFile(const std::string& name, absl::string_view text);

  const ModelDirectory& source_;
  const absl::flat_hash_set<std::string> quantized_;
  const LinearProvider& provider_;
  const CheckpointOptions& options_;
  const std::string directory_;

  std::vector<Piece> pieces_;
  // Columns of the linears with bits by rows, whose tensors do not tell them.
  std::map<std::string, int64_t> row_bits_columns_;
  CheckpointTotals totals_;
  std::map<std::string, Digest> files_;
};

absl::Status Writer::CheckRequest() const {
  if (source_.is_native() && options_.format == CheckpointFormat::kNative) {
    return absl::InvalidArgumentError(absl::StrCat(
        source_.path(), " is quantized already; quantize the original model"));
  }
  if (options_.max_shard_bytes == 0 || options_.group_size < 0) {
    return absl::InvalidArgumentError(
        "max_shard_bytes must be positive and group_size 0 or more");
  }
  for (const std::string& linear : quantized_) {
    const std::string name = linear + ".weight";
    BW_ASSIGN_OR_RETURN(std::vector<int64_t> shape, source_.Shape(name));
    if (shape.size() != 2) {
      return absl::InvalidArgumentError(absl::StrCat(
          name, " ", ShapeString(shape), " is not the weight of a linear"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<QuantizedLinear> Writer::Provide(const std::string& linear) {
  auto result = provider_(linear);
  BW_RETURN_IF_ERROR(Annotate(result.status(), linear));
  BW_ASSIGN_OR_RETURN(std::vector<int64_t> shape,
                      source_.Shape(linear + ".weight"));
  QuantizedLinear expected;
  expected.cols = shape[1];
  expected.group_size = options_.group_size;
  if (result->rows != shape[0] || result->cols != shape[1] ||
      result->groups() != expected.groups()) {
    return absl::InvalidArgumentError(absl::StrCat(
        linear, " was quantized as [", result->rows, ", ", result->cols,
        "] with ", result->groups(), " groups; expected ", ShapeString(shape),
        " with ", expected.groups()));
  }
  return result;
}

// Canonical order: that of the model, whatever the order of the source's files.
absl::Status Writer::MakePieces() {
  std::unique_ptr<FileWriter> spool;
  if (options_.format == CheckpointFormat::kNative) {
    BW_ASSIGN_OR_RETURN(spool, FileWriter::Create(SpoolPath()));
  }
  for (const ExpectedTensor& expected : ExpectedTensors(source_.config())) {
    if (!source_.Has(expected.name)) continue;
    std::string linear(absl::StripSuffix(expected.name, ".weight"));
    if (linear != expected.name && quantized_.contains(linear)) {
      BW_RETURN_IF_ERROR(AddQuantized(linear, spool.get()));
      continue;
    }
    BW_ASSIGN_OR_RETURN(ModelDirectory::StoredTensor stored,
                        source_.Stored(expected.name));
    Piece piece;
    piece.spec = {stored.info->name, stored.info->dtype, stored.info->shape};
    piece.stored = stored;
    totals_.other_weights += stored.info->num_elements();
    pieces_.push_back(std::move(piece));
  }
  return absl::OkStatus();
}

absl::Status Writer::AddQuantized(const std::string& linear,
                                  FileWriter* spool) {
  const std::string name = linear + ".weight";
  if (spool == nullptr) {
    Piece piece;
    BW_ASSIGN_OR_RETURN(std::vector<int64_t> shape, source_.Shape(name));
    BW_ASSIGN_OR_RETURN(DType dtype, source_.WeightDType(name));
    piece.spec = {name, dtype, std::move(shape)};
    piece.linear = linear;
    pieces_.push_back(std::move(piece));
    return absl::OkStatus();
  }
  BW_ASSIGN_OR_RETURN(QuantizedLinear quantized, Provide(linear));
  totals_.Add(quantized);
  if (quantized.runs() == CodeRuns::kRows) {
    row_bits_columns_[linear] = quantized.cols;
  }
  for (Tensor& tensor : ToTensors(quantized, linear)) {
    Piece piece;
    piece.spec = std::move(tensor.spec);
    piece.spooled = true;
    piece.spool_offset = spool->size();
    if (piece.bytes() != tensor.bytes.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat(piece.spec.name, " has ", tensor.bytes.size(),
                       " bytes; its shape takes ", piece.bytes()));
    }
    BW_RETURN_IF_ERROR(spool->Append(tensor.bytes));
    pieces_.push_back(std::move(piece));
  }
  return absl::OkStatus();
}

// Shards in model order; within one, larger elements first, so that every
// tensor is aligned to its element size as some readers need.
std::vector<std::vector<Piece>> Writer::LayOut() {
  constexpr uint64_t kHeaderEntry = 160;  // About, without the name.
  std::vector<std::vector<Piece>> shards;
  uint64_t used = 0;
  for (Piece& piece : pieces_) {
    const uint64_t bytes =
        piece.bytes() + kHeaderEntry + piece.spec.name.size();
    if (shards.empty() || used + bytes > options_.max_shard_bytes) {
      shards.emplace_back();
      used = 0;
    }
    used += bytes;
    shards.back().push_back(std::move(piece));
  }
  pieces_.clear();
  for (std::vector<Piece>& shard : shards) {
    std::stable_sort(shard.begin(), shard.end(),
                     [](const Piece& a, const Piece& b) {
                       return SizeOf(a.spec.dtype) > SizeOf(b.spec.dtype);
                     });
  }
  return shards;
}

absl::Status Writer::WriteShards() {
  std::unique_ptr<MappedFile> spool;
  if (options_.format == CheckpointFormat::kNative) {
    BW_ASSIGN_OR_RETURN(spool, MappedFile::Open(SpoolPath()));
    unlink(SpoolPath().c_str());
  }
  const std::vector<std::vector<Piece>> shards = LayOut();
  std::map<std::string, std::string> weight_map;
  uint64_t total_size = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name =
        shards.size() == 1 ? "model.safetensors"
                           : absl::StrFormat("model-%05d-of-%05d.safetensors",
                                             i + 1, shards.size());
    BW_RETURN_IF_ERROR(WriteShard(name, shards[i], spool.get()));
    for (const Piece& piece : shards[i]) {
      weight_map[piece.spec.name] = name;
      total_size += piece.bytes();
    }
  }
  if (shards.size() == 1) return absl::OkStatus();
  ordered_json index;
  index["metadata"] = {{"total_size", total_size}};
  index["weight_map"] = weight_map;
  return WriteSmallFile("model.safetensors.index.json", DumpJson(index));
}

absl::Status Writer::WriteShard(const std::string& name,
                                const std::vector<Piece>& pieces,
                                const MappedFile* spool) {
  std::vector<TensorSpec> specs;
  for (const Piece& piece : pieces) specs.push_back(piece.spec);
  // Transformers refuses files without this entry.
  BW_ASSIGN_OR_RETURN(auto writer,
                      SafetensorsWriter::Create(PathOf(name), std::move(specs),
                                                {{"format", "pt"}}));
  for (const Piece& piece : pieces) {
    BW_RETURN_IF_ERROR(WritePiece(piece, spool, writer.get()));
  }
  BW_RETURN_IF_ERROR(writer->Close());
  files_[name] = writer->digest();
  return absl::OkStatus();
}

absl::Status Writer::WritePiece(const Piece& piece, const MappedFile* spool,
                                SafetensorsWriter* writer) {
  if (piece.stored.has_value()) {
    const SafetensorsFile& file = *piece.stored->file;
    const TensorInfo& info = *piece.stored->info;
    BW_RETURN_IF_ERROR(CheckFiniteTensor(file, info));
    absl::string_view data = file.Data(info);
    for (size_t at = 0; at < data.size(); at += kCopyPiece) {
      BW_RETURN_IF_ERROR(writer->Append(data.substr(at, kCopyPiece)));
    }
    file.Drop(info);
    return absl::OkStatus();
  }
  if (piece.spooled) {
    BW_RETURN_IF_ERROR(writer->Append(
        spool->data().substr(piece.spool_offset, piece.bytes())));
    spool->DropPages(piece.spool_offset, piece.bytes());
    return absl::OkStatus();
  }
  BW_ASSIGN_OR_RETURN(QuantizedLinear linear, Provide(piece.linear));
  totals_.Add(linear);
  auto weight = Dequantize(linear);
  BW_RETURN_IF_ERROR(Annotate(weight.status(), piece.linear));
  std::string bytes;
  BW_RETURN_IF_ERROR(Annotate(AppendFloats(piece.spec.dtype, *weight, &bytes),
                              piece.spec.name));
  return writer->Append(bytes);
}

absl::Status Writer::WriteConfig() {
  BW_ASSIGN_OR_RETURN(
      ordered_json json,
      ParseJsonObject(source_.config_json(), source_.path() + "/config.json"));
  json.erase("quantization_config");
  if (options_.format == CheckpointFormat::kNative) {
    std::map<std::string, DType> dtypes;
    std::map<DType, int> uses;
    for (const std::string& linear : quantized_) {
      BW_ASSIGN_OR_RETURN(DType dtype, source_.WeightDType(linear + ".weight"));
      dtypes[linear] = dtype;
      ++uses[dtype];
    }
    DType common = DType::kF16;
    for (const auto& [dtype, count] : uses) {
      if (count > uses[common]) common = dtype;
    }
    ordered_json exceptions = ordered_json::object();
    for (const auto& [linear, dtype] : dtypes) {
      if (dtype != common) exceptions[linear] = std::string(DTypeName(dtype));
    }
    ordered_json& config = json["quantization_config"];
    config["quant_method"] = "bitwright";
    config["format_version"] = 1;
    config["method"] = options_.method;
    config["group_size"] = options_.group_size;
    // The source's, which a dense export returns to.
    config["weight_dtype"] = std::string(DTypeName(common));
    if (!exceptions.empty()) config["weight_dtypes"] = exceptions;
    if (!row_bits_columns_.empty()) {
      config["weight_columns"] = row_bits_columns_;
    }
  }
  return WriteSmallFile("config.json", DumpJson(json));
}

absl::Status Writer::CopyCompanions() {
  for (const std::string& name : source_.companions()) {
    BW_ASSIGN_OR_RETURN(
        auto file, MappedFile::Open(absl::StrCat(source_.path(), "/", name)));
    BW_RETURN_IF_ERROR(WriteSmallFile(name, file->data()));
  }
  return absl::OkStatus();
}

absl::Status Writer::WriteSmallFile(const std::string& name,
                                    absl::string_view text) {
  BW_ASSIGN_OR_RETURN(auto file, FileWriter::Create(PathOf(name)));
  BW_RETURN_IF_ERROR(file->Append(text));
  BW_RETURN_IF_ERROR(file->Close());
  files_[name] = DigestOf(text);
  return absl::OkStatus();
}

}  // namespace

absl::Status WriteCheckpoint(const ModelDirectory& source,
                             const std::vector<std::string>& quantized,
                             const LinearProvider& provider,
                             const CheckpointOptions& options,
                             const std::string& directory) {
  return Writer(source, quantized, provider, options, directory).Run();
}

absl::Status ExportDense(const std::string& native_directory,
                         const std::string& out) {
  BW_ASSIGN_OR_RETURN(auto source, ModelDirectory::Open(native_directory));
  if (!source->is_native()) {
    return absl::InvalidArgumentError(absl::StrCat(
        native_directory, " is not a native checkpoint: nothing to decode"));
  }
  BW_ASSIGN_OR_RETURN(ordered_json lineage, ReadLineage(native_directory));
  CheckpointOptions options;
  options.format = CheckpointFormat::kDense;
  options.group_size = source->group_size();
  options.method = JsonString(lineage, "method");
  options.lineage_json = CallerLineage(std::move(lineage)).dump();
  std::vector<std::string> linears;
  for (const ExpectedTensor& expected : ExpectedTensors(source->config())) {
    std::string linear(absl::StripSuffix(expected.name, ".weight"));
    if (source->IsQuantized(linear)) linears.push_back(std::move(linear));
  }
  return PublishDirectory(out, [&](const std::string& temporary) {
    BW_RETURN_IF_ERROR(WriteCheckpoint(
        *source, linears,
        [&](const std::string& name) { return source->ReadQuantized(name); },
        options, temporary));
    BW_ASSIGN_OR_RETURN(VerifyReport report, VerifyCheckpoint(temporary));
    if (report.problems.empty()) return absl::OkStatus();
    return absl::DataLossError(
        absl::StrCat(out, " does not read back as it was written: ",
                     absl::StrJoin(report.problems, "; ")));
  });
}

}  // namespace bitwright
