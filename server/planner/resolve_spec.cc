#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/digest.h"
#include "common/base/status_macros.h"
#include "server/planner/planner.h"
#include "server/planner/resolve_ratio.h"
#include "server/planner/spec_field.h"

namespace bitwright {
namespace {

constexpr int kDefaultSamples = 128;
constexpr int64_t kDefaultSeqlen = 2048;
constexpr int kDefaultShards = 4;
constexpr int kMaxShards = 1024;
constexpr double kDefaultDamping = 0.01;
constexpr int kMaxRefineSweeps = 100;

bool IsPresent(const v1::TextSource& source) {
  return source.texts_size() > 0 || source.has_tokens();
}

absl::Status CheckBlob(const std::string& field, const v1::NamedBlob& blob) {
  const std::string text =
      absl::StrCat(blob.digest().sha256(), "/", blob.digest().size_bytes());
  if (Digest::Parse(text).ok()) return absl::OkStatus();
  return BadField(absl::StrCat(field, ".digest"),
                  absl::StrCat("\"", text, "\""),
                  "64 lower-case hexadecimal digits and a size");
}

absl::Status CheckSource(const std::string& field,
                         const v1::TextSource& source) {
  if (source.texts_size() > 0 && source.has_tokens()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "spec.", field, " has both texts and tokens; give one of the two"));
  }
  if (source.texts_size() > kMaxTexts) {
    return BadField(absl::StrCat(field, ".texts"),
                    absl::StrCat("a list of ", source.texts_size()),
                    absl::StrCat("at most ", kMaxTexts, " texts"));
  }
  for (int i = 0; i < source.texts_size(); ++i) {
    BW_RETURN_IF_ERROR(
        CheckBlob(absl::StrCat(field, ".texts[", i, "]"), source.texts(i)));
  }
  return source.has_tokens()
             ? CheckBlob(absl::StrCat(field, ".tokens"), source.tokens())
             : absl::OkStatus();
}

// `asked` or, if 0, `fallback`; in [least, max_position].
absl::StatusOr<int32_t> ResolveSeqlen(absl::string_view field, int32_t asked,
                                      int64_t fallback, int32_t least,
                                      const ModelConfig& config) {
  if (asked == 0) return static_cast<int32_t>(fallback);
  if (asked < least || asked > config.max_position) {
    return BadField(
        field, asked,
        absl::StrCat("between ", least, " and ", config.max_position,
                     ", the model's largest context"));
  }
  return asked;
}

absl::Status CheckModelScope(const v1::MethodSpec& method) {
  if (method.method() == v1::METHOD_RTN) {
    return BadField("method.scope", v1::Scope_Name(method.scope()),
                    "SCOPE_LAYER for RTN: without a calibration set nothing "
                    "says which layers matter");
  }
  if (method.method() == v1::METHOD_BAQ &&
      method.variant() != v1::VARIANT_EXACT) {
    return BadField("method.scope", v1::Scope_Name(method.scope()),
                    "SCOPE_LAYER for the REFERENCE variant, which knows no "
                    "budget across layers; use EXACT");
  }
  if (method.method() == v1::METHOD_GPTQ &&
      method.granularity() == v1::GRANULARITY_COLUMN) {
    return BadField("method.granularity",
                    v1::Granularity_Name(method.granularity()),
                    "GRANULARITY_MODULE for GPTQ, which gives all columns of a "
                    "linear the same bits; only BAQ takes COLUMN");
  }
  return absl::OkStatus();
}

// `method` and `variant` are resolved.
absl::Status ResolveScope(v1::MethodSpec* method) {
  BW_ASSIGN_OR_RETURN(
      v1::Scope scope,
      ResolveEnum("method.scope", method->scope(), v1::SCOPE_LAYER,
                  v1::SCOPE_MODEL, "LAYER or MODEL"));
  method->set_scope(scope);
  if (scope == v1::SCOPE_LAYER) {
    if (method->granularity() == v1::GRANULARITY_UNSPECIFIED) {
      return absl::OkStatus();
    }
    return BadField("method.granularity",
                    static_cast<int>(method->granularity()),
                    "unspecified for SCOPE_LAYER; only SCOPE_MODEL spreads its "
                    "bits over columns or modules");
  }
  BW_ASSIGN_OR_RETURN(
      v1::Granularity granularity,
      ResolveEnum("method.granularity", method->granularity(),
                  method->method() == v1::METHOD_GPTQ ? v1::GRANULARITY_MODULE
                                                      : v1::GRANULARITY_COLUMN,
                  v1::GRANULARITY_MODULE, "COLUMN or MODULE"));
  method->set_granularity(granularity);
  return CheckModelScope(*method);
}

