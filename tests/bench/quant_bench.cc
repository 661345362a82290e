// Google Benchmark of what quantization is made of, beside the plain reference
// and beside SGEMM of the same flops in the same process:
//
//   bitwright_bench --benchmark_filter='2048x2048/t2/'
//
// Names are WHAT/ROWSxCOLUMNS/tTHREADS/real_time. tests/bench/run.py runs it
// shape by shape and makes the table. One shape is in memory at a time: a
// filter that takes in several of them with interleaved repetitions makes
// layers over and over.
#include <benchmark/benchmark.h>
#include <cblas.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/checkpoint/native.h"
#include "tests/bench/bench_layer.h"
#include "tests/bench/plain_reference.h"
#include "worker/quant/baq.h"
#include "worker/quant/blas.h"
#include "worker/quant/blas_kernels.h"
#include "worker/quant/factor.h"
#include "worker/quant/grid.h"
#include "worker/quant/hessian.h"
#include "worker/quant/panels.h"
#include "worker/quant/parallel.h"
#include "worker/quant/quantizer.h"

#ifdef BITWRIGHT_ONEDNN
#include <omp.h>
#include <oneapi/dnnl/dnnl.h>
#endif

// Absent (null) where the BLAS is not OpenBLAS.
extern "C" {
__attribute__((weak)) void openblas_set_num_threads(int threads);
__attribute__((weak)) char* openblas_get_config(void);
__attribute__((weak)) char* openblas_get_corename(void);
}

