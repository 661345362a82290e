#include "client/cli/spec_options.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/cli/parse_enum.h"
#include "client/cli/ratio_options.h"
#include "common/base/status_macros.h"

namespace bitwright {
namespace {

namespace fs = std::filesystem;

absl::Status CheckReadableFile(absl::string_view flag,
                               const std::string& path) {
  std::error_code error;
  if (fs::is_regular_file(path, error)) return absl::OkStatus();
  return absl::NotFoundError(
      absl::StrCat(flag, ": ", path,
                   error ? absl::StrCat(": ", error.message())
                         : std::string(" is not a file")));
}

absl::Status CheckFiles(absl::string_view flag,
                        const std::vector<std::string>& paths) {
  for (const std::string& path : paths)
    BW_RETURN_IF_ERROR(CheckReadableFile(flag, path));
  return absl::OkStatus();
}

v1::BlobDigest BlobOf(const Digest& digest) {
  v1::BlobDigest proto;
  proto.set_sha256(digest.sha256);
  proto.set_size_bytes(static_cast<int64_t>(digest.size));
  return proto;
}

absl::Status FillSource(const std::vector<std::string>& texts,
                        const std::string& tokens, const Uploader& upload,
                        v1::TextSource* source) {
  for (size_t i = 0; i < texts.size(); ++i) {
    BW_ASSIGN_OR_RETURN(Digest digest, upload(texts[i]));
    v1::NamedBlob* blob = source->add_texts();
    blob->set_name(absl::StrFormat("text.%04d", i));
    *blob->mutable_digest() = BlobOf(digest);
  }
  if (!tokens.empty()) {
    BW_ASSIGN_OR_RETURN(Digest digest, upload(tokens));
    source->mutable_tokens()->set_name("tokens");
    *source->mutable_tokens()->mutable_digest() = BlobOf(digest);
  }
  return absl::OkStatus();
}

std::string CanonicalModelPath(const std::string& path) {
  std::error_code error;
  fs::path canonical = fs::canonical(path, error);
  return error ? path : canonical.string();
}

absl::Status FillEvaluation(const SpecOptions& options, const Uploader& upload,
                            v1::JobSpec* spec) {
  if (options.evaluation.empty() && options.evaluation_tokens.empty())
    return absl::OkStatus();
  v1::EvaluationSpec* evaluation = spec->mutable_evaluation();
  evaluation->set_seqlen(options.evaluation_seqlen);
  return FillSource(options.evaluation, options.evaluation_tokens, upload,
                    evaluation->mutable_source());
}

// Names, sizes and times of the model's files; empty if they are not here.
std::string ModelFingerprint(const std::string& path) {
  std::set<std::string> files;
  std::error_code error;
  for (fs::directory_iterator it(path, error), end; !error && it != end;
       it.increment(error)) {
    std::error_code ignored;
    files.insert(absl::StrCat(
        it->path().filename().string(), " ", it->file_size(ignored), " ",
        it->last_write_time(ignored).time_since_epoch().count()));
  }
  return absl::StrJoin(files, "\n");
}

void AddScopeOptions(CLI::Option_group* method, SpecOptions* options) {
  method
      ->add_option("--budget", options->budget,
                   "What --bits counts: file (all bytes stored) or codes (log2 "
                   "of the levels) [ratio: codes, others: file]")
      ->check(CLI::IsMember({"file", "codes"}));
  method
      ->add_option("--scope", options->scope,
                   "layer: --bits for every linear; model: one budget, spread "
                   "by what each linear does to the model's output")
      ->check(CLI::IsMember({"layer", "model"}))
      ->capture_default_str();
  method
      ->add_option("--granularity", options->granularity,
                   "With --scope model, column: any bits for a linear; module: "
                   "whole ones, 2 to 8 [baq: column, gptq: module]")
      ->check(CLI::IsMember({"column", "module"}));
}

void AddGridOptions(CLI::Option_group* method, SpecOptions* options) {
  method->add_option("--group-size", options->group_size,
                     "Columns a group; 0: one grid a row");
  method->add_flag("--sym", options->symmetric, "Symmetric grids");
  method->add_flag("--mse-clip", options->mse_clip,
                   "Search the clip of each grid");
  method->add_flag("--act-order", options->act_order,
                   "Columns by descending Hessian diagonal; like the next "
                   "two, not with ratio's hybrid quantizer");
  method
      ->add_option("--damping", options->damping,
                   "Relative damping of the Hessian [0.01]")
      ->check(CLI::PositiveNumber);
  method
      ->add_option("--refine", options->refine,
                   "Sweeps of coordinate descent over the codes after error "
                   "feedback [baq exact: 1, others: 0]")
      ->check(CLI::Range(0, 100));
}

absl::Status CheckScope(const SpecOptions& options) {
  if (options.scope != "model") {
    if (options.granularity.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        "--granularity is for --scope model; --scope layer gives every linear "
        "the same bits");
  }
  if (options.method == "rtn") {
    return absl::InvalidArgumentError(
        "--scope model needs --method baq or gptq: rtn has no calibration to "
        "weigh the layers by");
  }
  if (options.method == "ratio") {
    return absl::InvalidArgumentError(
        "--scope model is for baq and gptq; the ratio method spreads its bits "
        "over the model by itself");
  }
  if (options.method == "baq" && options.variant != "exact") {
    return absl::InvalidArgumentError(
        "--scope model needs --variant exact: the reference variant knows no "
        "budget across layers");
  }
  if (options.method == "gptq" && options.granularity == "column") {
    return absl::InvalidArgumentError(
        "--granularity column is for --method baq; gptq gives all columns of a "
        "linear the same bits (--granularity module)");
  }
  return absl::OkStatus();
}

absl::Status CheckBits(const SpecOptions& options, double bits) {
  const bool ratio = options.method == "ratio";
  const int most = ratio ? 16 : 8;
  if (!(bits >= 1 && bits <= most)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--bits ", bits, " is out of range; it may be 1 to ", most));
  }
  if (options.method != "baq" && !ratio && options.scope != "model" &&
      bits != std::floor(bits)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--bits ", bits, ": --method ", options.method,
        " takes whole bits (of a plan: --step 1); baq, or gptq with --scope "
        "model, takes fractions"));
  }
  return absl::OkStatus();
}

}  // namespace

