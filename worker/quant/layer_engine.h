// The arithmetic of one linear layer, on one device: everything in
// quantization whose cost grows with rows × columns². What to compute, in what
// order and which result to keep is decided above it (quantizer.cc), once for
// all devices.
//
//   BW_ASSIGN_OR_RETURN(std::unique_ptr<LayerEngine> engine,
//                       MakeCpuEngine({.weight = w, .rows = R, .columns = C}));
//   BW_RETURN_IF_ERROR(engine->Factorize(h, {.damping = 0.01}));
//   BW_RETURN_IF_ERROR(engine->SetGrid(grid));
//   BW_ASSIGN_OR_RETURN(PassSums sums,
//                       engine->Pass({.levels = levels}, /*slot=*/0));
//   BW_ASSIGN_OR_RETURN(std::vector<uint8_t> codes, engine->Codes(0));
//
// An engine is used by one thread at a time. On a device a pass runs without
// the host waiting inside it; the sums that it returns are what it waits for.
#ifndef BITWRIGHT_WORKER_QUANT_LAYER_ENGINE_H_
#define BITWRIGHT_WORKER_QUANT_LAYER_ENGINE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/quant/factor.h"
#include "worker/quant/gptq.h"
#include "worker/quant/grid.h"
#include "worker/quant/hessian.h"

namespace bitwright::quant {

struct LayerWeight {
  const float* weight = nullptr;  // [rows, columns], row-major, host; must
                                  // stay as long as the engine
  int64_t rows = 0;
  int64_t columns = 0;
};

// Which grid every value is rounded to: exactly one of the two is given.
struct PassLevels {
  absl::Span<const uint16_t> levels = {};  // [columns], 1..256: GPTQ and BAQ
  absl::Span<const uint16_t> row_levels = {};  // [rows], 1..256: per-row bits
  // Whether Distortion or Refine will be asked of this pass.
  bool keep_targets = false;
};

// What a pass with error feedback leaves behind, on the host.
using PassSums = FeedbackSums;

class LayerEngine {
 public:
  // Passes whose codes and targets are kept side by side.
  static constexpr int kSlots = 3;

  virtual ~LayerEngine() = default;

  // Must come first. Dead columns' weights count as zero from here on. Errors
  // of FactorHessian.
  virtual absl::Status Factorize(const HessianView& h,
                                 const FactorOptions& options) = 0;
  // Without `unit` where the factor stays on a device.
  virtual const Factor& factor() const = 0;

  // Must come before passes; copies what it needs.
  virtual absl::Status SetGrid(const Grid& grid) = 0;

  // math.md §2 over all columns. Codes, and the values that were rounded if
  // they are asked for, stay in `slot` until it is used again.
  virtual absl::StatusOr<PassSums> Pass(const PassLevels& levels, int slot) = 0;
  // RefineCodes of refine.h on the codes in `slot`, in place, whose pass has
  // kept its targets. `h` is what Factorize got.
  virtual absl::StatusOr<PassSums> Refine(const HessianView& h,
                                          const PassLevels& levels, int slot,
                                          int sweeps) = 0;
  // [rows, columns] of the pass in `slot`.
  virtual absl::StatusOr<std::vector<uint8_t>> Codes(int slot) = 0;

  // [columns, counts] Σ_i (v_ij − Q_L(v_ij))² for every column j and level
  // count L; v are the values rounded by the pass in `slot`, or the weights
  // when slot is kWeights. No column weight is applied.
  static constexpr int kWeights = -1;
  virtual absl::StatusOr<std::vector<double>> Distortion(
      int slot, absl::Span<const int> counts) = 0;
};

absl::StatusOr<std::unique_ptr<LayerEngine>> MakeCpuEngine(
    const LayerWeight& weight);

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_LAYER_ENGINE_H_
