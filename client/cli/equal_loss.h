// What `bitwright inspect` says about how a native checkpoint spent its bits:
// how evenly the columns of each linear share the loss, and what allocation
// gained against what the model had promised (math.md §3).
//
//   std::cout << EqualLossText(description, /*linear=*/"");
//
// Taken from the report of each linear (worker/runtime/column_losses.h).
#ifndef BITWRIGHT_CLIENT_CLI_EQUAL_LOSS_H_
#define BITWRIGHT_CLIENT_CLI_EQUAL_LOSS_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/checkpoint/checkpoint_writer.h"

namespace bitwright {

// Losses of columns. Of one linear, or summed over several, when only the
// counts mean anything.
struct ColumnLosses {
  int64_t columns = 0;
  int64_t zero = 0;  // Columns without any loss: dead ones. In nothing below.
  double mean = 0, min = 0, max = 0;
  double quartiles[3] = {0, 0, 0};
  double near = 0;  // Columns within a factor 2 of their linear's median.
  // Columns with loss/mean around 2^first_octave, 2^(first_octave + 1), ...
  int first_octave = 0;
  std::vector<int64_t> octaves;

  double near_share() const {
    return columns > zero ? near / static_cast<double>(columns - zero) : 0;
  }
};

// Loss against that of a uniform pass at the same code bits, of one linear or
// of several together. That uniform loss is modelled from the pass that was
// made, at uniform_bits, by loss ∝ 2^(−2·bits).
struct AllocationGain {
  double uniform_bits = 0;  // log2(levels) of the uniform pass; a mean
  double code_bits = 0;     // achieved
  double uniform_loss = 0;  // at code_bits
  double loss = 0;
  double predicted_loss = 0;  // uniform_loss · GM/AM

  double predicted() const { return predicted_loss / uniform_loss; }
  double achieved() const { return loss / uniform_loss; }
};

struct LayerEqualLoss {
  std::string name;
  ColumnLosses final;
  std::optional<ColumnLosses> uniform;  // BAQ only.
  std::optional<AllocationGain> gain;   // BAQ only, with some loss.
};

// Nothing if the report holds no column losses (made by an older version).
std::optional<LayerEqualLoss> EqualLossOf(const LayerDescription& layer);

// Layers together: sums of counts, gains added up as losses.
LayerEqualLoss Together(const std::vector<LayerEqualLoss>& layers);

// The one linear that `name` names: in full, or by an end that no other has.
// NOT_FOUND or INVALID_ARGUMENT lists what there is to choose from.
absl::StatusOr<LayerDescription> FindLinear(
    const CheckpointDescription& description, absl::string_view name);

nlohmann::ordered_json EqualLossJson(const LayerEqualLoss& layer);

// Of all layers: a table, and a histogram of all columns.
std::string EqualLossText(const CheckpointDescription& description);
// Of one.
std::string LinearText(const LayerDescription& layer);

}  // namespace bitwright

#endif  // BITWRIGHT_CLIENT_CLI_EQUAL_LOSS_H_
