#include "worker/runtime/quantize_layer.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/exit_code.h"
#include "common/base/file.h"
#include "common/base/status_macros.h"
#include "common/checkpoint/safetensors.h"
#include "nlohmann/json.hpp"
#include "worker/quant/parallel.h"
#include "worker/quant/quantizer.h"

namespace bitwright {
namespace {

struct Flags {
  std::string input, output;
  std::string method = "baq", variant = "exact", budget = "file";
  quant::QuantizeOptions options;
  int threads = 0;
  bool json = false;
};

void AddFlags(CLI::App& app, Flags& flags) {
  quant::QuantizeOptions& o = flags.options;
  o.f16_ranges = false;
  app.option_defaults()->always_capture_default();
  app.add_option("input", flags.input,
                 "Safetensors file with `weight` [R, C] and `hessian` [C, C]")
      ->required();
  app.add_option("-o,--output", flags.output, "Safetensors file to write")
      ->required();
  app.add_option("--method", flags.method, "rtn, gptq or baq");
  app.add_option("--variant", flags.variant, "exact or reference (baq)");
  app.add_option("--bits", o.bits,
                 "Bits per weight, 1 to 8 (baq exact: above 0)");
  app.add_option("--budget", flags.budget,
                 "What --bits counts: file or codes (baq exact)");
  app.add_option("--damping", o.damping, "Damping");
  app.add_option("--refine", o.refine_sweeps,
                 "Sweeps of coordinate descent after feedback [baq exact: 1, "
                 "others: 0]")
      ->check(CLI::Range(0, 100));
  app.add_option("--group-size", o.group_size,
                 "Columns per range; 0: one range per row");
  app.add_flag("--sym", o.symmetric, "Symmetric ranges");
  app.add_flag("--mse-clip", o.mse_clip, "Search the range for least error");
  app.add_flag("--act-order", o.act_order,
               "Take columns by descending Hessian diagonal");
  app.add_flag("--f16-ranges", o.f16_ranges,
               "Round ranges to F16 first, as checkpoints store them");
  app.add_option("--threads", flags.threads, "0: one per core")
      ->check(CLI::Range(0, 4096));
  app.add_flag("--json", flags.json, "Print one JSON object");
}

absl::StatusOr<quant::QuantizedResult> ReadAndQuantize(
    const Flags& flags, std::vector<float>* dequantized) {
  quant::QuantizeOptions options = flags.options;
  BW_ASSIGN_OR_RETURN(options.method, quant::ParseMethod(flags.method));
  BW_ASSIGN_OR_RETURN(options.variant, quant::ParseBaqVariant(flags.variant));
  BW_ASSIGN_OR_RETURN(options.budget, quant::ParseBudget(flags.budget));
  std::error_code ignored;
  if (std::filesystem::equivalent(flags.input, flags.output, ignored)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "-o ", flags.output, " is the input itself; give another file"));
  }
  BW_ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file,
                      SafetensorsFile::Open(flags.input));
  BW_ASSIGN_OR_RETURN(const TensorInfo* info, file->Require("weight"));
  if (info->shape.size() != 2) {
    return absl::InvalidArgumentError(
        absl::StrCat(flags.input, ": weight must be a matrix [R, C], not ",
                     ShapeString(info->shape)));
  }
  const int64_t rows = info->shape[0], columns = info->shape[1];
  BW_ASSIGN_OR_RETURN(std::vector<float> weight,
                      file->ReadFloats("weight", {rows, columns}));
  std::vector<float> hessian;
  if (options.method != quant::Method::kRtn ||
      file->Find("hessian") != nullptr) {
    BW_ASSIGN_OR_RETURN(hessian,
                        file->ReadFloats("hessian", {columns, columns}));
  }
  absl::StatusOr<quant::QuantizedResult> result =
      quant::QuantizeLinear({.weight = weight.data(),
                             .rows = rows,
                             .columns = columns,
                             .hessian = hessian},
                            options);
  if (!result.ok()) return Annotate(result.status(), flags.input);
  *dequantized = quant::DequantizeResult(*result);
  return result;
}

template <typename T>
Tensor RawTensor(std::string name, DType dtype, std::vector<int64_t> shape,
                 const std::vector<T>& values) {
  Tensor tensor;
  tensor.spec = {std::move(name), dtype, std::move(shape)};
  tensor.bytes.resize(values.size() * sizeof(T));
  std::memcpy(tensor.bytes.data(), values.data(), tensor.bytes.size());
  return tensor;
}

