// solve: a ratio for every linear, from what the output does at each of them
// (worker.proto, SolveParameters; math.md §4).
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status_macros.h"
#include "common/checkpoint/dtype.h"
#include "common/checkpoint/safetensors.h"
#include "worker/quant/output_change.h"
#include "worker/quant/quantize_rows.h"
#include "worker/quant/ratio_solver.h"
#include "worker/runtime/executor.h"
#include "worker/runtime/solution_blob.h"
#include "worker/runtime/task_inputs.h"

namespace bitwright {
namespace {

using quant::RatioProblem;
using quant::RatioSolution;

// What the response tasks found, option index fastest.
struct Responses {
  std::vector<double> squares;  // [L|B|] Σ over sequences
  // [L|B|] Sketches, F32 [length], left in their files.
  std::vector<std::unique_ptr<SafetensorsFile>> files;
  int64_t length = 0;
  int64_t sequences = 0;

  // quant::ReadSketch.
  absl::Status Read(int64_t i, int64_t begin, absl::Span<float> out) const;
};

absl::Status Responses::Read(int64_t i, int64_t begin,
                             absl::Span<float> out) const {
  const TensorInfo& sketch = *files[i]->Find("sketch");
  const absl::string_view bytes = files[i]->Data(sketch).substr(
      begin * sizeof(float), out.size() * sizeof(float));
  BW_RETURN_IF_ERROR(ToFloats(sketch.dtype, bytes, out));
  const bool last = begin + static_cast<int64_t>(out.size()) == length;
  if (last) files[i]->Drop(sketch);
  return absl::OkStatus();
}

std::vector<LinearSpec> AllLinears(const ModelConfig& config,
                                   RatioProblem* problem) {
  std::vector<LinearSpec> linears;
  for (int64_t block = 0; block < config.num_layers; ++block) {
    for (LinearSpec& linear : BlockLinears(config, block)) {
      problem->linears.push_back(
          {.block = block, .rows = linear.rows, .cols = linear.cols});
      linears.push_back(std::move(linear));
    }
  }
  return linears;
}

absl::StatusOr<Responses> ReadResponses(const TaskContext& context,
                                        const std::vector<LinearSpec>& linears,
                                        int options) {
  Responses responses;
  for (const LinearSpec& linear : linears) {
    for (int m = 0; m < options; ++m) {
      const std::string name =
          absl::StrFormat("response.%s.%04d", linear.name, m);
      BW_ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file,
                          OpenInput(context, name));
      BW_ASSIGN_OR_RETURN(responses.squares.emplace_back(),
                          DoubleOf(*file, name, "squares"));
      BW_ASSIGN_OR_RETURN(responses.sequences,
                          IntegerOf(*file, name, "sequences"));
      BW_ASSIGN_OR_RETURN(const TensorInfo* info, file->Require("sketch"));
      if (responses.files.empty() && info->shape.size() == 1) {
        responses.length = info->shape[0];
      }
      if (info->dtype != DType::kF32 ||
          info->shape != std::vector<int64_t>{responses.length} ||
          responses.sequences < 1) {
        return absl::InvalidArgumentError(absl::StrCat(
            "input ", name, " is a sketch ", ShapeString(info->shape), " of ",
            responses.sequences, " sequences, not F32 [", responses.length,
            "] as the first"));
      }
      responses.files.push_back(std::move(file));
    }
  }
  return responses;
}

// Clears negative eigenvalues, and scales rows and columns so that the
// diagonal, which is exact where the rest is estimated, stays as it is.
void MakePsd(int64_t n, std::vector<double>* m) {
  const std::vector<double> before = *m;
  quant::ProjectToPsd(n, m);
  std::vector<double> scale(n, 1.0);
  for (int64_t i = 0; i < n; ++i) {
    const double projected = (*m)[i * n + i];
    if (projected > 0) scale[i] = std::sqrt(before[i * n + i] / projected);
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) (*m)[i * n + j] *= scale[i] * scale[j];
    (*m)[i * n + i] = before[i * n + i];
  }
}

