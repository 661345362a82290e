#include "client/cli/equal_loss.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cli/console.h"

namespace bitwright {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kHistogramWidth = 24;
constexpr char kGainNote[] =
    "predicted: GM/AM of the uniform pass's column losses (math.md §3); "
    "achieved: loss over\nthat of a uniform pass at the same code bits, "
    "modelled from the one that was made by\nloss ~ 2^(-2 bits). Below 1 is a "
    "gain. Side information counts in neither.\n";

double Number(const Json& object, const char* key) {
  const auto at = object.find(key);
  return at != object.end() && at->is_number() ? at->get<double>() : 0;
}

std::optional<ColumnLosses> ParseLosses(const Json& report, const char* key) {
  const auto at = report.find(key);
  if (at == report.end() || !at->is_object()) return std::nullopt;
  ColumnLosses out;
  out.columns = static_cast<int64_t>(Number(*at, "columns"));
  out.zero = static_cast<int64_t>(Number(*at, "zero"));
  out.mean = Number(*at, "mean");
  out.min = Number(*at, "min");
  out.max = Number(*at, "max");
  out.near = Number(*at, "within_2x_of_median") *
             static_cast<double>(out.columns - out.zero);
  // Neither is there when no column has lost anything.
  const Json none = Json::array(), empty = Json::object();
  const auto quartiles_at = at->find("quartiles");
  const auto octaves_at = at->find("octaves");
  const Json& quartiles = quartiles_at == at->end() ? none : *quartiles_at;
  const Json& octaves = octaves_at == at->end() ? empty : *octaves_at;
  if (!quartiles.is_array() || !octaves.is_object()) return std::nullopt;
  for (size_t i = 0; i < 3 && i < quartiles.size(); ++i) {
    if (quartiles[i].is_number()) out.quartiles[i] = quartiles[i].get<double>();
  }
  const auto counts_at = octaves.find("counts");
  const Json& counts = counts_at == octaves.end() ? none : *counts_at;
  const double first = Number(octaves, "first");
  // As far as labels go; what is written stays well inside.
  if (!counts.is_array() || counts.size() > 60 ||
      !(std::abs(first) <= 60 - static_cast<double>(counts.size()))) {
    return std::nullopt;
  }
  out.first_octave = static_cast<int>(first);
  for (const Json& count : counts) {
    out.octaves.push_back(count.is_number_integer()
                              ? std::max<int64_t>(0, count.get<int64_t>())
                              : 0);
  }
  return out;
}

void Add(const ColumnLosses& from, ColumnLosses& to) {
  to.columns += from.columns;
  to.zero += from.zero;
  to.near += from.near;
  if (from.octaves.empty()) return;
  if (to.octaves.empty()) to.first_octave = from.first_octave;
  if (to.first_octave != from.first_octave) return;  // Another version's.
  to.octaves.resize(std::max(to.octaves.size(), from.octaves.size()));
  for (size_t i = 0; i < from.octaves.size(); ++i) {
    to.octaves[i] += from.octaves[i];
  }
}

std::string OctaveLabel(int octave) {
  return octave < 0 ? absl::StrCat("1/", int64_t{1} << -octave)
                    : absl::StrCat(int64_t{1} << octave);
}

std::string Bar(int64_t count, int64_t total) {
  const double share =
      total > 0
          ? std::clamp(static_cast<double>(count) / static_cast<double>(total),
                       0.0, 1.0)
          : 0;
  const std::string bar(static_cast<size_t>(std::ceil(share * kHistogramWidth)),
                        '#');
  return absl::StrFormat("%-*s %5.1f %%", kHistogramWidth, bar, 100 * share);
}

// Shares of the columns by loss/mean, the uniform pass's beside the final ones.
std::string Histogram(const LayerEqualLoss& layer) {
  const ColumnLosses& last = layer.final;
  size_t begin = last.octaves.size(), end = 0;
  auto occupied = [&](const ColumnLosses& losses) {
    for (size_t i = 0; i < losses.octaves.size(); ++i) {
      if (losses.octaves[i] == 0) continue;
      begin = std::min(begin, i);
      end = std::max(end, i + 1);
    }
  };
  occupied(last);
  const bool both = layer.uniform.has_value() &&
                    layer.uniform->octaves.size() == last.octaves.size();
  if (both) occupied(*layer.uniform);
  std::string out =
      absl::StrFormat("%11s  %-*s%s\n", "loss / mean", kHistogramWidth + 10,
                      "final", both ? "uniform pass" : "");
  for (size_t i = begin; i < end; ++i) {
    absl::StrAppendFormat(
        &out, "%11s  %s%s\n",
        OctaveLabel(last.first_octave + static_cast<int>(i)),
        Bar(last.octaves[i], last.columns - last.zero),
        both ? absl::StrCat("  ",
                            Bar(layer.uniform->octaves[i],
                                layer.uniform->columns - layer.uniform->zero))
             : "");
  }
  return out;
}

std::string GainText(const AllocationGain& gain) {
  return absl::StrFormat(
      "allocation: loss %.4f of the uniform pass's at equal code bits; GM/AM "
      "predicted %.4f\n",
      gain.achieved(), gain.predicted());
}

Json LossesJson(const ColumnLosses& losses) {
  Json out = {{"columns", losses.columns},
              {"zero", losses.zero},
              {"within_2x_of_median", losses.near_share()},
              {"octaves",
               {{"first", losses.first_octave}, {"counts", losses.octaves}}}};
  if (losses.mean > 0) {
    out["min"] = losses.min;
    out["quartiles"] = losses.quartiles;
    out["mean"] = losses.mean;
    out["max"] = losses.max;
    out["max_over_mean"] = losses.max / losses.mean;
  }
  return out;
}

void AddLayerRow(const LayerEqualLoss& layer, Table& table) {
  const ColumnLosses& losses = layer.final;
  auto of_mean = [&](double value) {
    return losses.mean > 0 ? absl::StrFormat("%.3f", value / losses.mean) : "-";
  };
  auto near = [](const ColumnLosses& l) {
    return absl::StrFormat("%.1f", 100 * l.near_share());
  };
  table.AddRow(
      {layer.name, of_mean(losses.min), of_mean(losses.quartiles[0]),
       of_mean(losses.quartiles[1]), of_mean(losses.quartiles[2]),
       of_mean(losses.max), near(losses),
       layer.uniform ? near(*layer.uniform) : "-",
       layer.gain ? absl::StrFormat("%.4f", layer.gain->predicted()) : "-",
       layer.gain ? absl::StrFormat("%.4f", layer.gain->achieved()) : "-"});
}

}  // namespace