void AddModelArgument(CLI::App* command, SpecOptions* options) {
  command
      ->add_option("MODEL_DIR", options->model,
                   "Hugging Face model directory (safetensors)")
      ->required();
}

void AddCalibrationOptions(CLI::App* command, SpecOptions* options) {
  CLI::Option_group* calibration = command->add_option_group("Calibration");
  calibration->add_option(
      "--calib", options->calibration,
      "Calibration text; several files are joined by a blank line");
  calibration->add_option(
      "--tokens", options->calibration_tokens,
      "Calibration token ids instead of text: safetensors with `tokens`");
  calibration
      ->add_option("--nsamples", options->nsamples, "Calibration windows [128]")
      ->check(CLI::Range(1, 1 << 24));
  calibration
      ->add_option("--seqlen", options->seqlen,
                   "Tokens a window [2048, or the model's context if shorter]")
      ->check(CLI::Range(2, 1 << 24));
  calibration->add_option("--seed", options->seed,
                          "Seed of the windows' positions [0]");
  calibration
      ->add_option(
          "--shards", options->shards,
          "Shards of the calibration set; part of the result's identity [4]")
      ->check(CLI::Range(1, 1 << 16));
}

void AddQuantizationOptions(CLI::App* command, SpecOptions* options) {
  AddCalibrationOptions(command, options);
  CLI::Option_group* method = command->add_option_group("Method");
  method->add_option("--method", options->method, "rtn, gptq, baq or ratio")
      ->check(CLI::IsMember({"rtn", "gptq", "baq", "ratio"}))
      ->capture_default_str();
  method
      ->add_option("--variant", options->variant,
                   "BAQ's allocation: exact or reference")
      ->check(CLI::IsMember({"exact", "reference"}))
      ->capture_default_str();
  method
      ->add_option("--bits", options->bits,
                   "Bits a weight, 1 to 8; fractions are for baq, ratio, and "
                   "gptq with --scope model")
      ->capture_default_str();
  AddScopeOptions(method, options);
  AddGridOptions(method, options);
  method
      ->add_option("--pipeline", options->pipeline,
                   "sequential: each block sees the quantized prefix; "
                   "parallel: one pass")
      ->check(CLI::IsMember({"sequential", "parallel"}))
      ->capture_default_str();
  method->add_option("--format", options->format, "native or dense")
      ->check(CLI::IsMember({"native", "dense"}))
      ->capture_default_str();
  AddRatioOptions(command, options);
}