// Sets the entries between options of two linears of a block by differences
// of the loss.
absl::Status AddPairs(const TaskContext& context,
                      const std::vector<LinearSpec>& linears,
                      const Responses& responses, int options, size_t first,
                      size_t last, std::vector<double>* m) {
  const size_t n = linears.size() * options;
  for (size_t a = first; a < last; ++a) {
    for (int option = 0; option < options; ++option) {
      const size_t i = a * options + option;
      for (size_t b = a + 1; b < last; ++b) {
        const std::string name = absl::StrFormat(
            "pair.%s.%04d.%s", linears[a].name, option, linears[b].name);
        BW_ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file,
                            OpenInput(context, name));
        BW_ASSIGN_OR_RETURN(const std::vector<double> squares,
                            ReadDoubles(*file, "squares", {int64_t{options}}));
        for (int other = 0; other < options; ++other) {
          const size_t j = b * options + other;
          const double value =
              (squares[other] - responses.squares[i] - responses.squares[j]) /
              static_cast<double>(responses.sequences);
          (*m)[i * n + j] = (*m)[j * n + i] = value;
        }
      }
    }
  }
  const size_t size = (last - first) * options, at = first * options;
  std::vector<double> block(size * size);
  for (size_t i = 0; i < size; ++i) {
    for (size_t j = 0; j < size; ++j) {
      block[i * size + j] = (*m)[(at + i) * n + at + j];
    }
  }
  MakePsd(static_cast<int64_t>(size), &block);
  for (size_t i = 0; i < size; ++i) {
    for (size_t j = 0; j < size; ++j) {
      (*m)[(at + i) * n + at + j] = block[i * size + j];
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<double>> Matrix(
    const TaskContext& context, const std::vector<LinearSpec>& linears,
    const RatioProblem& problem, const Responses& responses) {
  const int options = static_cast<int>(problem.ratios.size());
  const size_t n = linears.size() * options;
  const double scale = 2.0 / static_cast<double>(responses.sequences);
  const bool gram =
      context.action->solve().method().ratio().estimate() != v1::ESTIMATE_PAPER;
  std::vector<double> m(n * n);
  if (gram) {
    BW_ASSIGN_OR_RETURN(
        m, quant::GramOf(static_cast<int64_t>(n), responses.length, scale,
                         [&](int64_t i, int64_t begin, absl::Span<float> out) {
                           return responses.Read(i, begin, out);
                         }));
  }
  for (size_t i = 0; i < n; ++i) m[i * n + i] = scale * responses.squares[i];
  if (gram) return m;
  for (size_t first = 0, last; first < linears.size(); first = last) {
    last = first;
    while (last < linears.size() &&
           problem.linears[last].block == problem.linears[first].block) {
      ++last;
    }
    BW_RETURN_IF_ERROR(
        AddPairs(context, linears, responses, options, first, last, &m));
  }
  return m;
}

// What each option of each linear takes, and what all may take.
void SetBudget(const v1::MethodSpec& method, RatioProblem* problem,
               int64_t* weights) {
  for (const quant::RatioLinear& linear : problem->linears) {
    *weights += linear.rows * linear.cols;
    const int64_t groups =
        method.group_size() == 0
            ? 1
            : (linear.cols + method.group_size() - 1) / method.group_size();
    for (double ratio : problem->ratios) {
      problem->costs.push_back(
          method.budget() == v1::BUDGET_CODES
              ? quant::RatioCost(linear, ratio, problem->bits_normal,
                                 problem->bits_high)
              : static_cast<int64_t>(quant::RowBitsFileBits(
                    linear.rows, linear.cols, groups,
                    quant::HighRows(ratio, linear.rows), problem->bits_normal,
                    problem->bits_high)));
    }
  }
  // A budget that is a whole number of bits is not lost to rounding.
  problem->budget_bits = static_cast<int64_t>(
      std::floor(method.bits() * static_cast<double>(*weights) * (1 + 1e-12)));
}

absl::StatusOr<RatioSolution> Solve(const RatioProblem& problem,
                                    v1::Interactions interactions) {
  switch (interactions) {
    case v1::INTERACTIONS_UNIFORM:
      return quant::UniformRatio(problem);
    case v1::INTERACTIONS_NONE:
      return quant::SolveRatios(problem, quant::Interactions::kNone);
    case v1::INTERACTIONS_BLOCK:
      return quant::SolveRatios(problem, quant::Interactions::kBlock);
    default:
      return quant::SolveRatios(problem, quant::Interactions::kAll);
  }
}

// The chosen one, and all that can be chosen; each by its own entries of the
// matrix, and judged by all.
absl::Status SolveAll(const RatioProblem& problem, SolutionBlob* blob) {
  for (v1::Interactions interactions :
       {v1::INTERACTIONS_UNIFORM, v1::INTERACTIONS_NONE, v1::INTERACTIONS_BLOCK,
        v1::INTERACTIONS_ALL}) {
    absl::StatusOr<RatioSolution> solution = Solve(problem, interactions);
    const bool chosen = interactions == blob->method.ratio().interactions();
    if (!solution.ok() && chosen) return solution.status();
    if (!solution.ok()) continue;
    solution->objective = quant::RatioObjective(problem, solution->choice,
                                                quant::Interactions::kAll);
    if (chosen) blob->chosen = *solution;
    blob->alternatives.push_back({interactions, *std::move(solution)});
  }
  return absl::OkStatus();
}

TaskOutput MatrixBlob(const RatioProblem& problem) {
  const auto n =
      static_cast<int64_t>(problem.linears.size() * problem.ratios.size());
  Tensor m;
  m.spec = {.name = "m", .dtype = DType::kF64, .shape = {n, n}};
  m.bytes = std::string(BytesOf(problem.m));
  return {.name = "matrix", .bytes = SerializeSafetensors({m}, {})};
}

}  // namespace

absl::StatusOr<TaskResult> ExecuteSolve(const TaskContext& context) {
  const v1::MethodSpec& method = context.action->solve().method();
  const v1::RatioSpec& spec = method.ratio();
  RatioProblem problem;
  problem.ratios.assign(spec.ratios().begin(), spec.ratios().end());
  problem.bits_normal = spec.bits_normal();
  problem.bits_high = spec.bits_high();
  SolutionBlob blob;
  blob.method = method;
  blob.linears = AllLinears(context.model->config(), &problem);
  SetBudget(method, &problem, &blob.weights);
  blob.budget_bits = problem.budget_bits;
  BW_ASSIGN_OR_RETURN(const Responses responses,
                      ReadResponses(context, blob.linears, spec.ratios_size()));
  blob.sequences = responses.sequences;
  context.control->SetFraction(0.2);
  BW_RETURN_IF_ERROR(context.control->Check());
  BW_ASSIGN_OR_RETURN(problem.m,
                      Matrix(context, blob.linears, problem, responses));
  context.control->SetFraction(0.5);
  BW_RETURN_IF_ERROR(context.control->Check());
  BW_RETURN_IF_ERROR(SolveAll(problem, &blob));

  TaskResult result;
  v1::RatioSolution* summary = result.summary.mutable_solve();
  summary->set_objective(blob.chosen.objective);
  summary->set_bits(blob.chosen.bits);
  summary->set_optimal(blob.chosen.optimal);
  result.outputs.push_back(MatrixBlob(problem));
  result.outputs.push_back(
      {.name = "solution", .bytes = SerializeSolution(blob)});
  return result;
}

}  // namespace bitwright
