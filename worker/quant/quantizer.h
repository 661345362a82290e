// Quantizes one linear layer: the entry point of this folder.
//
//   LinearProblem problem{.weight = w, .rows = R, .columns = C,
//                         .hessian = packed, .sequences = 128};
//   QuantizeOptions options{.method = Method::kBaq, .bits = 2.5};
//   BW_ASSIGN_OR_RETURN(QuantizedResult q, QuantizeLinear(problem, options));
//   std::vector<float> w_hat = DequantizeResult(q);
//
// Pure: the result is a function of the arguments, byte for byte, whatever the
// number of threads. Runs on Threads() threads; thread-safe.
#ifndef BITWRIGHT_WORKER_QUANT_QUANTIZER_H_
#define BITWRIGHT_WORKER_QUANT_QUANTIZER_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "worker/quant/baq.h"
#include "worker/quant/factor.h"

namespace bitwright::quant {

enum class Method {
  kRtn,   // round to nearest
  kGptq,  // error feedback, the same levels for every column
  kBaq,   // error feedback, levels allocated to columns
};

enum class Device {
  kCpu,
  kCuda,  // the CUDA module of this build (layer_engine_cuda.h)
};

enum class BaqVariant {
  kExact,      // math.md §3b
  kReference,  // math.md §3a
};

// Parses "rtn", "gptq", "baq"; "exact", "reference"; "codes", "file".
// INVALID_ARGUMENT names the accepted words.
absl::StatusOr<Method> ParseMethod(absl::string_view text);
absl::StatusOr<BaqVariant> ParseBaqVariant(absl::string_view text);
absl::StatusOr<Budget> ParseBudget(absl::string_view text);

struct QuantizeOptions {
  Method method = Method::kBaq;
  BaqVariant variant = BaqVariant::kExact;
  // Per weight: 1..8, whole for rtn and gptq; baq exact takes anything above 0
  // to 16 (of one layer of a model that has one budget).
  double bits = 4;
  // [rows] instead of `bits`, gptq only: 1..8, or 16 for rows whose values are
  // kept in F16 (math.md §4).
  std::vector<uint8_t> row_bits = {};
  // What `bits` counts; baq exact only.
  Budget budget = Budget::kFile;
  // Columns per range; 0: one range per row. A last group may be shorter.
  int64_t group_size = 0;
  bool symmetric = false;
  bool mse_clip = false;
  bool act_order = false;
  double damping = 0.01;
  double theta = 1.95;  // baq reference only
  // Sweeps of coordinate descent after the last pass (refine.h); none for rtn.
  // kAuto: 1 for baq exact, 0 for the methods that are published without.
  static constexpr int kAuto = -1;
  int refine_sweeps = kAuto;
  // Round ranges to F16 first, as files store them.
  bool f16_ranges = true;
  Precision precision = Precision::kFloat32;  // kFloat64 on the CPU only
  // Where passes run; rtn is computed on the CPU. Devices round the last bits
  // of feedback differently, so one job belongs on one kind.
  Device device = Device::kCpu;
};

struct LinearProblem {
  const float* weight = nullptr;  // [rows, columns], row-major, borrowed
  int64_t rows = 0;
  int64_t columns = 0;
  // [columns, columns] (the lower triangle is read) or packed (hessian.h),
  // undamped, borrowed. May be empty for rtn only.
  absl::Span<const float> hessian;
  // When > 0, `hessian` is a plain Σ x xᵀ and 2/sequences is applied; 0 when it
  // is normalised already.
  int64_t sequences = 0;
};

struct QuantizeSeconds {
  double factor = 0;
  double allocate = 0;
  double quantize = 0;  // feedback passes
  double refine = 0;    // sweeps
  double evaluate = 0;  // the loss
};

struct QuantizedResult {
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t group_size = 0;  // = columns when ungrouped
  int64_t groups = 0;
  // One of the two: [columns], 1..256, or [rows] as asked for.
  std::vector<uint16_t> levels;
  std::vector<uint8_t> row_bits;
  std::vector<float> range_min, range_max;  // [rows, groups]
  std::vector<uint8_t> codes;               // [rows, columns]
  std::vector<float> f16_rows;  // [rows of 16 bits, columns], in their order
  std::vector<int32_t> order;   // [columns], see Factor::order
  std::vector<double> column_loss;  // [columns], of rows with codes
  // [columns], baq only: the same at uniform levels. Measured by a pass in the
  // reference variant, modelled by the curves in the exact one.
  std::vector<double> uniform_column_loss;
  // tr((W−Ŵ)H(W−Ŵ)ᵀ), undamped H, to 1e-4 of itself or better; ‖W−Ŵ‖² without
  // H.
  double loss = 0;
  double uniform_loss = 0;  // `loss` at uniform levels, likewise
  double code_bits = 0;     // mean log2(levels); by rows a flag bit each more
  double file_bits = 0;     // bytes of the packed tensors × 8 / weights
  int uniform_levels = 0;   // that uniform_loss is of; baq only
  // GmOverAm of uniform_column_loss in the reference variant, PredictedGain of
  // it in the exact one.
  double gm_over_am = 1;
  FactorReport factor;
  QuantizeSeconds seconds;  // the only field that differs between runs
};

// INVALID_ARGUMENT: sizes, NaN or Inf in the weight or the Hessian (the message
// says which and where), an option out of range, an infeasible budget.
absl::StatusOr<QuantizedResult> QuantizeLinear(const LinearProblem& problem,
                                               const QuantizeOptions& options);

// What a linear loses at every level count, before any bits are chosen: what
// allocation across layers starts from (model_scope.h).
struct LinearCurves {
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t groups = 0;
  // [columns, MeasuredLevelCounts()]: ½ R_kk² Σ_i (w_ik − Q_L(w_ik))².
  std::vector<double> distortion;
  FactorReport factor;
};

// `options.method`, `variant` and `budget` are not looked at; `bits` only where
// the grid depends on it (symmetric, mse_clip). Errors of QuantizeLinear.
absl::StatusOr<LinearCurves> MeasureLinear(const LinearProblem& problem,
                                           const QuantizeOptions& options);

// [rows, columns] float32: what a reader of the file decodes.
std::vector<float> DequantizeResult(const QuantizedResult& result);

// tr(E H Eᵀ) for E = W − Ŵ, both [rows, columns] row-major; float64 inside.
double QuadraticLoss(const float* weight, const float* quantized, int64_t rows,
                     const HessianView& h);

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_QUANTIZER_H_
