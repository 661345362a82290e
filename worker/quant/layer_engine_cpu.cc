#include <algorithm>
#include <array>
#include <utility>

#include "common/base/status_macros.h"
#include "worker/quant/baq.h"
#include "worker/quant/gptq.h"
#include "worker/quant/layer_engine.h"
#include "worker/quant/panels.h"
#include "worker/quant/parallel.h"
#include "worker/quant/raw_vector.h"
#include "worker/quant/refine.h"

namespace bitwright::quant {
namespace {

class CpuEngine : public LayerEngine {
 public:
  explicit CpuEngine(const LayerWeight& weight)
      : source_(weight.weight),
        panels_(weight.rows, weight.columns),
        weight_(weight.rows * weight.columns) {}

  absl::Status Factorize(const HessianView& h,
                         const FactorOptions& options) override {
    BW_ASSIGN_OR_RETURN(factor_, FactorHessian(h, options));
    packed_ = false;
    return absl::OkStatus();
  }

  const Factor& factor() const override { return factor_; }

  absl::Status SetGrid(const Grid& grid) override {
    grid_ = grid;
    return absl::OkStatus();
  }

  absl::StatusOr<PassSums> Pass(const PassLevels& levels, int slot) override {
    Kept& kept = slots_[slot];
    kept.codes.resize(weight_.size());
    if (levels.keep_targets) kept.targets.resize(weight_.size());
    FeedbackInput input{
        .weight = weight_.data(),
        .rows = panels_.rows(),
        .factor = &factor_,
        .grid = &grid_,
        .levels = levels.levels,
        .row_levels = levels.row_levels,
        .codes = kept.codes.data(),
        .targets = levels.keep_targets ? kept.targets.data() : nullptr};
    if (!packed_) input.prepare = [this](int64_t p) { Pack(p); };
    PassSums sums = FeedbackPass(input);
    packed_ = true;
    return sums;
  }

  absl::StatusOr<PassSums> Refine(const HessianView& h,
                                  const PassLevels& levels, int slot,
                                  int sweeps) override {
    return RefineCodes({.weight = weight_.data(),
                        .rows = panels_.rows(),
                        .factor = &factor_,
                        .grid = &grid_,
                        .levels = levels.levels,
                        .row_levels = levels.row_levels,
                        .codes = slots_[slot].codes.data(),
                        .targets = slots_[slot].targets.data()},
                       h, sweeps);
  }

  absl::StatusOr<std::vector<uint8_t>> Codes(int slot) override {
    std::vector<uint8_t> codes(weight_.size());
    UnpackPanels(slots_[slot].codes.data(), panels_, codes.data());
    return codes;
  }

  absl::StatusOr<std::vector<double>> Distortion(
      int slot, absl::Span<const int> counts) override {
    if (slot == kWeights && !packed_) {
      ParallelFor(panels_.count(), [this](int64_t p) { Pack(p); });
      packed_ = true;
    }
    const RawVector<float>& values =
        slot == kWeights ? weight_ : slots_[slot].targets;
    return MeasureDistortion(values.data(), grid_, counts);
  }

 private:
  struct Kept {
    RawVector<uint8_t> codes;
    RawVector<float> targets;
  };

  void Pack(int64_t panel) {
    PackPanel(source_, panels_, panel, weight_.data());
    if (factor_.report.dead_columns == 0) return;
    for (int64_t j = 0; j < panels_.columns(); ++j) {
      if (!factor_.dead[j]) continue;
      std::fill_n(weight_.data() + panels_.At(panel, j), panels_.Height(panel),
                  0.0f);
    }
  }

  const float* const source_;
  const RowPanels panels_;
  // By panels, as all that follows; filled by the first pass or Distortion
  // after Factorize.
  RawVector<float> weight_;
  bool packed_ = false;
  Factor factor_;
  Grid grid_;
  std::array<Kept, kSlots> slots_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<LayerEngine>> MakeCpuEngine(
    const LayerWeight& weight) {
  return std::make_unique<CpuEngine>(weight);
}

}  // namespace bitwright::quant
