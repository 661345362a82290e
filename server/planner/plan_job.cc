#include <algorithm>
#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/digest.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "proto/algorithm_version.h"
#include "server/planner/action_methods.h"
#include "server/planner/planner.h"
#include "server/planner/task_keys.h"

namespace bitwright {
namespace {

// Windows of the evaluation text are cut into this many shards, always.
constexpr int kEvaluationShards = 4;

// Which weights the blocks before have.
enum class Pass { kFull, kQuantized };

PlannedInput FromTask(std::string name, std::string task, std::string output) {
  PlannedInput input;
  input.name = std::move(name);
  input.task = std::move(task);
  input.output = std::move(output);
  return input;
}

class Planner {
 public:
  Planner(const v1::JobSpec& spec, const ModelConfig& config)
      : spec_(spec),
        config_(config),
        model_digest_(ModelDigest(spec.model())),
        calibrated_(spec.method().method() != v1::METHOD_RTN),
        sequential_(!spec.has_plan() &&
                    spec.pipeline() == v1::PIPELINE_SEQUENTIAL),
        allocated_(spec.has_plan() || spec.method().scope() == v1::SCOPE_MODEL),
        ratio_(!spec.evaluate_only() &&
               spec.method().method() == v1::METHOD_RATIO),
        hybrid_(ratio_ &&
                spec.method().ratio().quantizer() == v1::QUANTIZER_HYBRID) {}

  Plan Run() {
    const bool evaluate = spec_.has_evaluation();
    const bool quantize = !spec_.evaluate_only() && !spec_.has_plan();
    if (!spec_.evaluate_only() && calibrated_) AddPrepareCalibration();
    if (evaluate) AddPrepareEvaluation();
    if (!spec_.evaluate_only() && allocated_) AddAllocation();
    if (ratio_) AddSolution();
    if (quantize) {
      for (int64_t block = 0; block < config_.num_layers; ++block) {
        if (calibrated_) AddForward(block, CalibrationPass());
        if (hybrid_) {
          AddReconstruct(block);
        } else {
          AddQuantize(block);
        }
      }
      AddFinalize();
    }
    if (evaluate) {
      AddEvaluate("evaluate-before-", /*quantized=*/false);
      if (quantize) AddEvaluate("evaluate-after-", /*quantized=*/true);
    }
    return std::move(plan_);
  }

 private:
  PlannedTask* Add(std::string key, v1::TaskKind kind) {
    PlannedTask& task = plan_.tasks.emplace_back();
    task.key = std::move(key);
    task.action.set_kind(kind);
    task.action.set_algorithm_version(AlgorithmVersion(kind));
    task.action.set_model_digest(model_digest_);
    return &task;
  }

  void AddPrepareCalibration() {
    PlannedTask* task = Add(kPrepare, v1::TASK_KIND_PREPARE);
    v1::PrepareParameters* prepare = task->action.mutable_prepare();
    prepare->set_calibration(true);
    prepare->set_nsamples(spec_.calibration().nsamples());
    prepare->set_seqlen(spec_.calibration().seqlen());
    prepare->set_seed(spec_.calibration().seed());
    AddText(spec_.calibration().source(), task);
  }

  void AddPrepareEvaluation() {
    PlannedTask* task = Add(kPrepareEvaluation, v1::TASK_KIND_PREPARE);
    task->action.mutable_prepare()->set_seqlen(spec_.evaluation().seqlen());
    AddText(spec_.evaluation().source(), task);
  }

  static void AddText(const v1::TextSource& source, PlannedTask* task) {
    if (source.has_tokens()) {
      PlannedInput& input = task->inputs.emplace_back();
      input.name = "tokens";
      input.blob = source.tokens().digest();
    }
    for (int i = 0; i < source.texts_size(); ++i) {
      PlannedInput& input = task->inputs.emplace_back();
      input.name = absl::StrFormat("text.%04d", i);
      input.blob = source.texts(i).digest();
    }
  }

  // One "linear.<name>" for each linear of the block, from its quantize task
  // or from the block's reconstruct task.
  void AddLinears(int64_t block, PlannedTask* task) const {
    for (const LinearSpec& linear : BlockLinears(config_, block)) {
      std::string name = absl::StrCat("linear.", linear.name);
      task->inputs.push_back(
          hybrid_ ? FromTask(name, ReconstructKey(block), name)
                  : FromTask(name, QuantizeKey(linear.name), "linear"));
    }
  }

