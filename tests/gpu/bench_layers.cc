// The table of layer shapes.
#include <cmath>
#include <memory>
#include <random>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/base/status_macros.h"
#include "tests/gpu/gpu_bench.h"
#include "worker/quant/baq.h"
#include "worker/quant/gptq.h"
#include "worker/quant/hessian.h"
#include "worker/quant/layer_engine_cuda.h"

namespace bitwright::gpu_bench {
namespace {

using quant::Allocation;
using quant::HessianView;
using quant::LayerEngine;

constexpr double kBits = 2.5;
constexpr int kUniformLevels = 6;  // 2^2.5
constexpr int64_t kHessianTokens = 8192;
constexpr int kLayerRuns = 3;

class Stopwatch {
 public:
  // Sets *seconds to what has passed since the last call.
  void Lap(double* seconds) {
    const double now = Now();
    *seconds = now - last_;
    last_ = now;
  }

 private:
  double last_ = Now();
};

std::vector<float> RandomWeight(int64_t size) {
  std::mt19937 bits(11);
  std::vector<float> weight(size);
  for (float& w : weight) {
    w = 0.02f * (static_cast<float>(bits()) * 0x1p-31f - 1.0f);
  }
  return weight;
}

// Packed; columns of unequal sizes whose correlation falls with their distance.
std::vector<float> RandomHessian(int64_t columns) {
  std::mt19937 bits(12);
  std::vector<float> size(columns);
  for (float& s : size) {
    s = std::exp(3.0f * static_cast<float>(bits()) * 0x1p-32f);
  }
  std::vector<float> power(columns);
  for (int64_t d = 0; d < columns; ++d) {
    power[d] = std::pow(0.7f, static_cast<float>(d));
  }
  std::vector<float> h(quant::PackedSize(columns));
  for (int64_t i = 0; i < columns; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      h[i * (i + 1) / 2 + j] = size[i] * size[j] * power[i - j];
    }
  }
  return h;
}

absl::StatusOr<Allocation> Allocate(const std::vector<double>& distortion,
                                    const std::vector<double>& weights,
                                    int64_t rows) {
  const auto columns = static_cast<int64_t>(weights.size());
  return quant::AllocateExact(quant::ExpandCurves(distortion, weights), columns,
                              {.rows = rows,
                               .groups = 1,
                               .bits = kBits,
                               .budget = quant::Budget::kFile});
}

absl::StatusOr<quant::PassSums> Run(LayerEngine& engine,
                                    const std::vector<uint16_t>& levels,
                                    int slot) {
  quant::PassLevels pass;
  pass.levels = levels;
  pass.keep_targets = true;
  return engine.Pass(pass, slot);
}

}  // namespace

absl::StatusOr<LayerSeconds> TimeLayer(const BenchLayer& layer,
                                       std::vector<float>* weights_out) {
  LayerSeconds s;
  BW_ASSIGN_OR_RETURN(const HessianView h,
                      HessianView::Create(*layer.hessian, layer.columns));
  const double begin = Now();
  Stopwatch watch;
  BW_ASSIGN_OR_RETURN(
      std::unique_ptr<LayerEngine> engine,
      quant::MakeCudaEngine({layer.weight, layer.rows, layer.columns}));
  BW_RETURN_IF_ERROR(engine->Factorize(h, {}));
  watch.Lap(&s.factor);
  BW_ASSIGN_OR_RETURN(const quant::Grid grid,
                      quant::MakeGrid(layer.weight, layer.rows, layer.columns,
                                      {.f16 = true}, engine->factor().dead));
  BW_RETURN_IF_ERROR(engine->SetGrid(grid));
  watch.Lap(&s.grid);
  const std::vector<uint16_t> uniform(layer.columns, kUniformLevels);
  BW_RETURN_IF_ERROR(Run(*engine, uniform, 0).status());
  watch.Lap(&s.pass);
  BW_ASSIGN_OR_RETURN(
      std::vector<double> distortion,
      engine->Distortion(LayerEngine::kWeights, quant::MeasuredLevelCounts()));
  watch.Lap(&s.distortion);
  const std::vector<double> weights = quant::ColumnWeights(engine->factor());
  BW_ASSIGN_OR_RETURN(Allocation allocation,
                      Allocate(distortion, weights, layer.rows));
  watch.Lap(&s.allocate);
  BW_RETURN_IF_ERROR(Run(*engine, allocation.levels, 1).status());
  BW_ASSIGN_OR_RETURN(distortion,
                      engine->Distortion(1, quant::MeasuredLevelCounts()));
  BW_ASSIGN_OR_RETURN(allocation, Allocate(distortion, weights, layer.rows));
  BW_RETURN_IF_ERROR(Run(*engine, allocation.levels, 2).status());
  double rest = 0;
  watch.Lap(&rest);
  quant::PassLevels levels;
  levels.levels = allocation.levels;
  BW_RETURN_IF_ERROR(engine->Refine(h, levels, 2, /*sweeps=*/1).status());
  watch.Lap(&s.refine);
  BW_ASSIGN_OR_RETURN(const std::vector<uint8_t> codes, engine->Codes(2));
  watch.Lap(&s.codes);
  s.baq = Now() - begin;
  if (weights_out != nullptr) {
    *weights_out = quant::Dequantize(codes, grid, allocation.levels);
  }
  return s;
}

