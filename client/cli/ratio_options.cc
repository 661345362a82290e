#include "client/cli/ratio_options.h"

#include "absl/strings/str_cat.h"
#include "client/cli/parse_enum.h"

namespace bitwright {

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
}

absl::Status CheckRatio(const SpecOptions& options) {
  if (options.method != "ratio") {
    if (options.bits_normal == 0 && options.bits_high == 0 &&
        options.ratios.empty() && options.interactions.empty() &&
        options.estimate.empty()) {
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(
        "--bits-normal, --bits-high, --ratios, --interactions and --estimate "
        "go with --method ratio");
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
  return absl::OkStatus();
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
}

}  // namespace bitwright