std::optional<LayerEqualLoss> EqualLossOf(const LayerDescription& layer) {
  const Json report =
      Json::parse(layer.report_json, nullptr, /*allow_exceptions=*/false);
  if (!report.is_object()) return std::nullopt;
  std::optional<ColumnLosses> losses = ParseLosses(report, "column_loss");
  if (!losses.has_value()) return std::nullopt;
  LayerEqualLoss out{.name = layer.name,
                     .final = *std::move(losses),
                     .uniform = ParseLosses(report, "uniform_column_loss"),
                     .gain = std::nullopt};
  const double levels = Number(report, "uniform_levels");
  if (out.uniform.has_value() && levels >= 2 && layer.uniform_loss > 0) {
    AllocationGain gain;
    gain.uniform_bits = std::log2(levels);
    gain.code_bits = layer.code_bits;
    gain.uniform_loss = layer.uniform_loss *
                        std::exp2(2 * (gain.uniform_bits - gain.code_bits));
    gain.loss = layer.loss;
    gain.predicted_loss = gain.uniform_loss * Number(report, "gm_over_am");
    out.gain = gain;
  }
  return out;
}

LayerEqualLoss Together(const std::vector<LayerEqualLoss>& layers) {
  LayerEqualLoss all;
  double linears = 0;
  for (const LayerEqualLoss& layer : layers) {
    Add(layer.final, all.final);
    if (layer.uniform.has_value()) {
      if (!all.uniform.has_value()) all.uniform.emplace();
      Add(*layer.uniform, *all.uniform);
    }
    if (!layer.gain.has_value()) continue;
    if (!all.gain.has_value()) all.gain.emplace();
    ++linears;
    all.gain->uniform_bits += layer.gain->uniform_bits;
    all.gain->code_bits += layer.gain->code_bits;
    all.gain->uniform_loss += layer.gain->uniform_loss;
    all.gain->loss += layer.gain->loss;
    all.gain->predicted_loss += layer.gain->predicted_loss;
  }
  if (all.gain.has_value()) {
    all.gain->uniform_bits /= linears;
    all.gain->code_bits /= linears;
  }
  return all;
}

