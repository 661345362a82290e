// What the tests of job_store_contract.h share: the store under test, short
// records, and calls that must succeed.
#ifndef BITWRIGHT_TESTS_CONTRACT_JOB_STORE_FIXTURE_H_
#define BITWRIGHT_TESTS_CONTRACT_JOB_STORE_FIXTURE_H_

#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/store/job_store.h"

namespace bitwright {

template <typename Stores>
class JobStoreContract : public ::testing::Test {
 protected:
  template <typename T>
  static T Value(absl::StatusOr<T> value) {
    if (!value.ok()) {
      ADD_FAILURE() << value.status();
      std::abort();
    }
    return *std::move(value);
  }
  static void Ok(const absl::Status& status) {
    ASSERT_TRUE(status.ok()) << status;
  }

  void Write(const std::function<void(JobTransaction*)>& body) {
    Ok(store_->Write([&](JobTransaction* t) {
      body(t);
      return absl::OkStatus();
    }));
  }
  void Read(const std::function<void(JobTransaction*)>& body) {
    Ok(store_->Read([&](JobTransaction* t) {
      body(t);
      return absl::OkStatus();
    }));
  }

  static Digest Blob(char digit) { return {std::string(64, digit), 7}; }

  static JobRecord Job(const std::string& id,
                       const std::string& request_id = "") {
    JobRecord job;
    job.id = id;
    job.request_id = request_id;
    job.asked = "asked";
    job.spec.mutable_model()->set_path("/models/" + id);
    job.create_time = absl::FromUnixMicros(1234567);
    return job;
  }

  int64_t Insert(const JobRecord& job) {
    int64_t number = 0;
    Write([&](JobTransaction* t) { number = Value(t->InsertJob(job)); });
    return number;
  }

  static TaskRecord Task(int64_t job, int position,
                         v1::TaskState state = v1::TASK_STATE_WAITING) {
    TaskRecord task;
    task.job = job;
    task.position = position;
    task.key = "task-" + std::to_string(position);
    task.kind = v1::TASK_KIND_FORWARD;
    task.state = state;
    task.stage = position / 2;
    task.affinity = "shard-0";
    return task;
  }

  static ResultRecord Result(const std::string& action, char digit) {
    ResultRecord result;
    result.action_digest = action;
    result.outputs = {{"hidden", Blob(digit)}, {"hessian", Blob('e')}};
    std::swap(result.outputs[0], result.outputs[1]);  // Sorted by name.
    result.summary.mutable_evaluate()->set_nll(2.5);
    return result;
  }

  static std::vector<int> Positions(const std::vector<TaskRecord>& tasks) {
    std::vector<int> positions;
    for (const TaskRecord& task : tasks) positions.push_back(task.position);
    return positions;
  }

  Stores stores_;
  std::unique_ptr<JobStore> store_ = stores_.Open();
};

}  // namespace bitwright

#endif  // BITWRIGHT_TESTS_CONTRACT_JOB_STORE_FIXTURE_H_