  // Both passes begin alike, and share the tasks of block 0. Where there is
  // only one, it goes without a name.
  std::string ForwardKey(Pass pass, int64_t block, int shard) const {
    const bool apart = sequential_ && pass == Pass::kFull && block > 0;
    return absl::StrCat(apart ? "forward-full-" : "forward-", block, "-",
                        shard);
  }

  void AddForward(int64_t block, Pass pass) {
    if (!forwards_.insert(ForwardKey(pass, block, 0)).second) return;
    const bool quantized = pass == Pass::kQuantized && block > 0;
    const int shards = spec_.calibration().shards();
    for (int shard = 0; shard < shards; ++shard) {
      PlannedTask* task =
          Add(ForwardKey(pass, block, shard), v1::TASK_KIND_FORWARD);
      task->affinity = absl::StrCat("shard-", shard);
      v1::ForwardParameters* forward = task->action.mutable_forward();
      forward->set_block(static_cast<int32_t>(block));
      forward->set_shard(shard);
      forward->set_shards(shards);
      // What entered a block at full precision is what its gradient needs,
      // whether this job or a later one takes it.
      forward->set_last(quantized && block == config_.num_layers - 1 &&
                        !hybrid_);
      if (block == 0) {
        task->inputs.push_back(FromTask("windows", kPrepare, "windows"));
        continue;
      }
      task->inputs.push_back(
          FromTask("hidden", ForwardKey(pass, block - 1, shard), "hidden"));
      if (quantized) AddLinears(block - 1, task);
    }
  }

  // One "<name>.<shard>" for each shard, from `output` of the task that `key`
  // names.
  template <typename Key>
  void AddShards(const char* name, const char* output, Key key,
                 PlannedTask* task) const {
    for (int shard = 0; shard < spec_.calibration().shards(); ++shard) {
      task->inputs.push_back(FromTask(absl::StrFormat("%s.%04d", name, shard),
                                      key(shard), output));
    }
  }

  void AddFisher(int64_t block, PlannedTask* task) const {
    AddShards(
        "fisher", "fisher",
        [&](int shard) { return GradientKey(block, shard); }, task);
  }

  // The full-precision passes forwards and backwards, a response for every
  // linear and ratio, and what the solver makes of them.
  void AddSolution() {
    for (int64_t block = 0; block <= config_.num_layers; ++block) {
      AddForward(block, Pass::kFull);
    }
    for (int64_t block = config_.num_layers - 1; block >= 0; --block) {
      AddGradient(block);
    }
    for (int64_t block = 0; block < config_.num_layers; ++block) {
      AddResponses(block);
    }
    PlannedTask* solve = Add(kSolve, v1::TASK_KIND_SOLVE);
    *solve->action.mutable_solve()->mutable_method() =
        SolveMethod(spec_.method());
    const int options = spec_.method().ratio().ratios_size();
    for (int64_t block = 0; block < config_.num_layers; ++block) {
      const std::vector<LinearSpec> linears = BlockLinears(config_, block);
      for (size_t l = 0; l < linears.size(); ++l) {
        const std::string& name = linears[l].name;
        for (int m = 0; m < options; ++m) {
          solve->inputs.push_back(
              FromTask(absl::StrFormat("response.%s.%04d", name, m),
                       ResponseKey(name, m), "response"));
          for (size_t p = l + 1; WithPairs() && p < linears.size(); ++p) {
            solve->inputs.push_back(FromTask(
                absl::StrFormat("pair.%s.%04d.%s", name, m, linears[p].name),
                PairKey(name, m, linears[p].name), "response"));
          }
        }
      }
    }
  }

  bool WithPairs() const {
    return spec_.method().ratio().estimate() == v1::ESTIMATE_PAPER;
  }

  void AddResponses(int64_t block) {
    const std::vector<LinearSpec> linears = BlockLinears(config_, block);
    for (size_t l = 0; l < linears.size(); ++l) {
      const int options = spec_.method().ratio().ratios_size();
      for (int m = 0; m < options; ++m) {
        AddResponse(block, linears[l].name, m, /*partner=*/nullptr);
        for (size_t p = l + 1; WithPairs() && p < linears.size(); ++p) {
          AddResponse(block, linears[l].name, m, &linears[p].name);
        }
      }
    }
  }