absl::StatusOr<LayerDescription> FindLinear(
    const CheckpointDescription& description, absl::string_view name) {
  std::vector<const LayerDescription*> found;
  for (const LayerDescription& layer : description.layers) {
    if (layer.name == name) return layer;
    if (absl::EndsWith(layer.name, name)) found.push_back(&layer);
  }
  if (found.size() == 1) return *found.front();
  auto names = [](const auto& layers, auto name_of) {
    return absl::StrJoin(layers, ", ", [&](std::string* out, const auto& l) {
      absl::StrAppend(out, name_of(l));
    });
  };
  if (found.empty()) {
    return absl::NotFoundError(
        absl::StrCat("no quantized linear is called ", name, "; there are ",
                     names(description.layers,
                           [](const LayerDescription& l) { return l.name; })));
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "several linears end in ", name, ": ",
      names(found, [](const LayerDescription* l) { return l->name; })));
}

Json EqualLossJson(const LayerEqualLoss& layer) {
  Json out = {{"final", LossesJson(layer.final)}};
  if (layer.uniform.has_value()) out["uniform"] = LossesJson(*layer.uniform);
  if (layer.gain.has_value()) {
    out["gain"] = {{"predicted", layer.gain->predicted()},
                   {"achieved", layer.gain->achieved()},
                   {"uniform_bits", layer.gain->uniform_bits},
                   {"code_bits", layer.gain->code_bits},
                   {"uniform_loss_at_code_bits", layer.gain->uniform_loss}};
  }
  return out;
}

std::string EqualLossText(const CheckpointDescription& description) {
  std::vector<LayerEqualLoss> layers;
  for (const LayerDescription& layer : description.layers) {
    std::optional<LayerEqualLoss> found = EqualLossOf(layer);
    if (found.has_value()) layers.push_back(*std::move(found));
  }
  if (layers.empty()) {
    return "column losses: not recorded (made by an older version)\n";
  }
  Table table({"layer", "min", "q1", "median", "q3", "max", "2x %",
               "uniform 2x %", "predicted", "achieved"});
  for (const LayerEqualLoss& layer : layers) AddLayerRow(layer, table);
  const LayerEqualLoss all = Together(layers);
  std::string out = absl::StrCat(
      table.Render(),
      "\nmin ... max: the losses of the layer's columns over their mean; 2x %: "
      "columns within a\nfactor 2 of the median, uniform 2x % after the "
      "uniform "
      "pass\n",
      all.gain ? kGainNote : "", "\n");
  absl::StrAppendFormat(&out, "all %d columns: %.1f %% within a factor 2",
                        all.final.columns, 100 * all.final.near_share());
  if (all.uniform) {
    absl::StrAppendFormat(&out, " (%.1f %% after the uniform pass)",
                          100 * all.uniform->near_share());
  }
  return absl::StrCat(out, "\n", all.gain ? GainText(*all.gain) : "", "\n",
                      Histogram(all));
}

std::string LinearText(const LayerDescription& layer) {
  std::string out = absl::StrFormat(
      "%s [%d, %d]\nbits per weight: %.4f codes, %.4f file\nloss %s, uniform "
      "loss %s\n",
      layer.name, layer.rows, layer.cols, layer.code_bits, layer.file_bits,
      Significant(layer.loss, 5), Significant(layer.uniform_loss, 5));
  const std::optional<LayerEqualLoss> found = EqualLossOf(layer);
  if (!found.has_value()) {
    return absl::StrCat(
        out, "column losses: not recorded (made by an older version)\n");
  }
  const ColumnLosses& losses = found->final;
  absl::StrAppendFormat(
      &out,
      "\ncolumn losses: min %s, quartiles %s %s %s, max %s (%.2f of the "
      "mean), %d without loss\n%.1f %% of the columns within a factor 2 of the "
      "median",
      Significant(losses.min, 4), Significant(losses.quartiles[0], 4),
      Significant(losses.quartiles[1], 4), Significant(losses.quartiles[2], 4),
      Significant(losses.max, 4),
      losses.mean > 0 ? losses.max / losses.mean : 0, losses.zero,
      100 * losses.near_share());
  if (found->uniform) {
    absl::StrAppendFormat(&out, " (%.1f %% after the uniform pass)",
                          100 * found->uniform->near_share());
  }
  absl::StrAppend(&out, "\n");
  if (found->gain) {
    absl::StrAppendFormat(
        &out, "%suniform pass: %.4f code bits; its loss at %.4f: %s\n",
        GainText(*found->gain), found->gain->uniform_bits,
        found->gain->code_bits, Significant(found->gain->uniform_loss, 5));
  }
  return absl::StrCat(out, "\n", Histogram(*found),
                      found->gain ? absl::StrCat("\n", kGainNote) : "");
}

}  // namespace bitwright