absl::Status CheckBits(absl::string_view field, double bits,
                       const v1::MethodSpec& method) {
  // The negated comparison refuses NaN as well.
  const bool ratio = method.method() == v1::METHOD_RATIO;
  const double most = ratio ? 16 : 8;
  if (!(bits >= 1 && bits <= most)) {
    return BadField(field, bits, absl::StrCat("between 1 and ", most));
  }
  if (method.method() != v1::METHOD_BAQ && !ratio &&
      method.scope() == v1::SCOPE_LAYER && bits != std::floor(bits)) {
    return BadField(field, bits,
                    "a whole number for RTN and GPTQ; only BAQ, or GPTQ with "
                    "SCOPE_MODEL, takes fractions");
  }
  return absl::OkStatus();
}

absl::Status ResolveMethod(v1::MethodSpec* method) {
  BW_ASSIGN_OR_RETURN(
      v1::Method which,
      ResolveEnum("method.method", method->method(), v1::METHOD_BAQ,
                  v1::METHOD_RATIO, "RTN, GPTQ, BAQ or RATIO"));
  method->set_method(which);
  BW_ASSIGN_OR_RETURN(
      v1::Variant variant,
      ResolveEnum("method.variant", method->variant(), v1::VARIANT_EXACT,
                  v1::VARIANT_REFERENCE, "EXACT or REFERENCE"));
  method->set_variant(variant);
  BW_ASSIGN_OR_RETURN(v1::Budget budget,
                      ResolveEnum("method.budget", method->budget(),
                                  which == v1::METHOD_RATIO ? v1::BUDGET_CODES
                                                            : v1::BUDGET_FILE,
                                  v1::BUDGET_CODES, "FILE or CODES"));
  method->set_budget(budget);
  BW_RETURN_IF_ERROR(ResolveScope(method));
  BW_RETURN_IF_ERROR(ResolveRatio(method));
  if (method->group_size() < 0) {
    return BadField("method.group_size", method->group_size(),
                    "0 (one grid a row) or a positive number of columns");
  }
  if (!method->ratio().has_hybrid()) {
    if (method->damping() == 0) method->set_damping(kDefaultDamping);
    if (!(method->damping() > 0 && std::isfinite(method->damping()))) {
      return BadField("method.damping", method->damping(),
                      "positive and finite");
    }
  }
  if (!method->has_refine_sweeps()) {
    const bool exact = method->method() == v1::METHOD_BAQ &&
                       method->variant() == v1::VARIANT_EXACT;
    method->set_refine_sweeps(exact ? 1 : 0);
  }
  const int most = method->method() == v1::METHOD_RTN ? 0 : kMaxRefineSweeps;
  if (method->refine_sweeps() < 0 || method->refine_sweeps() > most) {
    return BadField("method.refine_sweeps", method->refine_sweeps(),
                    "from 0 to 100, and 0 for rtn");
  }
  return absl::OkStatus();
}

absl::Status ResolveCalibration(v1::CalibrationSpec* calibration,
                                int64_t default_seqlen,
                                const ModelConfig& config) {
  if (calibration->nsamples() == 0) calibration->set_nsamples(kDefaultSamples);
  if (calibration->nsamples() < 0) {
    return BadField("calibration.nsamples", calibration->nsamples(),
                    "positive");
  }
  BW_ASSIGN_OR_RETURN(int32_t seqlen,
                      ResolveSeqlen("calibration.seqlen", calibration->seqlen(),
                                    default_seqlen, 2, config));
  calibration->set_seqlen(seqlen);
  if (calibration->shards() == 0) calibration->set_shards(kDefaultShards);
  if (calibration->shards() < 0 || calibration->shards() > kMaxShards) {
    return BadField("calibration.shards", calibration->shards(),
                    absl::StrCat("between 1 and ", kMaxShards));
  }
  // A shard without a window would have no Hessian.
  calibration->set_shards(
      std::min(calibration->shards(), calibration->nsamples()));
  return absl::OkStatus();
}