void AddPlanOptions(CLI::App* command, SpecOptions* options) {
  AddCalibrationOptions(command, options);
  CLI::Option_group* method = command->add_option_group("Method");
  method->add_option("--method", options->method, "gptq or baq")
      ->check(CLI::IsMember({"gptq", "baq"}))
      ->capture_default_str();
  AddScopeOptions(method, options);
  AddGridOptions(method, options);
}

void AddEvaluationOptions(CLI::App* command, SpecOptions* options) {
  command->add_option("--eval", options->evaluation,
                      "Held-out text: perplexity before and after");
  command->add_option("--eval-tokens", options->evaluation_tokens,
                      "Held-out token ids instead of text");
  command->add_option("--eval-seqlen", options->evaluation_seqlen,
                      "Tokens an evaluation window [the calibration's]");
}

absl::Status CheckOptions(const SpecOptions& options, bool evaluate_only) {
  const bool has_calibration =
      !options.calibration.empty() || !options.calibration_tokens.empty();
  if (!options.calibration.empty() && !options.calibration_tokens.empty()) {
    return absl::InvalidArgumentError("give --calib or --tokens, not both");
  }
  if (options.method == "rtn" && options.refine.value_or(0) > 0) {
    return absl::InvalidArgumentError(
        "--refine goes with error feedback; rtn has none");
  }
  if (!options.evaluation.empty() && !options.evaluation_tokens.empty()) {
    return absl::InvalidArgumentError(
        "give evaluation text or evaluation tokens, not both");
  }
  BW_RETURN_IF_ERROR(CheckFiles("--calib", options.calibration));
  BW_RETURN_IF_ERROR(
      CheckFiles(evaluate_only ? "--text" : "--eval", options.evaluation));
  for (const std::string& path :
       {options.calibration_tokens, options.evaluation_tokens}) {
    if (!path.empty()) BW_RETURN_IF_ERROR(CheckReadableFile("tokens", path));
  }
  if (evaluate_only) return absl::OkStatus();
  if (!has_calibration && options.method != "rtn") {
    return absl::InvalidArgumentError(absl::StrCat(
        "--method ", options.method,
        " needs a calibration set: --calib FILE (or --tokens FILE)"));
  }
  BW_RETURN_IF_ERROR(CheckScope(options));
  BW_RETURN_IF_ERROR(CheckRatio(options));
  if (options.plan_bits.empty()) return CheckBits(options, options.bits);
  for (double bits : options.plan_bits) {
    BW_RETURN_IF_ERROR(CheckBits(options, bits));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<double>> ParsePlanBits(const std::string& text,
                                                  double step) {
  const std::vector<std::string> ends = absl::StrSplit(text, "..");
  if (ends.size() == 2) {
    double first = 0, last = 0;
    if (!absl::SimpleAtod(ends[0], &first) ||
        !absl::SimpleAtod(ends[1], &last) || !std::isfinite(first) ||
        !std::isfinite(last) || !(first <= last)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--bits ", text, " is not a range; write it like 2..4"));
    }
    if (!(step > 0 && (last - first) / step <= 999)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--step ", step, " does not divide ", text,
                       " into at most 1000 points; give a larger one"));
    }
    std::vector<double> bits;
    for (int i = 0; first + i * step <= last + 1e-9; ++i) {
      // The same numbers as if they had been written down.
      bits.push_back(std::round((first + i * step) * 1e6) / 1e6);
    }
    bits.erase(std::unique(bits.begin(), bits.end()), bits.end());
    return bits;
  }
  std::vector<double> bits;
  for (absl::string_view part : absl::StrSplit(text, ',')) {
    double value = 0;
    if (!absl::SimpleAtod(part, &value) || !std::isfinite(value)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--bits ", text, ": \"", part,
                       "\" is not a number; write 2..4, or 2,2.5,3"));
    }
    bits.push_back(value);
  }
  std::sort(bits.begin(), bits.end());
  bits.erase(std::unique(bits.begin(), bits.end()), bits.end());
  return bits;
}

