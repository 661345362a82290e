// From a job's spec and its model's config to a graph of pure tasks. Pure
// itself: no I/O and no clock, so the same arguments always give the same plan.
//
//   BW_ASSIGN_OR_RETURN(JobSpec spec, ResolveSpec(asked, config));
//   Plan plan = PlanJob(spec, config, model_digest);
#ifndef BITWRIGHT_SERVER_PLANNER_PLANNER_H_
#define BITWRIGHT_SERVER_PLANNER_PLANNER_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "bitwright/v1/job.pb.h"
#include "bitwright/v1/worker.pb.h"
#include "common/checkpoint/model_config.h"

namespace bitwright {

// Texts of one calibration or evaluation set, at most.
inline constexpr int kMaxTexts = 1000;
// Budgets of one plan, at most.
inline constexpr int kMaxPlannedBudgets = 1000;

// Where an input comes from: a blob that exists, or another task's output.
struct PlannedInput {
  std::string name;
  v1::BlobDigest blob;  // Used if `task` is empty.
  std::string task;     // Key of an earlier task of the plan.
  std::string output;   // Name of that task's output.
};

struct PlannedTask {
  // "prepare", "forward-3-0", "quantize-<linear>", "evaluate-before-0",
  // "evaluate-after-0", "finalize". For the ratio method also "gradient-3-0",
  // "response-<linear>-<option>" and "solve"; with a budget over the model also
  // "measure-<linear>", "gradient-3-0" and "allocate"; in the sequential
  // pipeline its full-precision pass is "forward-full-3-0" from block 1 on.
  // When only planning, "allocate-0000"... one for each budget.
  std::string key;
  v1::Action action;  // All but `inputs`.
  std::vector<PlannedInput> inputs;
  std::string affinity;  // Tasks with one affinity like to run on one worker.
};

// In topological order, which is also the order of preference.
struct Plan {
  std::vector<PlannedTask> tasks;
};

// Fills in every default and checks every field against the model.
// INVALID_ARGUMENT names the field, what it is and what it may be.
absl::StatusOr<v1::JobSpec> ResolveSpec(const v1::JobSpec& spec,
                                        const ModelConfig& config);

// `spec` is resolved and spec.model().files() is filled in.
Plan PlanJob(const v1::JobSpec& spec, const ModelConfig& config);

// SHA-256 over names and digests of the model's files.
std::string ModelDigest(const v1::ModelSource& model);

// The action digest: SHA-256 of the deterministic serialization.
std::string ActionDigest(const v1::Action& action);

// The job's result from its tasks' summaries, e.g. perplexities from the sums
// of the evaluate tasks in shard order, predictions in the order of the
// budgets.
struct FinishedTask {
  std::string key;
  v1::TaskSummary summary;
};
v1::JobResult SummarizeJob(const std::vector<FinishedTask>& tasks);

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_PLANNER_PLANNER_H_
