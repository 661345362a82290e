#include "client/cli/spec_options.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <cmath>
#include <filesystem>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
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

// CLI11 has checked that `name` is one of the allowed words.
template <typename Enum>
Enum ParseEnum(bool (*parse)(const std::string&, Enum*),
               absl::string_view prefix, absl::string_view name) {
  Enum value{};
  parse(absl::StrCat(prefix, absl::AsciiStrToUpper(name)), &value);
  return value;
}

// protobuf's *_Parse functions take their own string view type.
template <typename Enum,
          bool (*Parse)(::google::protobuf::ConstStringParam, Enum*)>
bool ParseName(const std::string& name, Enum* value) {
  return Parse(name, value);
}

}  // namespace

void AddModelArgument(CLI::App* command, SpecOptions* options) {
  command
      ->add_option("MODEL_DIR", options->model,
                   "Hugging Face model directory (safetensors)")
      ->required();
}

void AddQuantizationOptions(CLI::App* command, SpecOptions* options) {
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

  CLI::Option_group* method = command->add_option_group("Method");
  method->add_option("--method", options->method, "rtn, gptq or baq")
      ->check(CLI::IsMember({"rtn", "gptq", "baq"}))
      ->capture_default_str();
  method
      ->add_option("--variant", options->variant,
                   "BAQ's allocation: exact or reference")
      ->check(CLI::IsMember({"exact", "reference"}))
      ->capture_default_str();
  method
      ->add_option("--bits", options->bits,
                   "Bits a weight, 1 to 8; fractions are for baq")
      ->capture_default_str();
  method
      ->add_option("--budget", options->budget,
                   "What --bits counts: file (all bytes stored) or codes (log2 "
                   "of the levels)")
      ->check(CLI::IsMember({"file", "codes"}))
      ->capture_default_str();
  method->add_option("--group-size", options->group_size,
                     "Columns a group; 0: one grid a row");
  method->add_flag("--sym", options->symmetric, "Symmetric grids");
  method->add_flag("--mse-clip", options->mse_clip,
                   "Search the clip of each grid");
  method->add_flag("--act-order", options->act_order,
                   "Columns by descending Hessian diagonal");
  method
      ->add_option("--damping", options->damping,
                   "Relative damping of the Hessian [0.01]")
      ->check(CLI::PositiveNumber);
  method
      ->add_option("--pipeline", options->pipeline,
                   "sequential: each block sees the quantized prefix; "
                   "parallel: one pass")
      ->check(CLI::IsMember({"sequential", "parallel"}))
      ->capture_default_str();
  method->add_option("--format", options->format, "native or dense")
      ->check(CLI::IsMember({"native", "dense"}))
      ->capture_default_str();
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
  if (!(options.bits >= 1 && options.bits <= 8)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--bits ", options.bits, " is out of range; it may be 1 to 8"));
  }
  if (options.method != "baq" && options.bits != std::floor(options.bits)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--bits ", options.bits, ": --method ", options.method,
                     " takes whole bits; baq takes fractions"));
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::JobSpec> BuildQuantizeSpec(const SpecOptions& options,
                                              const Uploader& upload) {
  v1::JobSpec spec;
  spec.mutable_model()->set_path(CanonicalModelPath(options.model));
  v1::CalibrationSpec* calibration = spec.mutable_calibration();
  calibration->set_nsamples(options.nsamples);
  calibration->set_seqlen(options.seqlen);
  calibration->set_seed(options.seed);
  calibration->set_shards(options.shards);
  BW_RETURN_IF_ERROR(FillSource(options.calibration, options.calibration_tokens,
                                upload, calibration->mutable_source()));
  v1::MethodSpec* method = spec.mutable_method();
  method->set_method(ParseEnum<v1::Method>(
      ParseName<v1::Method, v1::Method_Parse>, "METHOD_", options.method));
  method->set_variant(ParseEnum<v1::Variant>(
      ParseName<v1::Variant, v1::Variant_Parse>, "VARIANT_", options.variant));
  method->set_budget(ParseEnum<v1::Budget>(
      ParseName<v1::Budget, v1::Budget_Parse>, "BUDGET_", options.budget));
  method->set_bits(options.bits);
  method->set_group_size(options.group_size);
  method->set_symmetric(options.symmetric);
  method->set_mse_clip(options.mse_clip);
  method->set_act_order(options.act_order);
  method->set_damping(options.damping);
  spec.set_pipeline(
      ParseEnum<v1::Pipeline>(ParseName<v1::Pipeline, v1::Pipeline_Parse>,
                              "PIPELINE_", options.pipeline));
  spec.set_format(ParseEnum<v1::Format>(ParseName<v1::Format, v1::Format_Parse>,
                                        "FORMAT_", options.format));
  BW_RETURN_IF_ERROR(FillEvaluation(options, upload, &spec));
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