  void AddResponse(int64_t block, const std::string& linear, int option,
                   const std::string* partner) {
    const v1::MethodSpec& method = spec_.method();
    PlannedTask* task =
        Add(partner == nullptr ? ResponseKey(linear, option)
                               : PairKey(linear, option, *partner),
            v1::TASK_KIND_RESPONSE);
    v1::ResponseParameters* response = task->action.mutable_response();
    response->set_block(static_cast<int32_t>(block));
    response->set_linear(linear);
    response->set_ratio(method.ratio().ratios(option));
    response->set_bits_normal(method.ratio().bits_normal());
    response->set_bits_high(method.ratio().bits_high());
    response->set_group_size(method.group_size());
    if (partner != nullptr) {
      response->set_partner(*partner);
      *response->mutable_partner_ratios() = method.ratio().ratios();
    }
    AddFisher(block, task);
    AddShards(
        "hidden", "hidden",
        [&](int shard) { return ForwardKey(Pass::kFull, block, shard); }, task);
    AddShards(
        "output", "hidden",
        [&](int shard) {
          return ForwardKey(Pass::kFull, config_.num_layers, shard);
        },
        task);
  }

  // One "hessian.<shard>" for each shard.
  void AddHessians(Pass pass, int64_t block, PlannedTask* task) const {
    AddShards(
        "hessian", "hessian",
        [&](int shard) { return ForwardKey(pass, block, shard); }, task);
  }

  // The full-precision passes forwards and backwards, and an allocation for
  // each budget. Nothing before the allocation depends on the budget.
  void AddAllocation() {
    for (int64_t block = 0; block < config_.num_layers; ++block) {
      AddForward(block, Pass::kFull);
      AddMeasure(block);
    }
    for (int64_t block = config_.num_layers - 1; block >= 0; --block) {
      AddGradient(block);
    }
    if (!spec_.has_plan()) {
      AddAllocate(kAllocate, spec_.method().bits());
      return;
    }
    for (int i = 0; i < spec_.plan().bits_size(); ++i) {
      AddAllocate(absl::StrFormat("%s-%04d", kAllocate, i),
                  spec_.plan().bits(i));
    }
  }

  void AddMeasure(int64_t block) {
    for (const LinearSpec& linear : BlockLinears(config_, block)) {
      PlannedTask* task = Add(MeasureKey(linear.name), v1::TASK_KIND_MEASURE);
      v1::MeasureParameters* measure = task->action.mutable_measure();
      measure->set_block(static_cast<int32_t>(block));
      measure->set_linear(linear.name);
      *measure->mutable_method() = MeasureMethod(spec_.method());
      AddHessians(Pass::kFull, block, task);
    }
  }

  void AddGradient(int64_t block) {
    const int shards = spec_.calibration().shards();
    for (int shard = 0; shard < shards; ++shard) {
      PlannedTask* task =
          Add(GradientKey(block, shard), v1::TASK_KIND_GRADIENT);
      task->affinity = absl::StrCat("shard-", shard);
      v1::GradientParameters* gradient = task->action.mutable_gradient();
      gradient->set_block(static_cast<int32_t>(block));
      gradient->set_shard(shard);
      gradient->set_shards(shards);
      gradient->set_fisher(ratio_);
      task->inputs.push_back(
          FromTask("hidden", ForwardKey(Pass::kFull, block, shard), "hidden"));
      if (block == config_.num_layers - 1) {
        task->inputs.push_back(FromTask("windows", kPrepare, "windows"));
      } else {
        task->inputs.push_back(
            FromTask("gradient", GradientKey(block + 1, shard), "gradient"));
      }
    }
  }

  void AddAllocate(std::string key, double bits) {
    PlannedTask* task = Add(std::move(key), v1::TASK_KIND_ALLOCATE);
    *task->action.mutable_allocate()->mutable_method() =
        AllocateMethod(spec_.method(), bits);
    for (int64_t block = 0; block < config_.num_layers; ++block) {
      for (const LinearSpec& linear : BlockLinears(config_, block)) {
        task->inputs.push_back(FromTask(absl::StrCat("curves.", linear.name),
                                        MeasureKey(linear.name), "curves"));
      }
      for (int shard = 0; shard < spec_.calibration().shards(); ++shard) {
        task->inputs.push_back(
            FromTask(absl::StrFormat("sensitivity.%04d.%04d", block, shard),
                     GradientKey(block, shard), "sensitivity"));
      }
    }
  }

  // What linears are quantized on.
  Pass CalibrationPass() const {
    return sequential_ ? Pass::kQuantized : Pass::kFull;
  }