namespace {

absl::Status FillCalibration(const SpecOptions& options, const Uploader& upload,
                             v1::JobSpec* spec) {
  v1::CalibrationSpec* calibration = spec->mutable_calibration();
  calibration->set_nsamples(options.nsamples);
  calibration->set_seqlen(options.seqlen);
  calibration->set_seed(options.seed);
  calibration->set_shards(options.shards);
  return FillSource(options.calibration, options.calibration_tokens, upload,
                    calibration->mutable_source());
}

// All but the bits.
void FillMethod(const SpecOptions& options, v1::MethodSpec* method) {
  method->set_method(ParseEnum<v1::Method>(
      ParseName<v1::Method, v1::Method_Parse>, "METHOD_", options.method));
  method->set_variant(ParseEnum<v1::Variant>(
      ParseName<v1::Variant, v1::Variant_Parse>, "VARIANT_", options.variant));
  const bool ratio = options.method == "ratio";
  if (!options.budget.empty() || !ratio) {
    method->set_budget(ParseEnum<v1::Budget>(
        ParseName<v1::Budget, v1::Budget_Parse>, "BUDGET_",
        options.budget.empty() ? "file" : options.budget));
  }
  if (ratio) FillRatio(options, method->mutable_ratio());
  method->set_scope(ParseEnum<v1::Scope>(ParseName<v1::Scope, v1::Scope_Parse>,
                                         "SCOPE_", options.scope));
  if (!options.granularity.empty()) {
    method->set_granularity(ParseEnum<v1::Granularity>(
        ParseName<v1::Granularity, v1::Granularity_Parse>, "GRANULARITY_",
        options.granularity));
  }
  method->set_group_size(options.group_size);
  method->set_symmetric(options.symmetric);
  method->set_mse_clip(options.mse_clip);
  method->set_act_order(options.act_order);
  method->set_damping(options.damping);
  if (options.refine.has_value()) method->set_refine_sweeps(*options.refine);
}

}  // namespace

absl::StatusOr<v1::JobSpec> BuildQuantizeSpec(const SpecOptions& options,
                                              const Uploader& upload) {
  v1::JobSpec spec;
  spec.mutable_model()->set_path(CanonicalModelPath(options.model));
  BW_RETURN_IF_ERROR(FillCalibration(options, upload, &spec));
  FillMethod(options, spec.mutable_method());
  spec.mutable_method()->set_bits(options.bits);
  spec.set_pipeline(
      ParseEnum<v1::Pipeline>(ParseName<v1::Pipeline, v1::Pipeline_Parse>,
                              "PIPELINE_", options.pipeline));
  spec.set_format(ParseEnum<v1::Format>(ParseName<v1::Format, v1::Format_Parse>,
                                        "FORMAT_", options.format));
  BW_RETURN_IF_ERROR(FillEvaluation(options, upload, &spec));
  return spec;
}

absl::StatusOr<v1::JobSpec> BuildPlanSpec(const SpecOptions& options,
                                          const Uploader& upload) {
  v1::JobSpec spec;
  spec.mutable_model()->set_path(CanonicalModelPath(options.model));
  BW_RETURN_IF_ERROR(FillCalibration(options, upload, &spec));
  FillMethod(options, spec.mutable_method());
  for (double bits : options.plan_bits) spec.mutable_plan()->add_bits(bits);
  return spec;
}

absl::StatusOr<v1::JobSpec> BuildEvaluateSpec(const SpecOptions& options,
                                              const Uploader& upload) {
  v1::JobSpec spec;
  spec.mutable_model()->set_path(CanonicalModelPath(options.model));
  spec.set_evaluate_only(true);
  BW_RETURN_IF_ERROR(FillEvaluation(options, upload, &spec));
  return spec;
}

std::string RequestIdFor(const v1::JobSpec& spec) {
  std::string bytes = ModelFingerprint(spec.model().path());
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    spec.SerializeToCodedStream(&coded);
  }
  return DigestOf(bytes).sha256.substr(0, 32);
}

}  // namespace bitwright