namespace {

absl::Status BenchShape(int64_t rows, int64_t columns, std::FILE* out) {
  const std::vector<float> weight = RandomWeight(rows * columns);
  const std::vector<float> hessian = RandomHessian(columns);
  const BenchLayer layer{weight.data(), rows, columns, &hessian};
  LayerSeconds best;
  for (int i = 0; i <= kLayerRuns; ++i) {  // The first warms up.
    BW_ASSIGN_OR_RETURN(const LayerSeconds s, TimeLayer(layer, nullptr));
    if (i == 1 || (i > 1 && s.baq < best.baq)) best = s;
  }
  BW_ASSIGN_OR_RETURN(const double gemm, SgemmSeconds(rows, columns, columns));
  const double r = static_cast<double>(rows), c = static_cast<double>(columns);
  const double sgemm_rate = 2 * r * c * c / gemm;
  // GPTQ's own flops: R·C² for the pass, C³/3 for the factor.
  const double sgemm = (r * c * c + c * c * c / 3) / sgemm_rate;
  absl::FPrintF(out,
                "| %d×%d | %.2f | %.2f | %.2f | %.2f | %.2f | %.2f | %.2f | "
                "%.2f | %.2f | %.2f |\n",
                rows, columns, best.factor * 1e3, best.pass * 1e3,
                best.distortion * 1e3, best.allocate * 1e3, best.refine * 1e3,
                best.codes * 1e3, best.baq * 1e3, sgemm * 1e3,
                (best.factor + best.pass) / sgemm, sgemm_rate / 1e12);
  std::fflush(out);
  return absl::OkStatus();
}

absl::Status BenchHessian(int64_t columns, std::FILE* out) {
  // One triangle with its diagonal, a multiplication and an addition each.
  const double flops = static_cast<double>(columns) * (columns + 1) *
                       static_cast<double>(kHessianTokens);
  BW_ASSIGN_OR_RETURN(const double plain,
                      HessianSeconds(columns, kHessianTokens,
                                     quant::CudaHessianMode::kFloat32));
  BW_ASSIGN_OR_RETURN(const double split,
                      HessianSeconds(columns, kHessianTokens,
                                     quant::CudaHessianMode::kSplitBfloat16));
  BW_ASSIGN_OR_RETURN(const double gemm,
                      SgemmSeconds(columns, columns, kHessianTokens));
  absl::FPrintF(out, "| %d | %.2f | %.1f | %.2f | %.1f | %.2f |\n", columns,
                plain * 1e3, flops / plain / 1e12, split * 1e3,
                flops / split / 1e12, gemm / 2 * 1e3);
  std::fflush(out);
  return absl::OkStatus();
}

}  // namespace

absl::Status BenchLayers(std::FILE* out) {
  absl::FPrintF(
      out,
      "## Layers\n\nMilliseconds on the host's clock, copies included; the "
      "best "
      "of %d runs after a warm-up. \"BAQ\" is the whole of it at %.1f bits: "
      "factor, two passes, two measurements and allocations, one sweep, the "
      "codes back. \"SGEMM\" is cuBLAS's time for R·C² + C³/3 flops at its "
      "rate "
      "for R×C×C; the ratio is (factor + pass) / SGEMM.\n\n"
      "| R×C | factor | pass | distortion | allocate (host) | sweep "
      "| codes | BAQ | SGEMM | ratio | SGEMM TFLOP/s |\n"
      "|---|---|---|---|---|---|---|---|---|---|---|\n",
      kLayerRuns, kBits);
  constexpr std::pair<int64_t, int64_t> kShapes[] = {
      {768, 768},   {3072, 768},  {768, 3072},
      {2048, 2048}, {4096, 4096}, {4096, 11008}};
  for (const auto& [rows, columns] : kShapes) {
    BW_RETURN_IF_ERROR(BenchShape(rows, columns, out));
  }
  absl::FPrintF(
      out,
      "\n## Hessian\n\n%d tokens. Milliseconds, and TFLOP/s of the one "
      "triangle "
      "(columns·(columns+1)·tokens); \"SGEMM\" is half of cuBLAS's time for "
      "the "
      "square.\n\n| columns | float32 | TFLOP/s | split bf16 | TFLOP/s | SGEMM "
      "|\n|---|---|---|---|---|---|\n",
      kHessianTokens);
  for (int64_t columns : {768, 2048, 3072, 4096, 11008}) {
    BW_RETURN_IF_ERROR(BenchHessian(columns, out));
  }
  absl::FPrintF(out, "\n");
  return absl::OkStatus();
}

}  // namespace bitwright::gpu_bench