namespace bitwright::bench {
namespace {

constexpr int kBits = 3;

struct Shape {
  int64_t rows, columns;
};
constexpr Shape kShapes[] = {{768, 768},   {3072, 768},  {768, 3072},
                             {2048, 2048}, {4096, 4096}, {4096, 11008}};

// Flops of what the benchmark is named after (issue: R·C² + C³/3, ...).
double FactorFlops(Shape s) {
  return 1.0 / 3 * s.columns * s.columns * s.columns;
}
double PassFlops(Shape s) { return 1.0 * s.rows * s.columns * s.columns; }
double HessianFlops(Shape s) { return 1.0 * kTokens * s.columns * s.columns; }

// Ends the program: a benchmark of an error measures nothing.
template <typename T>
T Require(absl::StatusOr<T> value) {
  if (!value.ok()) {
    std::fprintf(stderr, "bitwright_bench: %s\n",
                 value.status().ToString().c_str());
    std::exit(1);
  }
  return *std::move(value);
}

void SetFlops(benchmark::State& state, double flops) {
  state.counters["flops"] = flops;
  state.counters["GFLOPS"] = benchmark::Counter(
      flops * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

benchmark::Counter Mean(double total) {
  return benchmark::Counter(total, benchmark::Counter::kAvgIterations);
}

void Quantize(benchmark::State& state, Shape s, quant::Method method,
              quant::BaqVariant variant) {
  const BenchLayer& layer = LayerFor(s.rows, s.columns);
  quant::QuantizeSeconds total;
  for (auto _ : state) {
    const auto q = Require(quant::QuantizeLinear(
        {.weight = layer.weight.data(),
         .rows = s.rows,
         .columns = s.columns,
         .hessian = layer.hessian},
        {.method = method, .variant = variant, .bits = kBits}));
    total.factor += q.seconds.factor;
    total.allocate += q.seconds.allocate;
    total.quantize += q.seconds.quantize;
    total.refine += q.seconds.refine;
    total.evaluate += q.seconds.evaluate;
    benchmark::DoNotOptimize(q.codes.data());
  }
  SetFlops(state, PassFlops(s) + FactorFlops(s));
  state.counters["factor_s"] = Mean(total.factor);
  state.counters["allocate_s"] = Mean(total.allocate);
  state.counters["quantize_s"] = Mean(total.quantize);
  state.counters["refine_s"] = Mean(total.refine);
  state.counters["evaluate_s"] = Mean(total.evaluate);
}

void Gptq(benchmark::State& state, Shape s) {
  Quantize(state, s, quant::Method::kGptq, quant::BaqVariant::kExact);
}
void Baq(benchmark::State& state, Shape s) {
  Quantize(state, s, quant::Method::kBaq, quant::BaqVariant::kExact);
}
void BaqReference(benchmark::State& state, Shape s) {
  Quantize(state, s, quant::Method::kBaq, quant::BaqVariant::kReference);
}

void Factor(benchmark::State& state, Shape s) {
  const BenchLayer& layer = LayerFor(s.rows, s.columns);
  const auto h = Require(quant::HessianView::Create(layer.hessian, s.columns));
  for (auto _ : state) {
    const auto factor = Require(quant::FactorHessian(h, {}));
    benchmark::DoNotOptimize(factor.diagonal.data());
  }
  SetFlops(state, FactorFlops(s));
}

// A batch of all tokens into a sum that exists, as within a shard.
void Hessian(benchmark::State& state, Shape s) {
  const BenchLayer& layer = LayerFor(s.rows, s.columns);
  quant::HessianAccumulator sum(s.columns);
  for (auto _ : state) {
    if (!sum.Add(layer.inputs.data(), kTokens).ok()) std::exit(1);
  }
  SetFlops(state, HessianFlops(s));
}

// What the distortion of a layer's columns is measured on.
struct Curves {
  quant::Grid grid;
  std::vector<float> values;  // by panels
  std::vector<double> weights;

  explicit Curves(const BenchLayer& layer)
      : grid(Require(quant::MakeGrid(layer.weight.data(), layer.rows,
                                     layer.columns,
                                     {.levels = 1 << kBits, .f16 = true}))),
        values(layer.weight.size()) {
    quant::PackPanels(layer.weight.data(),
                      quant::RowPanels(layer.rows, layer.columns),
                      values.data());
    for (int64_t j = 0; j < layer.columns; ++j) {
      weights.push_back(layer.hessian[j * layer.columns + j]);
    }
  }
  std::vector<double> Measure() const {
    return quant::MeasureDistortion(values.data(), grid,
                                    quant::MeasuredLevelCounts());
  }
};

void Distortion(benchmark::State& state, Shape s) {
  const Curves curves(LayerFor(s.rows, s.columns));
  for (auto _ : state) benchmark::DoNotOptimize(curves.Measure());
  state.counters["counts"] =
      static_cast<double>(quant::MeasuredLevelCounts().size());
}

void Allocate(benchmark::State& state, Shape s) {
  const Curves curves(LayerFor(s.rows, s.columns));
  const std::vector<double> measured = curves.Measure();
  for (auto _ : state) {
    benchmark::DoNotOptimize(Require(quant::AllocateExact(
        quant::ExpandCurves(measured, curves.weights), s.columns,
        {.rows = s.rows, .bits = kBits, .budget = quant::Budget::kFile})));
  }
}

// Codes at a mixture of level counts, powers of two and not.
QuantizedLinear PackedLayer(Shape s, std::vector<uint8_t>* codes) {
  QuantizedLinear linear;
  linear.rows = s.rows;
  linear.cols = s.columns;
  for (int64_t j = 0; j < s.columns; ++j) {
    linear.levels.push_back(static_cast<uint16_t>(2 + j * 7 % 15));
  }
  codes->resize(s.rows * s.columns);
  uint32_t bits = 1;
  for (size_t i = 0; i < codes->size(); ++i) {
    bits = bits * 1664525u + 1013904223u;
    (*codes)[i] =
        static_cast<uint8_t>((bits >> 16) % linear.levels[i % s.columns]);
  }
  linear.range_min.assign(s.rows, 0xbc00);  // -1
  linear.range_max.assign(s.rows, 0x3c00);
  linear.codes = PackCodes(*codes, s.rows, linear.levels);
  return linear;
}

void SetCodes(benchmark::State& state, Shape s) {
  state.counters["codes_per_second"] =
      benchmark::Counter(static_cast<double>(s.rows * s.columns),
                         benchmark::Counter::kIsIterationInvariantRate);
}

void Pack(benchmark::State& state, Shape s) {
  std::vector<uint8_t> codes;
  const QuantizedLinear linear = PackedLayer(s, &codes);
  for (auto _ : state) {
    benchmark::DoNotOptimize(PackCodes(codes, s.rows, linear.levels));
  }
  SetCodes(state, s);
}

void Unpack(benchmark::State& state, Shape s) {
  std::vector<uint8_t> codes;
  const QuantizedLinear linear = PackedLayer(s, &codes);
  for (auto _ : state) {
    benchmark::DoNotOptimize(Require(UnpackCodes(linear)));
  }
  SetCodes(state, s);
}

// OpenBLAS's threads spin for up to 2^28 ticks before they sleep, OpenMP's for
// less, on a core that what is measured next needs. Enough where the counter
// runs at 1.1 GHz or more, as on x86-64.
constexpr std::chrono::milliseconds kLibraryThreadsSpin{250};

// How many threads of its own the library of Multiply runs.
void LetLibraryUse(int threads) {
#ifdef BITWRIGHT_ONEDNN
  omp_set_num_threads(threads);
#else
  if (openblas_set_num_threads == nullptr) return;
  openblas_set_num_threads(threads);
#endif
  if (threads == 1 && quant::Threads() > 1) {
    std::this_thread::sleep_for(kLibraryThreadsSpin);
  }
}

// C = A·B by the library that quant::Gemm is built with.
void Multiply(int64_t m, int64_t n, int64_t k, const float* a, const float* b,
              float* c) {
#ifdef BITWRIGHT_ONEDNN
  if (dnnl_sgemm('N', 'N', m, n, k, 1.0f, a, k, b, n, 0.0f, c, n) !=
      dnnl_success) {
    std::exit(1);
  }
#else
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, m, n, k, 1.0f, a, k, b,
              n, 0.0f, c, n);
#endif
}

// [m, k] · [k, n] with as many rows m as make `flops`; the library runs its own
// threads here, as many as ours.
void Sgemm(benchmark::State& state, int64_t n, int64_t k, double flops) {
  const int64_t m =
      std::max<int64_t>(1, static_cast<int64_t>(flops / (2.0 * n * k) + 0.5));
  std::vector<float> a(m * k, 0.5f), b(k * n, 0.25f), c(m * n);
  LetLibraryUse(quant::Threads());
  for (auto _ : state) {
    Multiply(m, n, k, a.data(), b.data(), c.data());
    benchmark::ClobberMemory();
  }
  LetLibraryUse(1);
  SetFlops(state, 2.0 * m * n * k);
}

void SgemmQuantize(benchmark::State& state, Shape s) {
  Sgemm(state, s.columns, s.columns, PassFlops(s) + FactorFlops(s));
}
void SgemmFactor(benchmark::State& state, Shape s) {
  Sgemm(state, s.columns, s.columns, FactorFlops(s));
}
void SgemmHessian(benchmark::State& state, Shape s) {
  Sgemm(state, s.columns, kTokens, HessianFlops(s));
}

template <PlainResult (*Run)(const PlainLayer&)>
void Plain(benchmark::State& state, Shape s) {
  const BenchLayer& layer = LayerFor(s.rows, s.columns);
  PlainSeconds total;
  for (auto _ : state) {
    const PlainResult q = Run({.weight = layer.weight.data(),
                               .rows = s.rows,
                               .columns = s.columns,
                               .hessian = layer.hessian.data()});
    if (!q.positive_definite) std::exit(1);
    total.factor += q.seconds.factor;
    total.columns += q.seconds.columns;
    benchmark::DoNotOptimize(q.codes.data());
  }
  state.counters["factor_s"] = Mean(total.factor);
  state.counters["quantize_s"] = Mean(total.columns);
}
PlainResult RunPlainGptq(const PlainLayer& l) { return PlainGptq(l, kBits); }
PlainResult RunPlainBaq(const PlainLayer& l) { return PlainBaq(l, kBits); }

struct Bench {
  const char* name;
  void (*run)(benchmark::State&, Shape);
};
constexpr Bench kBenches[] = {{"factor", Factor},
                              {"gptq", Gptq},
                              {"baq", Baq},
                              {"baq_reference", BaqReference},
                              {"hessian", Hessian},
                              {"distortion", Distortion},
                              {"allocate", Allocate},
                              {"pack", Pack},
                              {"unpack", Unpack},
                              {"sgemm_quantize", SgemmQuantize},
                              {"sgemm_factor", SgemmFactor},
                              {"sgemm_hessian", SgemmHessian},
                              {"plain_gptq", Plain<RunPlainGptq>},
                              {"plain_baq", Plain<RunPlainBaq>}};

void RegisterAll() {
  std::vector<int> threads{1};
  if (quant::Threads() > 1) threads.push_back(quant::Threads());
  for (const Shape& s : kShapes) {
    for (int t : threads) {
      for (const Bench& b : kBenches) {
        const std::string name =
            absl::StrCat(b.name, "/", s.rows, "x", s.columns, "/t", t);
        benchmark::RegisterBenchmark(name.c_str(),
                                     [s, t, run = b.run](auto& state) {
                                       quant::SetThreads(t);
                                       quant::PinBlasToOneThread();
                                       run(state, s);
                                     })
            ->UseRealTime()
            ->Unit(benchmark::kMillisecond);
      }
    }
  }
}

}  // namespace
}  // namespace bitwright::bench

int main(int argc, char** argv) {
  bitwright::quant::RestartWithFastBlas(argv);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  bitwright::bench::RegisterAll();
  benchmark::AddCustomContext("blas", openblas_get_config == nullptr
                                          ? "not OpenBLAS"
                                          : openblas_get_config());
  benchmark::AddCustomContext("blas_kernels", openblas_get_corename == nullptr
                                                  ? "unknown"
                                                  : openblas_get_corename());
  benchmark::AddCustomContext("products", bitwright::quant::ProductLibrary());
  benchmark::AddCustomContext("bits", absl::StrCat(bitwright::bench::kBits));
  benchmark::AddCustomContext("tokens",
                              absl::StrCat(bitwright::bench::kTokens));
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
