#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "server/planner/planner.h"

namespace bitwright {
namespace {

// The sums of the tasks "<prefix><shard>", added in shard order; false if there
// is nothing that was predicted.
bool Perplexity(const std::vector<FinishedTask>& tasks,
                absl::string_view prefix, v1::Perplexity* perplexity) {
  std::map<int, const v1::EvaluateSummary*> shards;
  for (const FinishedTask& task : tasks) {
    absl::string_view rest = task.key;
    int shard = 0;
    if (absl::ConsumePrefix(&rest, prefix) && absl::SimpleAtoi(rest, &shard)) {
      shards[shard] = &task.summary.evaluate();
    }
  }
  double nll = 0;
  int64_t tokens = 0, windows = 0;
  int32_t seqlen = 0;
  for (const auto& [shard, summary] : shards) {
    nll += summary->nll();
    tokens += summary->tokens();
    windows += summary->windows();
    if (summary->seqlen() != 0) seqlen = summary->seqlen();
    perplexity->set_text_tokens(summary->text_tokens());
  }
  if (tokens == 0) return false;
  perplexity->set_perplexity(
      std::exp(nll / static_cast<double>(tokens)));  // math.md §5
  perplexity->set_tokens(tokens);
  perplexity->set_windows(windows);
  perplexity->set_seqlen(seqlen);
  return true;
}

// Of the tasks "allocate" and "allocate-<number>", by number.
std::map<int, v1::Prediction> Predictions(
    const std::vector<FinishedTask>& tasks) {
  std::map<int, v1::Prediction> predictions;
  for (const FinishedTask& task : tasks) {
    absl::string_view rest = task.key;
    int number = 0;
    if (!absl::ConsumePrefix(&rest, "allocate")) continue;
    if (!rest.empty() &&
        !(absl::ConsumePrefix(&rest, "-") && absl::SimpleAtoi(rest, &number))) {
      continue;
    }
    predictions[number] = task.summary.allocate();
  }
  return predictions;
}

}  // namespace

v1::JobResult SummarizeJob(const std::vector<FinishedTask>& tasks) {
  v1::JobResult result;
  for (const FinishedTask& task : tasks) {
    if (!task.summary.has_finalize()) continue;
    result.set_code_bits_per_weight(
        task.summary.finalize().code_bits_per_weight());
    result.set_file_bits_per_weight(
        task.summary.finalize().file_bits_per_weight());
  }
  for (const FinishedTask& task : tasks) {
    if (task.summary.has_solve()) {
      *result.mutable_ratio() = task.summary.solve();
    }
  }
  v1::Perplexity perplexity;
  if (Perplexity(tasks, "evaluate-before-", &perplexity)) {
    *result.mutable_perplexity_before() = perplexity;
  }
  if (Perplexity(tasks, "evaluate-after-", &perplexity)) {
    *result.mutable_perplexity_after() = perplexity;
  }
  for (const auto& [number, prediction] : Predictions(tasks)) {
    *result.add_predictions() = prediction;
  }
  return result;
}

}  // namespace bitwright
