// One block of the shape of LLaMA-7B's, through the same code as the service:
// inputs from and to host memory, Hessians, every linear by BAQ, and the block
// once more with the quantized weights.
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/file.h"
#include "common/base/status_macros.h"
#include "common/checkpoint/model_config.h"
#include "common/checkpoint/model_directory.h"
#include "common/checkpoint/safetensors.h"
#include "tests/gpu/gpu_bench.h"
#include "worker/model/decoder_model.h"
#include "worker/quant/hessian.h"

namespace bitwright::gpu_bench {
namespace {

constexpr int64_t kSeqlen = 2048;
constexpr int kBlocksOf7B = 32;
constexpr char kConfig[] =
    "{\"model_type\": \"llama\", \"vocab_size\": 256, \"hidden_size\": 4096, "
    "\"num_hidden_layers\": 1, \"intermediate_size\": 11008, "
    "\"num_attention_heads\": 32, \"max_position_embeddings\": 2048, "
    "\"rms_norm_eps\": 1e-6}";

// A directory that goes when this does.
struct TemporaryDirectory {
  TemporaryDirectory() {
    std::string name =
        (std::filesystem::temp_directory_path() / "bitwright_block_XXXXXX")
            .string();
    const char* made = mkdtemp(name.data());
    if (made != nullptr) path = made;
  }
  ~TemporaryDirectory() {
    std::error_code error;
    if (!path.empty()) std::filesystem::remove_all(path, error);
  }
  std::string path;
};

// Random weights of the size that training leaves, norms of 1, in F16.
absl::Status WriteModel(const std::string& directory) {
  BW_RETURN_IF_ERROR(WriteFileAtomically(directory + "/config.json", kConfig));
  BW_ASSIGN_OR_RETURN(const ModelConfig config,
                      ParseModelConfig(kConfig, "config.json"));
  std::vector<TensorSpec> specs;
  for (const ExpectedTensor& tensor : ExpectedTensors(config)) {
    if (tensor.optional) continue;
    specs.push_back({tensor.name, DType::kF16, tensor.shape});
  }
  BW_ASSIGN_OR_RETURN(
      auto writer, SafetensorsWriter::Create(directory + "/model.safetensors",
                                             specs, {{"format", "pt"}}));
  std::mt19937 bits(13);
  for (const TensorSpec& spec : specs) {
    int64_t size = 1;
    for (int64_t d : spec.shape) size *= d;
    std::vector<uint16_t> values(size, 0x3C00);  // 1
    if (spec.shape.size() == 2) {
      for (uint16_t& v : values) {  // ±[0.0078, 0.031)
        const uint32_t b = bits();
        v = static_cast<uint16_t>((b & 0x8000) | 0x2000 | (b & 0x07FF));
      }
    }
    BW_RETURN_IF_ERROR(
        writer->Append({reinterpret_cast<const char*>(values.data()),
                        values.size() * sizeof(uint16_t)}));
  }
  return writer->Close();
}

model::HiddenStates RandomStates(int64_t sequences, int64_t width) {
  model::HiddenStates states{sequences, kSeqlen, width, {}};
  states.data.resize(sequences * kSeqlen * width);
  uint64_t state = 88172645463325252u;  // xorshift: 10^9 values
  for (float& v : states.data) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    v = static_cast<float>(static_cast<int32_t>(state >> 32)) * 0x1p-31f;
  }
  return states;
}

struct BlockSeconds {
  double hessians = 0;  // forward, and the sums
  double quantize = 0;
  double read = 0;     // weights from the checkpoint, for quantization
  double forward = 0;  // with the quantized weights
};

using Weights = std::map<std::string, std::vector<float>>;

absl::Status QuantizeBlock(const ModelDirectory& directory,
                           std::vector<model::HessianSum>& sums,
                           int64_t sequences, Weights* quantized,
                           BlockSeconds* seconds, std::FILE* out) {
  for (model::HessianSum& sum : sums) {
    for (float& h : sum.packed_lower) h *= 2.0f / static_cast<float>(sequences);
  }
  for (const LinearSpec& linear : BlockLinears(directory.config(), 0)) {
    const model::HessianSum* sum = nullptr;
    for (const model::HessianSum& s : sums) {
      if (s.group == linear.hessian_group) sum = &s;
    }
    if (sum == nullptr) {
      return absl::InternalError(absl::StrCat("no Hessian for ", linear.name));
    }
    double begin = Now();
    BW_ASSIGN_OR_RETURN(const std::vector<float> weight,
                        directory.ReadFloats(linear.name + ".weight"));
    seconds->read += Now() - begin;
    begin = Now();
    BW_ASSIGN_OR_RETURN(
        const LayerSeconds s,
        TimeLayer({weight.data(), linear.rows, linear.cols, &sum->packed_lower},
                  &(*quantized)[linear.name]));
    seconds->quantize += s.baq;
    absl::FPrintF(out, "| %s %d×%d | %.3f |\n", linear.name, linear.rows,
                  linear.cols, s.baq);
  }
  return absl::OkStatus();
}

// What one pass over the data cannot do without, by the rates measured here.
absl::Status Project(const ModelDirectory& directory, int64_t sequences,
                     const BlockSeconds& s, std::FILE* out) {
  constexpr int64_t kEdge = 8192;
  BW_ASSIGN_OR_RETURN(const double gemm, SgemmSeconds(kEdge, kEdge, kEdge));
  BW_ASSIGN_OR_RETURN(const double bfloat,
                      BfloatGemmSeconds(kEdge, kEdge, kEdge));
  BW_ASSIGN_OR_RETURN(const double copy, CopyRate());
  const double flops = 2.0 * kEdge * kEdge * kEdge;
  const double tokens = static_cast<double>(sequences * kSeqlen);
  const double width = static_cast<double>(directory.config().hidden_size);
  double forward = 2 * 2 * tokens * kSeqlen * width;  // scores and their use
  double hessian = 0, quantize = 0;
  std::map<std::string, double> groups;
  for (const LinearSpec& linear : BlockLinears(directory.config(), 0)) {
    const double r = static_cast<double>(linear.rows);
    const double c = static_cast<double>(linear.cols);
    forward += 2 * tokens * r * c;
    quantize += 3 * r * c * c + c * c * c / 3 + 3 * r * c * c;
    groups[linear.hessian_group] = c;
  }
  for (const auto& [name, c] : groups) hessian += tokens * c * (c + 1);
  const double total = s.hessians + s.read + s.quantize + s.forward;
  const double plain = (2 * forward + hessian + quantize) / flops * gemm;
  const double split =
      (2 * forward + quantize) / flops * gemm + 3 * hessian / flops * bfloat;
  absl::FPrintF(
      out,
      "\nRates measured here: SGEMM %.1f TFLOP/s, bf16 %.0f TFLOP/s, copies "
      "%.2f TB/s.\n\n| | one block, s | %d blocks, s |\n|---|---|---|\n"
      "| measured | %.2f | %.1f |\n"
      "| floor, all in float32 by SGEMM | %.2f | %.1f |\n"
      "| floor, Hessian in three bf16 products | %.2f | %.1f |\n"
      "| floor, forward passes in bf16 too | %.2f | %.1f |\n\n"
      "Flops of one block: forward %.3g (twice), Hessians %.3g, quantization "
      "%.3g. Bytes are no part of the floor: the states of one block once in "
      "and out are %.2f s of the device's memory.\n",
      flops / gemm / 1e12, flops / bfloat / 1e12, copy / 1e12, kBlocksOf7B,
      total, total * kBlocksOf7B, plain, plain * kBlocksOf7B, split,
      split * kBlocksOf7B,
      quantize / flops * gemm + (2 * forward + 3 * hessian) / flops * bfloat,
      (quantize / flops * gemm + (2 * forward + 3 * hessian) / flops * bfloat) *
          kBlocksOf7B,
      forward, hessian, quantize, 2 * tokens * width * 4 / copy);
  return absl::OkStatus();
}

}  // namespace

