#include <algorithm>
#include <array>
#include <utility>

#include "common/base/status_macros.h"
#include "worker/quant/baq.h"
#include "worker/quant/gptq.h"
#include "worker/quant/layer_engine.h"
#include "worker/quant/panels.h"
#include "worker/quant/raw_vector.h"
#include "worker/quant/refine.h"

namespace bitwright::quant {
namespace {

class CpuEngine : public LayerEngine {
 public:
  explicit CpuEngine(const LayerWeight& weight)
      : panels_(weight.rows, weight.columns),
        weight_(weight.rows * weight.columns) {
    PackPanels(weight.weight, panels_, weight_.data());
  }

  absl::Status Factorize(const HessianView& h,
                         const FactorOptions& options) override {
    BW_ASSIGN_OR_RETURN(factor_, FactorHessian(h, options));
    for (int64_t j = 0; j < panels_.columns(); ++j) {
      if (!factor_.dead[j]) continue;
      for (int64_t p = 0; p < panels_.count(); ++p) {
        std::fill_n(weight_.data() + panels_.At(p, j), panels_.Height(p), 0.0f);
      }
    }
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
    return FeedbackPass(
        {.weight = weight_.data(),
         .rows = panels_.rows(),
         .factor = &factor_,
         .grid = &grid_,
         .levels = levels.levels,
         .row_levels = levels.row_levels,
         .codes = kept.codes.data(),
         .targets = levels.keep_targets ? kept.targets.data() : nullptr});
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
    const RawVector<float>& values =
        slot == kWeights ? weight_ : slots_[slot].targets;
    return MeasureDistortion(values.data(), grid_, counts);
  }

 private:
  struct Kept {
    RawVector<uint8_t> codes;
    RawVector<float> targets;
  };

  const RowPanels panels_;
  RawVector<float> weight_;  // by panels, as all that follows
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
