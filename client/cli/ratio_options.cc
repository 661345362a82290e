#include "client/cli/ratio_options.h"

#include "absl/strings/str_cat.h"
#include "client/cli/parse_enum.h"

namespace bitwright {
namespace {

// A flag whose value is set where it is given.
template <typename Value>
void AddField(CLI::Option_group* group, const char* flag, v1::HybridSpec* spec,
              void (v1::HybridSpec::*set)(Value), const char* text) {
  group->add_option_function<Value>(
      flag, [spec, set](const Value& value) { (spec->*set)(value); }, text);
}

void AddHybridOptions(CLI::App* command, v1::HybridSpec* spec) {
  using Spec = v1::HybridSpec;
  CLI::Option_group* group =
      command->add_option_group("With --quantizer hybrid");
  AddField(group, "--iterations", spec, &Spec::set_iterations,
           "Iterations for each block [5000]");
  AddField(group, "--batch", spec, &Spec::set_batch,
           "Calibration windows an iteration, up to 1024 [1]");
  AddField(group, "--patience", spec, &Spec::set_patience,
           "Iterations without a gain of 0.1 % after which a block is done, "
           "counted from the second half on where roundings are learned; 0: "
           "never [1000]");
  AddField(group, "--round-lr", spec, &Spec::set_round_rate,
           "Learning rate of the roundings of the rows at the higher bits "
           "[0.001]");
  AddField(group, "--clip-lr", spec, &Spec::set_clip_rate,
           "Learning rate of the other rows' clipping [0.01]");
  AddField(group, "--round-l2", spec, &Spec::set_round_decay,
           "L2 on the roundings' parameters [1e-5]");
  AddField(group, "--round-weight", spec, &Spec::set_round_weight,
           "Weight of the regulariser that makes roundings whole [10]");
  AddField(group, "--gamma-first", spec, &Spec::set_gamma_first,
           "Its exponent at first [20]");
  AddField(group, "--gamma-last", spec, &Spec::set_gamma_last,
           "and at last [2]");
  AddField(group, "--edge-gradient", spec, &Spec::set_edge_gradient,
           "Share of the gradient that passes a code at either end of a "
           "clipped range, 0 to 1; 1 is the published [0.5]");
}

absl::Status CheckHybrid(const SpecOptions& options) {
  const v1::HybridSpec& spec = options.hybrid;
  if (options.method != "ratio" || options.quantizer == "gptq") {
    if (spec.ByteSizeLong() == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(
        "--iterations, --batch, --patience, --round-lr, --clip-lr, --round-l2, "
        "--round-weight, --gamma-first, --gamma-last and --edge-gradient go "
        "with --method ratio and --quantizer hybrid");
  }
  if (spec.has_iterations() && spec.iterations() < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("--iterations ", spec.iterations(),
                     ": a block learns nothing in that many; give 1 or more"));
  }
  if (options.act_order || options.refine.value_or(0) > 0 ||
      options.damping != 0) {
    return absl::InvalidArgumentError(
        "--act-order, --refine and --damping go with error feedback, which "
        "--quantizer gptq has and hybrid has not");
  }
  return absl::OkStatus();
}

}  // namespace

void AddRatioOptions(CLI::App* command, SpecOptions* options) {
  CLI::Option_group* ratio = command->add_option_group("With --method ratio");
  ratio
      ->add_option("--bits-normal", options->bits_normal,
                   "Bits of a linear's other rows [2]")
      ->check(CLI::Range(1, 7));
  ratio
      ->add_option("--bits-high", options->bits_high,
                   "Bits of the rows that matter most; 16 keeps them "
                   "[bits-normal + 1]")
      ->check(CLI::IsMember({2, 3, 4, 5, 6, 7, 8, 16}));
  ratio
      ->add_option("--ratios", options->ratios,
                   "Shares of rows that a linear may have at the higher bits, "
                   "ascending [0.02,0.05,0.1,0.15,0.2]")
      ->delimiter(',');
  ratio
      ->add_option("--interactions", options->interactions,
                   "Which effects of two linears on one another count: all, "
                   "block, none; uniform: one ratio for all linears [all]")
      ->check(CLI::IsMember({"all", "block", "none", "uniform"}));
  ratio
      ->add_option("--estimate", options->estimate,
                   "gram: a forward for each linear and ratio; paper: one for "
                   "each pair within a block as well [gram]")
      ->check(CLI::IsMember({"gram", "paper"}));
  ratio
      ->add_option("--quantizer", options->quantizer,
                   "hybrid: each block learns to give what it gave before; "
                   "gptq: error feedback, quick [hybrid]")
      ->check(CLI::IsMember({"gptq", "hybrid"}));
  AddHybridOptions(command, &options->hybrid);
}

absl::Status CheckRatio(const SpecOptions& options) {
  if (options.method != "ratio") {
    if (options.bits_normal == 0 && options.bits_high == 0 &&
        options.ratios.empty() && options.interactions.empty() &&
        options.estimate.empty() && options.quantizer.empty()) {
      return CheckHybrid(options);
    }
    return absl::InvalidArgumentError(
        "--bits-normal, --bits-high, --ratios, --interactions, --estimate and "
        "--quantizer go with --method ratio");
  }
  const int normal = options.bits_normal == 0 ? 2 : options.bits_normal;
  if (options.bits_high != 0 && options.bits_high <= normal) {
    return absl::InvalidArgumentError(
        absl::StrCat("--bits-high ", options.bits_high,
                     " is not above --bits-normal, which is ", normal));
  }
  for (size_t i = 0; i < options.ratios.size(); ++i) {
    const double ratio = options.ratios[i];
    if (ratio > 0 && ratio < 1 && (i == 0 || ratio > options.ratios[i - 1])) {
      continue;
    }
    return absl::InvalidArgumentError(
        absl::StrCat("--ratios: ", ratio,
                     " is out of place; give ascending shares of rows, each "
                     "above 0 and below 1"));
  }
  if (options.estimate == "paper" && options.interactions == "all") {
    return absl::InvalidArgumentError(
        "--interactions all needs --estimate gram: the paper's estimate has no "
        "pairs across blocks");
  }
  return CheckHybrid(options);
}

void FillRatio(const SpecOptions& options, v1::RatioSpec* ratio) {
  ratio->set_bits_normal(options.bits_normal);
  ratio->set_bits_high(options.bits_high);
  for (double value : options.ratios) ratio->add_ratios(value);
  if (!options.interactions.empty()) {
    ratio->set_interactions(ParseEnum<v1::Interactions>(
        ParseName<v1::Interactions, v1::Interactions_Parse>, "INTERACTIONS_",
        options.interactions));
  }
  if (!options.estimate.empty()) {
    ratio->set_estimate(
        ParseEnum<v1::Estimate>(ParseName<v1::Estimate, v1::Estimate_Parse>,
                                "ESTIMATE_", options.estimate));
  }
  if (!options.quantizer.empty()) {
    ratio->set_quantizer(
        ParseEnum<v1::Quantizer>(ParseName<v1::Quantizer, v1::Quantizer_Parse>,
                                 "QUANTIZER_", options.quantizer));
  }
  if (options.quantizer != "gptq") *ratio->mutable_hybrid() = options.hybrid;
}

}  // namespace bitwright