  void AddQuantize(int64_t block) {
    for (const LinearSpec& linear : BlockLinears(config_, block)) {
      PlannedTask* task = Add(QuantizeKey(linear.name), v1::TASK_KIND_QUANTIZE);
      v1::QuantizeParameters* quantize = task->action.mutable_quantize();
      quantize->set_block(static_cast<int32_t>(block));
      quantize->set_linear(linear.name);
      *quantize->mutable_method() = QuantizeMethod(spec_.method());
      if (calibrated_) AddHessians(CalibrationPass(), block, task);
      if (allocated_) {
        task->inputs.push_back(FromTask("allocation", kAllocate, "allocation"));
      }
      if (ratio_) {
        task->inputs.push_back(FromTask("solution", kSolve, "solution"));
        AddFisher(block, task);
      }
    }
  }

  void AddReconstruct(int64_t block) {
    const Pass pass = CalibrationPass();
    PlannedTask* task = Add(ReconstructKey(block), v1::TASK_KIND_RECONSTRUCT);
    v1::ReconstructParameters* reconstruct = task->action.mutable_reconstruct();
    reconstruct->set_block(static_cast<int32_t>(block));
    reconstruct->set_group_size(spec_.method().group_size());
    reconstruct->set_seed(spec_.calibration().seed());
    *reconstruct->mutable_hybrid() = spec_.method().ratio().hybrid();
    task->inputs.push_back(FromTask("solution", kSolve, "solution"));
    AddFisher(block, task);
    AddHessians(pass, block, task);
    AddShards(
        "hidden", "hidden",
        [&](int shard) { return ForwardKey(pass, block, shard); }, task);
    AddShards(
        "target", "hidden",
        [&](int shard) { return ForwardKey(Pass::kFull, block + 1, shard); },
        task);
  }

  void AddFinalize() {
    PlannedTask* task = Add("finalize", v1::TASK_KIND_FINALIZE);
    v1::FinalizeParameters* finalize = task->action.mutable_finalize();
    finalize->set_format(spec_.format());
    v1::JobSpec* lineage = finalize->mutable_spec();
    *lineage = spec_;
    // Neither where the model lies nor how the result is judged is part of it.
    lineage->mutable_model()->clear_path();
    lineage->clear_evaluation();
    if (!calibrated_) lineage->clear_calibration();
    for (int64_t b = 0; b < config_.num_layers; ++b) AddLinears(b, task);
  }

  void AddEvaluate(const char* prefix, bool quantized) {
    for (int shard = 0; shard < kEvaluationShards; ++shard) {
      PlannedTask* task =
          Add(absl::StrCat(prefix, shard), v1::TASK_KIND_EVALUATE);
      task->action.mutable_evaluate()->set_shard(shard);
      task->action.mutable_evaluate()->set_shards(kEvaluationShards);
      if (quantized) {
        for (int64_t b = 0; b < config_.num_layers; ++b) AddLinears(b, task);
      }
      task->inputs.push_back(
          FromTask("windows", kPrepareEvaluation, "windows"));
    }
  }

  const v1::JobSpec& spec_;
  const ModelConfig& config_;
  const std::string model_digest_;
  const bool calibrated_;
  const bool sequential_;           // Hessians behind the quantized prefix.
  const bool allocated_;            // Over the whole model.
  const bool ratio_;                // A ratio of rows for each linear.
  const bool hybrid_;               // Whose blocks are reconstructed.
  std::set<std::string> forwards_;  // Added already, by their first key.
  Plan plan_;
};

}  // namespace

Plan PlanJob(const v1::JobSpec& spec, const ModelConfig& config) {
  Plan plan = Planner(spec, config).Run();
  for (PlannedTask& task : plan.tasks) {
    std::sort(task.inputs.begin(), task.inputs.end(),
              [](const PlannedInput& a, const PlannedInput& b) {
                return a.name < b.name;
              });
  }
  return plan;
}

std::string ModelDigest(const v1::ModelSource& model) {
  std::vector<std::string> lines;
  for (const v1::SourceFile& file : model.files()) {
    // No file name holds a zero byte, and no digest a line feed.
    lines.push_back(absl::StrCat(file.name(), std::string(1, '\0'),
                                 file.digest().sha256(), "/",
                                 file.digest().size_bytes(), "\n"));
  }
  std::sort(lines.begin(), lines.end());
  Hasher hasher;
  for (const std::string& line : lines) hasher.Update(line);
  return hasher.Finish().sha256;
}

std::string ActionDigest(const v1::Action& action) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    action.SerializeToCodedStream(&coded);
  }
  return DigestOf(bytes).sha256;
}

}  // namespace bitwright