absl::Status BenchBlock(int64_t sequences, std::FILE* out) {
  const TemporaryDirectory directory;
  if (directory.path.empty()) {
    return absl::InternalError("no temporary directory can be made");
  }
  BW_RETURN_IF_ERROR(WriteModel(directory.path));
  BW_ASSIGN_OR_RETURN(auto checkpoint, ModelDirectory::Open(directory.path));
  BW_ASSIGN_OR_RETURN(auto model,
                      model::DecoderModel::Open(checkpoint.get(), "cuda"));
  absl::FPrintF(out,
                "## One block of LLaMA-7B's shape\n\nRandom weights, %d "
                "sequences of %d tokens, through the code of the service: "
                "hidden states from and to host memory.\n",
                sequences, kSeqlen);
  struct Precision {
    quant::CudaHessianMode hessians;
    model::CudaProducts products;
    const char* name;
  };
  for (const Precision& precision :
       {Precision{quant::CudaHessianMode::kFloat32,
                  model::CudaProducts::kFloat32, "All in float32"},
        Precision{quant::CudaHessianMode::kSplitBfloat16,
                  model::CudaProducts::kFloat32, "Hessians in split bf16"},
        Precision{quant::CudaHessianMode::kSplitBfloat16,
                  model::CudaProducts::kStored,
                  "Hessians in split bf16, linears in the model's float16"}}) {
    quant::SetCudaHessianMode(precision.hessians);
    model::SetCudaProducts(precision.products);
    absl::FPrintF(out, "\n### %s\n\n| phase | s |\n|---|---|\n",
                  precision.name);
    model::HiddenStates states =
        RandomStates(sequences, checkpoint->config().hidden_size);
    BlockSeconds seconds;
    double begin = Now();
    BW_ASSIGN_OR_RETURN(std::vector<model::HessianSum> sums,
                        model->BlockHessians(0, nullptr, states));
    seconds.hessians = Now() - begin;
    absl::FPrintF(out, "| forward and Hessians | %.3f |\n", seconds.hessians);
    Weights quantized;
    BW_RETURN_IF_ERROR(
        QuantizeBlock(*checkpoint, sums, sequences, &quantized, &seconds, out));
    absl::FPrintF(out, "| reading weights | %.3f |\n", seconds.read);
    begin = Now();
    BW_RETURN_IF_ERROR(model->RunBlock(
        0,
        [&](const std::string& name)
            -> absl::StatusOr<std::optional<std::vector<float>>> {
          return std::move(quantized.at(name));
        },
        &states, nullptr));
    seconds.forward = Now() - begin;
    absl::FPrintF(out, "| forward with quantized weights | %.3f |\n",
                  seconds.forward);
    BW_RETURN_IF_ERROR(Project(*checkpoint, sequences, seconds, out));
    std::fflush(out);
  }
  quant::SetCudaHessianMode(quant::CudaHessianMode::kFloat32);
  model::SetCudaProducts(model::CudaProducts::kFloat32);
  return absl::OkStatus();
}

}  // namespace bitwright::gpu_bench