absl::Status Write(const Flags& flags, const quant::QuantizedResult& q,
                   const std::vector<float>& dequantized) {
  const std::vector<Tensor> tensors{
      FloatTensor("dequantized", {q.rows, q.columns}, dequantized),
      RawTensor("levels", DType::kU16, {q.columns}, q.levels),
      RawTensor("column_loss", DType::kF64, {q.columns}, q.column_loss)};
  std::map<std::string, std::string> metadata{
      {"method", flags.method},
      {"bits", absl::StrFormat("%.17g", flags.options.bits)},
      {"loss", absl::StrFormat("%.17g", q.loss)},
      {"code_bits_per_weight", absl::StrFormat("%.17g", q.code_bits)},
      {"file_bits_per_weight", absl::StrFormat("%.17g", q.file_bits)}};
  if (flags.method == "baq") {
    metadata["variant"] = flags.variant;
    metadata["loss_uniform"] = absl::StrFormat("%.17g", q.uniform_loss);
    metadata["gm_over_am"] = absl::StrFormat("%.17g", q.gm_over_am);
  }
  return WriteFileAtomically(flags.output,
                             SerializeSafetensors(tensors, metadata));
}

std::string Json(const Flags& flags, const quant::QuantizedResult& q) {
  nlohmann::ordered_json out;
  out["method"] = flags.method;
  out["rows"] = q.rows;
  out["columns"] = q.columns;
  out["loss"] = q.loss;
  if (flags.method == "baq") {
    out["variant"] = flags.variant;
    out["uniform_loss"] = q.uniform_loss;
    out["gm_over_am"] = q.gm_over_am;
  }
  out["bits_per_weight"] = {{"codes", q.code_bits}, {"file", q.file_bits}};
  out["damping"] = {{"value", q.factor.damping},
                    {"attempts", q.factor.attempts},
                    {"diagonal_fallback", q.factor.diagonal_fallback},
                    {"dead_columns", q.factor.dead_columns}};
  out["seconds"] = {{"factor", q.seconds.factor},
                    {"quantize", q.seconds.quantize},
                    {"allocate", q.seconds.allocate},
                    {"evaluate", q.seconds.evaluate}};
  return out.dump();
}

void PrintTable(const Flags& flags, const quant::QuantizedResult& q) {
  absl::PrintF("%-18s [%d, %d]\n", "layer", q.rows, q.columns);
  absl::PrintF("%-18s %s%s\n", "method", flags.method,
               flags.method == "baq" ? absl::StrCat(" ", flags.variant) : "");
  absl::PrintF("%-18s %.6g\n", "loss", q.loss);
  if (flags.method == "baq") {
    absl::PrintF("%-18s %.6g\n", "uniform loss", q.uniform_loss);
    absl::PrintF("%-18s %.4f\n", "GM/AM", q.gm_over_am);
  }
  absl::PrintF("%-18s %.4f codes, %.4f file\n", "bits per weight", q.code_bits,
               q.file_bits);
  if (q.factor.attempts > 0) {
    absl::PrintF("%-18s %g after %d attempt(s)%s, %d dead column(s)\n",
                 "damping", q.factor.damping, q.factor.attempts,
                 q.factor.diagonal_fallback ? ", fell back to diag(H)" : "",
                 q.factor.dead_columns);
  }
  absl::PrintF("%-18s %.3f factor, %.3f quantize, %.3f allocate\n", "seconds",
               q.seconds.factor, q.seconds.quantize, q.seconds.allocate);
}

}  // namespace

int QuantizeLayerCommand(int argc, char** argv) {
  Flags flags;
  CLI::App app("Quantize one linear from its weight and Hessian.",
               "bitwright-worker quantize-layer");
  AddFlags(app, flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? kExitDone : kExitBadInput;
  }
  quant::SetThreads(flags.threads);
  std::vector<float> dequantized;
  const absl::StatusOr<quant::QuantizedResult> result =
      ReadAndQuantize(flags, &dequantized);
  absl::Status status = result.status();
  if (status.ok()) status = Write(flags, *result, dequantized);
  if (!status.ok()) {
    absl::FPrintF(stderr, "quantize-layer: %s\n", status.message());
    return ExitCodeFor(status);
  }
  if (flags.json) {
    absl::PrintF("%s\n", Json(flags, *result));
  } else {
    PrintTable(flags, *result);
  }
  return kExitDone;
}

}  // namespace bitwright
