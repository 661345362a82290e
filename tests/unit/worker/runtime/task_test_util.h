// What the tests of this folder share: tasks run in-process, without a server.
#ifndef BITWRIGHT_TESTS_UNIT_WORKER_RUNTIME_TASK_TEST_UTIL_H_
#define BITWRIGHT_TESTS_UNIT_WORKER_RUNTIME_TASK_TEST_UTIL_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/file.h"
#include "worker/runtime/executor.h"

namespace bitwright {

// A model of tests/unit/worker/model/fixtures, by name.
std::string FixtureModel(const std::string& name);

// Blobs by content in a temporary directory, and tasks over them.
class TaskBench {
 public:
  explicit TaskBench(const std::string& model_path);

  OpenModel* model() { return model_.get(); }
  TaskControl* control() { return &control_; }
  int64_t max_hidden_bytes = int64_t{256} << 20;

  v1::NamedBlob Store(const std::string& name, const std::string& bytes);
  // Runs the task, of the current version if none is set; its outputs become
  // blobs.
  struct Done {
    std::map<std::string, v1::BlobDigest> outputs = {};
    v1::TaskSummary summary = {};
    TaskCounters counters;
  };
  absl::StatusOr<Done> Run(v1::Action action);

  std::string Bytes(const v1::BlobDigest& digest) const;
  std::string PathOf(const v1::BlobDigest& digest) const;
  // A directory with the files of a finalize task.
  std::string Checkout(const Done& finalized);

 private:
  TempDirectory directory_;
  std::unique_ptr<OpenModel> model_;
  TaskControl control_;
  int next_ = 0;
};

void AddInput(v1::Action* action, const std::string& name,
              const v1::BlobDigest& digest);

// The bytes of a tokens input: I32 of `shape`, values below `vocabulary`.
std::string TokensBlob(const std::vector<int64_t>& shape, int vocabulary);

// The model's files with their digests, as a planner would list them.
v1::ModelSource Source(const std::string& model_path);

struct PipelineSpec {
  int shards = 2;
  int nsamples = 5;
  int seqlen = 12;
  bool parallel = false;
  v1::Format format = v1::FORMAT_NATIVE;
  v1::MethodSpec method = {};
};
struct PipelineResult {
  std::map<std::string, TaskBench::Done> tasks;  // By the planner's keys.
  TaskBench::Done finalized;
};
// prepare, forward, quantize, finalize over a fixture, aborting the test on any
// error.
PipelineResult RunPipeline(TaskBench* bench, const PipelineSpec& spec);

v1::MethodSpec Method(v1::Method method, double bits);

}  // namespace bitwright

#endif  // BITWRIGHT_TESTS_UNIT_WORKER_RUNTIME_TASK_TEST_UTIL_H_
