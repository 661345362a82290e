#include "worker/quant/layer_engine_cuda.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/quant/open_module_cuda.h"

namespace bitwright::quant {
namespace {

// As FactorHessian has them (factor.cc).
constexpr int kCudaAttempts = 6;
constexpr double kCudaFirstDamping = 1e-6;

bool IsPacked(const HessianView& h) {
  return h.columns() < 2 || h.Row(1) - h.Row(0) == 1;
}

class CudaEngine final : public LayerEngine {
 public:
  CudaEngine(const LayerWeight& weight, std::unique_ptr<CudaLayer> layer)
      : rows_(weight.rows),
        columns_(weight.columns),
        layer_(std::move(layer)) {}

  absl::Status Factorize(const HessianView& h,
                         const FactorOptions& options) override;
  const Factor& factor() const override { return factor_; }
  absl::Status SetGrid(const Grid& grid) override;
  absl::StatusOr<PassSums> Pass(const PassLevels& levels, int slot) override;
  absl::StatusOr<PassSums> Refine(const HessianView& h,
                                  const PassLevels& levels, int slot,
                                  int sweeps) override;
  absl::StatusOr<std::vector<uint8_t>> Codes(int slot) override;
  absl::StatusOr<std::vector<double>> Distortion(
      int slot, absl::Span<const int> counts) override;

 private:
  std::vector<double> StartFactor(const HessianView& h,
                                  const FactorOptions& options);
  absl::Status LoadHessian(const HessianView& h);
  absl::Status CheckLevels(const PassLevels& levels, int slot) const;
  absl::Status CheckUsed(int slot, const char* what) const;
  CudaLevels ByPosition(const PassLevels& levels,
                        std::vector<uint16_t>& by_position) const;
  PassSums SumsOf(const std::vector<double>& rounding,
                  const std::vector<double>& error) const;

