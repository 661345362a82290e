#include "client/cli/ratio_table.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/cli/console.h"

namespace bitwright {
namespace {

using Json = nlohmann::ordered_json;

// "model.layers.3.self_attn.q_proj" to (3, "self_attn.q_proj").
std::pair<int64_t, std::string> BlockAndLinear(const std::string& name) {
  const std::vector<std::string> parts = absl::StrSplit(name, '.');
  for (size_t i = 0; i + 1 < parts.size(); ++i) {
    int64_t block = 0;
    if (!absl::SimpleAtoi(parts[i], &block)) continue;
    return {block, absl::StrJoin(parts.begin() + i + 1, parts.end(), ".")};
  }
  return {0, name};
}

struct Ratios {
  std::vector<std::string> linears;  // Columns, as they first come.
  std::map<int64_t, std::map<std::string, double>> by_block;
  // Of the block's reconstruction, as "before → after"; empty without one.
  std::map<int64_t, std::string> losses;
  int bits_normal = 0, bits_high = 0;
};

Ratios Collect(const CheckpointDescription& description) {
  Ratios ratios;
  for (const LayerDescription& layer : description.layers) {
    const Json report =
        Json::parse(layer.report_json, nullptr, /*allow_exceptions=*/false);
    if (!report.is_object() || !report.contains("ratio")) continue;
    const Json& ratio = report["ratio"];
    if (!ratio.is_object() || !ratio.value("share", Json()).is_number()) {
      continue;
    }
    const auto [block, linear] = BlockAndLinear(layer.name);
    if (std::find(ratios.linears.begin(), ratios.linears.end(), linear) ==
        ratios.linears.end()) {
      ratios.linears.push_back(linear);
    }
    ratios.by_block[block][linear] = ratio["share"].get<double>();
    const Json learned = report.value("reconstruction", Json());
    if (learned.is_object()) {
      ratios.losses[block] =
          absl::StrCat(Significant(learned.value("first_loss", 0.0), 4), " → ",
                       Significant(learned.value("loss", 0.0), 4));
    }
    ratios.bits_normal = ratio.value("bits_normal", 0);
    ratios.bits_high = ratio.value("bits_high", 0);
  }
  return ratios;
}

}  // namespace

std::string RatioTableText(const CheckpointDescription& description) {
  const Ratios ratios = Collect(description);
  if (ratios.by_block.empty()) return "";
  std::vector<std::string> header = {"block"};
  header.insert(header.end(), ratios.linears.begin(), ratios.linears.end());
  if (!ratios.losses.empty()) header.push_back("block's loss");
  Table table(header);
  for (const auto& [block, shares] : ratios.by_block) {
    std::vector<std::string> row = {absl::StrCat(block)};
    for (const std::string& linear : ratios.linears) {
      const auto it = shares.find(linear);
      row.push_back(it == shares.end() ? ""
                                       : absl::StrFormat("%.4g", it->second));
    }
    if (!ratios.losses.empty()) {
      const auto it = ratios.losses.find(block);
      row.push_back(it == ratios.losses.end() ? "" : it->second);
    }
    table.AddRow(std::move(row));
  }
  return absl::StrFormat("share of rows at %d bits, the others at %d:\n\n%s",
                         ratios.bits_high, ratios.bits_normal, table.Render());
}

}  // namespace bitwright
