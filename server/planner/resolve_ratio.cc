#include "server/planner/resolve_ratio.h"

#include <cmath>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "server/planner/spec_field.h"

namespace bitwright {
namespace {

// math.md §4.
constexpr int kDefaultBitsNormal = 2;
constexpr double kDefaultRatios[] = {0.02, 0.05, 0.1, 0.15, 0.2};
constexpr int kMaxRatios = 64;
constexpr int kMaxIterations = 1000000;
constexpr int kMaxBatch = 1024;

absl::Status CheckRatios(const v1::RatioSpec& ratio) {
  if (ratio.ratios_size() > kMaxRatios) {
    return BadField("method.ratio.ratios",
                    absl::StrCat("a list of ", ratio.ratios_size()),
                    absl::StrCat("at most ", kMaxRatios, " ratios"));
  }
  for (int i = 0; i < ratio.ratios_size(); ++i) {
    const std::string field = absl::StrCat("method.ratio.ratios[", i, "]");
    if (!(ratio.ratios(i) > 0 && ratio.ratios(i) < 1)) {
      return BadField(field, ratio.ratios(i), "above 0 and below 1");
    }
    if (i > 0 && ratio.ratios(i) <= ratio.ratios(i - 1)) {
      return BadField(field, ratio.ratios(i), "above the one before it");
    }
  }
  return absl::OkStatus();
}

// math.md §4: what a linear takes at one ratio, one flag bit a row included.
double RatioBits(const LinearSpec& linear, const v1::RatioSpec& spec,
                 double ratio) {
  const double cols = static_cast<double>(linear.cols);
  const double high = std::round(ratio * static_cast<double>(linear.rows));
  return static_cast<double>(linear.rows) * (cols * spec.bits_normal() + 1) +
         high * cols * (spec.bits_high() - spec.bits_normal());
}

// What the ratio method does not have.
absl::Status CheckRatioMethod(const v1::MethodSpec& method) {
  if (method.scope() == v1::SCOPE_MODEL) {
    return BadField("method.scope", v1::Scope_Name(method.scope()),
                    "SCOPE_LAYER for RATIO, whose solver spreads the bits over "
                    "the model itself");
  }
  if (method.symmetric() || method.mse_clip()) {
    return BadField(
        method.symmetric() ? "method.symmetric" : "method.mse_clip", "true",
        "false for RATIO: such grids are made for one number of levels");
  }
  return absl::OkStatus();
}

template <typename Value>
absl::Status CheckHybridField(absl::string_view name, Value value, bool good,
                              absl::string_view allowed) {
  return good ? absl::OkStatus()
              : BadField(absl::StrCat("method.ratio.hybrid.", name), value,
                         allowed);
}

absl::Status CheckHybrid(const v1::HybridSpec& h) {
  const auto positive = [](absl::string_view name, double x) {
    return CheckHybridField(name, x, x > 0 && std::isfinite(x),
                            "positive and finite");
  };
  const auto not_negative = [](absl::string_view name, double x) {
    return CheckHybridField(name, x, x >= 0 && std::isfinite(x),
                            "0 or more, and finite");
  };
  BW_RETURN_IF_ERROR(
      CheckHybridField("iterations", h.iterations(),
                       h.iterations() >= 1 && h.iterations() <= kMaxIterations,
                       absl::StrCat("from 1 to ", kMaxIterations)));
  BW_RETURN_IF_ERROR(CheckHybridField("batch", h.batch(),
                                      h.batch() >= 1 && h.batch() <= kMaxBatch,
                                      absl::StrCat("from 1 to ", kMaxBatch)));
  BW_RETURN_IF_ERROR(positive("round_rate", h.round_rate()));
  BW_RETURN_IF_ERROR(positive("clip_rate", h.clip_rate()));
  BW_RETURN_IF_ERROR(not_negative("round_decay", h.round_decay()));
  BW_RETURN_IF_ERROR(not_negative("round_weight", h.round_weight()));
  BW_RETURN_IF_ERROR(CheckHybridField(
      "edge_gradient", h.edge_gradient(),
      h.edge_gradient() >= 0 && h.edge_gradient() <= 1, "from 0 to 1"));
  BW_RETURN_IF_ERROR(CheckHybridField(
      "gamma_last", h.gamma_last(),
      h.gamma_last() >= 1 && h.gamma_last() <= h.gamma_first() &&
          std::isfinite(h.gamma_first()),
      absl::StrCat("from 1 to gamma_first, which is ", h.gamma_first())));
  return CheckHybridField("patience", h.patience(), h.patience() >= 0,
                          "0 (never) or a number of iterations");
}

// Defaults of math.md §4.
void FillHybrid(v1::HybridSpec* h) {
  if (!h->has_iterations()) h->set_iterations(5000);
  if (!h->has_batch()) h->set_batch(1);
  if (!h->has_round_rate()) h->set_round_rate(1e-3);
  if (!h->has_clip_rate()) h->set_clip_rate(1e-2);
  if (!h->has_round_decay()) h->set_round_decay(1e-5);
  if (!h->has_round_weight()) h->set_round_weight(10);
  if (!h->has_gamma_first()) h->set_gamma_first(20);
  if (!h->has_gamma_last()) h->set_gamma_last(2);
  if (!h->has_patience()) h->set_patience(1000);
  if (!h->has_edge_gradient()) h->set_edge_gradient(0.5);
}

// What goes with error feedback, which the hybrid quantizer does not have.
absl::Status CheckNoFeedback(const v1::MethodSpec& method) {
  for (const auto& [name, value] :
       {std::pair{"act_order", method.act_order() ? 1.0 : 0.0},
        std::pair{"refine_sweeps", static_cast<double>(method.refine_sweeps())},
        std::pair{"damping", method.damping()}}) {
    if (value == 0) continue;
    return BadField(absl::StrCat("method.", name), value,
                    "0 for RATIO with the HYBRID quantizer, which has no error "
                    "feedback; the GPTQ quantizer has");
  }
  return absl::OkStatus();
}

absl::Status ResolveQuantizer(v1::MethodSpec* method) {
  v1::RatioSpec* ratio = method->mutable_ratio();
  BW_ASSIGN_OR_RETURN(const v1::Quantizer quantizer,
                      ResolveEnum("method.ratio.quantizer", ratio->quantizer(),
                                  v1::QUANTIZER_HYBRID, v1::QUANTIZER_HYBRID,
                                  "GPTQ or HYBRID"));
  ratio->set_quantizer(quantizer);
  if (quantizer != v1::QUANTIZER_HYBRID) {
    if (!ratio->has_hybrid()) return absl::OkStatus();
    return BadField("method.ratio.hybrid", "present",
                    "absent unless the quantizer is HYBRID");
  }
  BW_RETURN_IF_ERROR(CheckNoFeedback(*method));
  FillHybrid(ratio->mutable_hybrid());
  return CheckHybrid(ratio->hybrid());
}

}  // namespace

absl::Status ResolveRatio(v1::MethodSpec* method) {
  if (method->method() != v1::METHOD_RATIO) {
    if (!method->has_ratio()) return absl::OkStatus();
    return BadField("method.ratio", "present", "absent unless for RATIO");
  }
  BW_RETURN_IF_ERROR(CheckRatioMethod(*method));
  v1::RatioSpec* ratio = method->mutable_ratio();
  if (ratio->bits_normal() == 0) ratio->set_bits_normal(kDefaultBitsNormal);
  if (ratio->bits_normal() < 1 || ratio->bits_normal() > 7) {
    return BadField("method.ratio.bits_normal", ratio->bits_normal(),
                    "between 1 and 7");
  }
  if (ratio->bits_high() == 0) ratio->set_bits_high(ratio->bits_normal() + 1);
  if (ratio->bits_high() <= ratio->bits_normal() ||
      (ratio->bits_high() > 8 && ratio->bits_high() != 16)) {
    return BadField(
        "method.ratio.bits_high", ratio->bits_high(),
        absl::StrCat("above bits_normal, which is ", ratio->bits_normal(),
                     ", and at most 8, or 16"));
  }
  if (ratio->ratios().empty()) {
    for (double value : kDefaultRatios) ratio->add_ratios(value);
  }
  BW_RETURN_IF_ERROR(CheckRatios(*ratio));
  BW_ASSIGN_OR_RETURN(
      v1::Estimate estimate,
      ResolveEnum("method.ratio.estimate", ratio->estimate(), v1::ESTIMATE_GRAM,
                  v1::ESTIMATE_PAPER, "GRAM or PAPER"));
  ratio->set_estimate(estimate);
  const bool paper = estimate == v1::ESTIMATE_PAPER;
  BW_ASSIGN_OR_RETURN(
      v1::Interactions interactions,
      ResolveEnum("method.ratio.interactions", ratio->interactions(),
                  paper ? v1::INTERACTIONS_BLOCK : v1::INTERACTIONS_ALL,
                  v1::INTERACTIONS_UNIFORM, "NONE, BLOCK, ALL or UNIFORM"));
  ratio->set_interactions(interactions);
  if (paper && interactions == v1::INTERACTIONS_ALL) {
    return BadField("method.ratio.interactions", "ALL",
                    "NONE, BLOCK or UNIFORM for the PAPER estimate, which has "
                    "no pairs across blocks");
  }
  return ResolveQuantizer(method);
}

absl::Status CheckRatioBudget(const v1::MethodSpec& method,
                              const ModelConfig& config) {
  const v1::RatioSpec& spec = method.ratio();
  if (method.budget() != v1::BUDGET_CODES) return absl::OkStatus();
  double least = 0, most = 0, weights = 0;
  for (int64_t block = 0; block < config.num_layers; ++block) {
    for (const LinearSpec& linear : BlockLinears(config, block)) {
      least += RatioBits(linear, spec, spec.ratios(0));
      most += RatioBits(linear, spec, spec.ratios(spec.ratios_size() - 1));
      weights += static_cast<double>(linear.rows * linear.cols);
    }
  }
  if (method.bits() >= least / weights && method.bits() <= most / weights) {
    return absl::OkStatus();
  }
  return BadField(
      "method.bits", method.bits(),
      absl::StrCat("between ", least / weights, " and ", most / weights,
                   ", what this model takes with all linears at the smallest "
                   "and at the largest of the ratios"));
}

}  // namespace bitwright
