#include <gtest/gtest.h>

#include <cmath>

#include "server/planner/planner.h"

namespace bitwright {
namespace {

FinishedTask Evaluation(const std::string& key, double nll, int64_t tokens) {
  FinishedTask task{key, {}};
  task.summary.mutable_evaluate()->set_nll(nll);
  task.summary.mutable_evaluate()->set_tokens(tokens);
  task.summary.mutable_evaluate()->set_windows(tokens / 7);
  task.summary.mutable_evaluate()->set_seqlen(tokens == 0 ? 0 : 8);
  return task;
}

TEST(SummarizeJob, PerplexityIsOverAllPredictedTokens) {
  std::vector<FinishedTask> tasks = {Evaluation("evaluate-before-0", 14, 7),
                                     Evaluation("evaluate-before-1", 70, 14),
                                     Evaluation("evaluate-before-2", 0, 0),
                                     Evaluation("evaluate-after-0", 21, 7)};
  tasks.push_back({"finalize", {}});
  tasks.back().summary.mutable_finalize()->set_code_bits_per_weight(2.5);
  tasks.back().summary.mutable_finalize()->set_file_bits_per_weight(2.75);
  const v1::JobResult result = SummarizeJob(tasks);
  EXPECT_DOUBLE_EQ(result.perplexity_before().perplexity(),
                   std::exp(84.0 / 21));
  EXPECT_EQ(result.perplexity_before().tokens(), 21);
  EXPECT_EQ(result.perplexity_before().windows(), 3);
  EXPECT_EQ(result.perplexity_before().seqlen(), 8);
  EXPECT_DOUBLE_EQ(result.perplexity_after().perplexity(), std::exp(3.0));
  EXPECT_EQ(result.code_bits_per_weight(), 2.5);
  EXPECT_EQ(result.file_bits_per_weight(), 2.75);
}

TEST(SummarizeJob, AddsInShardOrderWhateverTheOrderOfTheTasks) {
  // 1e16 + 1 + 1 rounds otherwise than 1 + 1 + 1e16.
  std::vector<FinishedTask> tasks = {
      Evaluation("evaluate-after-0", 1e16, 7),
      Evaluation("evaluate-after-1", 1, 7),
      Evaluation("evaluate-after-2", 1, static_cast<int64_t>(1e16))};
  const double forward = SummarizeJob(tasks).perplexity_after().perplexity();
  std::swap(tasks[0], tasks[2]);
  EXPECT_EQ(SummarizeJob(tasks).perplexity_after().perplexity(), forward);
}

TEST(SummarizeJob, PredictionsComeInTheOrderOfTheBudgets) {
  std::vector<FinishedTask> tasks;
  for (const char* key : {"allocate-0010", "allocate-0002", "allocate-0001"}) {
    tasks.push_back({key, {}});
    tasks.back().summary.mutable_allocate()->set_bits(key[12] + 10 * key[11]);
  }
  tasks.push_back({"allocate-other", {}});
  const v1::JobResult result = SummarizeJob(tasks);
  ASSERT_EQ(result.predictions_size(), 3);
  EXPECT_LT(result.predictions(0).bits(), result.predictions(1).bits());
  EXPECT_LT(result.predictions(1).bits(), result.predictions(2).bits());
  tasks = {{"allocate", {}}};
  tasks[0].summary.mutable_allocate()->set_bits(2.5);
  ASSERT_EQ(SummarizeJob(tasks).predictions_size(), 1);
  EXPECT_EQ(SummarizeJob(tasks).predictions(0).bits(), 2.5);
}

TEST(SummarizeJob, NoEvaluationNoPerplexity) {
  const v1::JobResult result = SummarizeJob({{"finalize", {}}});
  EXPECT_FALSE(result.has_perplexity_before());
  EXPECT_FALSE(result.has_perplexity_after());
  EXPECT_EQ(result.predictions_size(), 0);
}

}  // namespace
}  // namespace bitwright