// A plan is one for any pipeline and format, and makes nothing to evaluate.
absl::Status ResolvePlan(v1::JobSpec* spec) {
  const v1::MethodSpec& method = spec->method();
  if (method.method() == v1::METHOD_RTN ||
      method.method() == v1::METHOD_RATIO) {
    return BadField("method.method", v1::Method_Name(method.method()),
                    "GPTQ or BAQ for a plan: RTN has no calibration to predict "
                    "from, and RATIO no curves");
  }
  if (method.method() == v1::METHOD_BAQ &&
      method.variant() != v1::VARIANT_EXACT) {
    return BadField("method.variant", v1::Variant_Name(method.variant()),
                    "EXACT for a plan: the REFERENCE variant does not meet a "
                    "budget that could be predicted for");
  }
  const auto& bits = spec->plan().bits();
  if (bits.empty() || bits.size() > kMaxPlannedBudgets) {
    return BadField("plan.bits", absl::StrCat("a list of ", bits.size()),
                    absl::StrCat("1 to ", kMaxPlannedBudgets, " budgets"));
  }
  for (int i = 0; i < bits.size(); ++i) {
    const std::string field = absl::StrCat("plan.bits[", i, "]");
    BW_RETURN_IF_ERROR(CheckBits(field, bits[i], method));
    if (i > 0 && bits[i] <= bits[i - 1]) {
      return BadField(field, bits[i], "above the one before it");
    }
  }
  spec->mutable_method()->clear_bits();
  spec->clear_pipeline();
  spec->clear_format();
  spec->clear_evaluation();
  return absl::OkStatus();
}

absl::Status ResolveQuantization(v1::JobSpec* spec, int64_t default_seqlen,
                                 const ModelConfig& config) {
  BW_RETURN_IF_ERROR(ResolveMethod(spec->mutable_method()));
  BW_ASSIGN_OR_RETURN(
      v1::Pipeline pipeline,
      ResolveEnum("pipeline", spec->pipeline(), v1::PIPELINE_SEQUENTIAL,
                  v1::PIPELINE_PARALLEL, "SEQUENTIAL or PARALLEL"));
  spec->set_pipeline(pipeline);
  BW_ASSIGN_OR_RETURN(v1::Format format,
                      ResolveEnum("format", spec->format(), v1::FORMAT_NATIVE,
                                  v1::FORMAT_DENSE, "NATIVE or DENSE"));
  spec->set_format(format);
  if (spec->has_plan()) {
    BW_RETURN_IF_ERROR(ResolvePlan(spec));
  } else {
    BW_RETURN_IF_ERROR(
        CheckBits("method.bits", spec->method().bits(), spec->method()));
    if (spec->method().method() == v1::METHOD_RATIO) {
      BW_RETURN_IF_ERROR(CheckRatioBudget(spec->method(), config));
    }
  }
  BW_RETURN_IF_ERROR(
      CheckSource("calibration.source", spec->calibration().source()));
  const bool calibrated = IsPresent(spec->calibration().source());
  if (!calibrated && spec->method().method() != v1::METHOD_RTN) {
    return absl::InvalidArgumentError(absl::StrCat(
        "spec.calibration.source is empty; ",
        v1::Method_Name(spec->method().method()),
        " needs a calibration text or tokens (only METHOD_RTN does without)"));
  }
  BW_RETURN_IF_ERROR(
      ResolveCalibration(spec->mutable_calibration(), default_seqlen, config));
  if (!calibrated) spec->clear_calibration();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<v1::JobSpec> ResolveSpec(const v1::JobSpec& asked,
                                        const ModelConfig& config) {
  v1::JobSpec spec = asked;
  if (spec.model().path().empty()) {
    return absl::InvalidArgumentError(
        "spec.model.path is empty; it must be a model directory that the "
        "server can read");
  }
  if (spec.model().files_size() > 0) {
    return absl::InvalidArgumentError(
        "spec.model.files is not empty; the server fills it in, leave it out");
  }
  const int64_t default_seqlen = std::min(kDefaultSeqlen, config.max_position);
  // An explicit length of the calibration's windows is the evaluation's
  // default.
  const int64_t evaluation_seqlen =
      spec.calibration().seqlen() > 0
          ? std::min<int64_t>(spec.calibration().seqlen(), config.max_position)
          : default_seqlen;
  if (spec.evaluate_only()) {
    spec.clear_calibration();
    spec.clear_method();
    spec.clear_pipeline();
    spec.clear_format();
    spec.clear_plan();
  } else {
    BW_RETURN_IF_ERROR(ResolveQuantization(&spec, default_seqlen, config));
  }
  BW_RETURN_IF_ERROR(
      CheckSource("evaluation.source", spec.evaluation().source()));
  if (!IsPresent(spec.evaluation().source())) {
    if (spec.evaluate_only()) {
      return absl::InvalidArgumentError(
          "spec.evaluation.source is empty; evaluate_only needs a text or "
          "tokens");
    }
    spec.clear_evaluation();
    return spec;
  }
  BW_ASSIGN_OR_RETURN(
      int32_t seqlen,
      ResolveSeqlen("evaluation.seqlen", spec.evaluation().seqlen(),
                    evaluation_seqlen, 2, config));
  if (seqlen < 2) {
    return BadField("evaluation.seqlen", seqlen,
                    "at least 2: the first token of a window is not predicted");
  }
  spec.mutable_evaluation()->set_seqlen(seqlen);
  return spec;
}

}  // namespace bitwright