  const int64_t rows_, columns_;
  const std::unique_ptr<CudaLayer> layer_;
  Factor factor_;
  bool factored_ = false;
  bool has_grid_ = false;
  bool used_[kSlots] = {};
};

// Everything of the factor that its device part does not decide. Returns the
// diagonal of H, with 1 for dead columns, by original column.
std::vector<double> CudaEngine::StartFactor(const HessianView& h,
                                            const FactorOptions& options) {
  factor_ = Factor();
  factor_.columns = columns_;
  factor_.dead.assign(columns_, false);
  std::vector<double> diagonal(columns_);
  for (int64_t j = 0; j < columns_; ++j) {
    diagonal[j] = h.At(j, j);
    if (diagonal[j] == 0) {
      factor_.dead[j] = true;
      ++factor_.report.dead_columns;
      diagonal[j] = 1.0;
    }
  }
  factor_.order.resize(columns_);
  std::iota(factor_.order.begin(), factor_.order.end(), 0);
  if (options.act_order) {
    std::stable_sort(
        factor_.order.begin(), factor_.order.end(),
        [&](int32_t a, int32_t b) { return diagonal[a] > diagonal[b]; });
  }
  factor_.diagonal.resize(columns_);
  return diagonal;
}

absl::Status CudaEngine::LoadHessian(const HessianView& h) {
  const std::vector<uint8_t> dead(factor_.dead.begin(), factor_.dead.end());
  CudaHessianInput input;
  input.data = h.Row(0);
  input.packed = IsPacked(h);
  input.scale = h.scale();
  input.order = factor_.order.data();
  input.dead = dead.data();
  return ToStatus(layer_->LoadHessian(input));
}

absl::Status CudaEngine::Factorize(const HessianView& h,
                                   const FactorOptions& options) {
  if (!(options.damping >= 0) || !std::isfinite(options.damping)) {
    return absl::InvalidArgumentError(
        absl::StrCat("damping must be 0 or more, not ", options.damping));
  }
  if (options.precision != Precision::kFloat32) {
    return absl::InvalidArgumentError(
        "error feedback in float64 is for checking and runs on the CPU only; "
        "use --device cpu");
  }
  if (h.columns() != columns_) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a Hessian of ", h.columns(), " columns for a layer of ", columns_));
  }
  factored_ = has_grid_ = false;
  std::fill(std::begin(used_), std::end(used_), false);
  const std::vector<double> diagonal = StartFactor(h, options);
  BW_RETURN_IF_ERROR(LoadHessian(h));
  const double mean =
      std::accumulate(diagonal.begin(), diagonal.end(), 0.0) / columns_;
  factor_.mean = mean;
  double damping = options.damping;
  for (int attempt = 1; attempt <= kCudaAttempts && !factored_; ++attempt) {
    factor_.report.attempts = attempt;
    BW_RETURN_IF_ERROR(ToStatus(layer_->TryFactor(damping * mean, &factored_,
                                                  factor_.diagonal.data())));
    if (factored_) {
      factor_.report.damping = damping;
      factor_.added = damping * mean;
    }
    damping = damping == 0 ? kCudaFirstDamping : 10 * damping;
  }
  if (!factored_) {
    BW_RETURN_IF_ERROR(ToStatus(layer_->UseDiagonal()));
    factor_.report.diagonal_fallback = true;
    for (int64_t p = 0; p < columns_; ++p) {
      factor_.diagonal[p] = std::sqrt(diagonal[factor_.order[p]]);
    }
    factored_ = true;
  }
  return absl::OkStatus();
}

absl::Status CudaEngine::SetGrid(const Grid& grid) {
  if (!factored_) {
    return absl::FailedPreconditionError("SetGrid comes after Factorize");
  }
  if (grid.rows != rows_ || grid.columns != columns_) {
    return absl::InvalidArgumentError(
        absl::StrCat("a grid of shape [", grid.rows, ", ", grid.columns,
                     "] for a layer of shape [", rows_, ", ", columns_, "]"));
  }
  std::vector<float> min(rows_ * grid.groups), max(rows_ * grid.groups);
  for (int64_t r = 0; r < rows_; ++r) {
    for (int64_t g = 0; g < grid.groups; ++g) {
      min[g * rows_ + r] = grid.Min(r, g);
      max[g * rows_ + r] = grid.Max(r, g);
    }
  }
  std::vector<int32_t> group_of(columns_);
  for (int64_t p = 0; p < columns_; ++p) {
    group_of[p] = static_cast<int32_t>(grid.GroupOf(factor_.order[p]));
  }
  BW_RETURN_IF_ERROR(ToStatus(
      layer_->LoadGrid(min.data(), max.data(), grid.groups, group_of.data())));
  has_grid_ = true;
  return absl::OkStatus();
}

absl::Status CudaEngine::CheckLevels(const PassLevels& levels, int slot) const {
  if (!has_grid_) {
    return absl::FailedPreconditionError("a pass comes after SetGrid");
  }
  if (slot < 0 || slot >= kSlots) {
    return absl::InvalidArgumentError(absl::StrCat("there is no slot ", slot));
  }
  const bool by_row = levels.levels.empty();
  const absl::Span<const uint16_t> all =
      by_row ? levels.row_levels : levels.levels;
  const int64_t want = by_row ? rows_ : columns_;
  if (static_cast<int64_t>(all.size()) != want ||
      (!by_row && !levels.row_levels.empty())) {
    return absl::InvalidArgumentError(absl::StrCat(
        levels.levels.size(), " column and ", levels.row_levels.size(),
        " row level counts for a layer of shape [", rows_, ", ", columns_,
        "]; one of the two is wanted"));
  }
  for (uint16_t count : all) {
    if (count < 1 || count > kMaxLevels) {
      return absl::InvalidArgumentError(absl::StrCat(
          "a level count of ", count, "; 1 to ", kMaxLevels, " are possible"));
    }
  }
  return absl::OkStatus();
}

// What the device reads, valid while `levels` and `by_position` are.
CudaLevels CudaEngine::ByPosition(const PassLevels& levels,
                                  std::vector<uint16_t>& by_position) const {
  CudaLevels input;
  if (levels.levels.empty()) {
    input.by_row = levels.row_levels.data();
    return input;
  }
  for (int32_t column : factor_.order) {
    by_position.push_back(levels.levels[column]);
  }
  input.by_position = by_position.data();
  return input;
}

PassSums CudaEngine::SumsOf(const std::vector<double>& rounding,
                            const std::vector<double>& error) const {
  PassSums sums;
  sums.column_loss.resize(columns_);
  for (int64_t p = 0; p < columns_; ++p) {
    const double r = factor_.diagonal[p];
    sums.column_loss[factor_.order[p]] = 0.5 * r * r * rounding[p];
    sums.squared_error += error[p];
  }
  return sums;
}

absl::StatusOr<PassSums> CudaEngine::Pass(const PassLevels& levels, int slot) {
  BW_RETURN_IF_ERROR(CheckLevels(levels, slot));
  std::vector<uint16_t> by_position;
  std::vector<double> rounding(columns_), error(columns_);
  BW_RETURN_IF_ERROR(ToStatus(layer_->Pass(
      ByPosition(levels, by_position), slot, rounding.data(), error.data())));
  used_[slot] = true;
  return SumsOf(rounding, error);
}

absl::StatusOr<PassSums> CudaEngine::Refine(const HessianView& h,
                                            const PassLevels& levels, int slot,
                                            int sweeps) {
  static_cast<void>(h);  // It is still on the device.
  BW_RETURN_IF_ERROR(CheckLevels(levels, slot));
  BW_RETURN_IF_ERROR(CheckUsed(slot, "codes"));
  std::vector<uint16_t> by_position;
  std::vector<double> rounding(columns_), error(columns_);
  CudaRefine refine;
  refine.sweeps = sweeps;
  refine.added = factor_.added;
  refine.mean = factor_.mean;
  BW_RETURN_IF_ERROR(
      ToStatus(layer_->Refine(ByPosition(levels, by_position), slot, refine,
                              rounding.data(), error.data())));
  return SumsOf(rounding, error);
}

absl::Status CudaEngine::CheckUsed(int slot, const char* what) const {
  if (slot < 0 || slot >= kSlots || !used_[slot]) {
    return absl::FailedPreconditionError(absl::StrCat(
        "there are no ", what, " in slot ", slot, ": no pass has used it"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<uint8_t>> CudaEngine::Codes(int slot) {
  BW_RETURN_IF_ERROR(CheckUsed(slot, "codes"));
  std::vector<uint8_t> codes(rows_ * columns_);
  BW_RETURN_IF_ERROR(ToStatus(layer_->Codes(slot, codes.data())));
  return codes;
}

absl::StatusOr<std::vector<double>> CudaEngine::Distortion(
    int slot, absl::Span<const int> counts) {
  if (!has_grid_) {
    return absl::FailedPreconditionError("Distortion comes after SetGrid");
  }
  if (slot != kWeights) BW_RETURN_IF_ERROR(CheckUsed(slot, "values"));
  for (int count : counts) {
    if (count < 1 || count > kMaxLevels) {
      return absl::InvalidArgumentError(absl::StrCat(
          "a level count of ", count, "; 1 to ", kMaxLevels, " are possible"));
    }
  }
  const int64_t points = static_cast<int64_t>(counts.size());
  std::vector<double> by_position(columns_ * points);
  if (points > 0) {
    BW_RETURN_IF_ERROR(ToStatus(layer_->Distortion(
        slot, counts.data(), static_cast<int>(points), by_position.data())));
  }
  std::vector<double> sums(columns_ * points);
  for (int64_t p = 0; p < columns_; ++p) {
    std::copy_n(by_position.begin() + p * points, points,
                sums.begin() + factor_.order[p] * points);
  }
  return sums;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LayerEngine>> MakeCudaEngine(
    const LayerWeight& weight) {
  if (weight.weight == nullptr || weight.rows < 1 || weight.columns < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "weight of shape [", weight.rows, ", ", weight.columns, "] is empty"));
  }
  BW_ASSIGN_OR_RETURN(const CudaModule* module, OpenCudaModule());
  CudaStatus status;
  std::unique_ptr<CudaLayer> layer(
      module->layer(weight.weight, weight.rows, weight.columns, &status));
  if (layer == nullptr) return ToStatus(status);
  return std::unique_ptr<LayerEngine>(
      std::make_unique<CudaEngine>(weight, std::move(layer)));
}

}  // namespace bitwright::quant
