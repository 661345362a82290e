// Specs, and plans as lines, for the tests of this folder.
#ifndef BITWRIGHT_TESTS_UNIT_SERVER_PLANNER_PLAN_TEST_UTIL_H_
#define BITWRIGHT_TESTS_UNIT_SERVER_PLANNER_PLAN_TEST_UTIL_H_

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/planner/planner.h"

namespace bitwright {

// An OPT of `layers` blocks: six linears each.
inline ModelConfig Model(int layers) {
  ModelConfig config;
  config.family = ModelFamily::kOpt;
  config.model_type = "opt";
  config.name_prefix = "model.decoder.";
  config.num_layers = layers;
  config.hidden_size = 8;
  config.intermediate_size = 32;
  config.num_heads = config.num_kv_heads = 2;
  config.head_dim = 4;
  config.max_position = 64;
  return config;
}

inline void SetBlob(const std::string& name, char digit, v1::NamedBlob* blob) {
  blob->set_name(name);
  blob->mutable_digest()->set_sha256(std::string(64, digit));
  blob->mutable_digest()->set_size_bytes(5);
}

inline v1::JobSpec Spec(const ModelConfig& config) {
  v1::JobSpec spec;
  spec.mutable_model()->set_path("/models/m");
  SetBlob("a.txt", 'a',
          spec.mutable_calibration()->mutable_source()->add_texts());
  SetBlob("b.txt", 'b',
          spec.mutable_calibration()->mutable_source()->add_texts());
  spec.mutable_calibration()->set_shards(2);
  spec.mutable_calibration()->set_seed(7);
  SetBlob("t", 'c',
          spec.mutable_evaluation()->mutable_source()->mutable_tokens());
  spec.mutable_method()->set_bits(3);
  spec = *ResolveSpec(spec, config);
  v1::SourceFile* file = spec.mutable_model()->add_files();
  file->set_name("config.json");
  file->mutable_digest()->set_sha256(std::string(64, 'd'));
  return spec;
}

// "key: input=source/output, ..." with blobs as their first digit.
inline std::string Describe(const PlannedTask& task) {
  std::vector<std::string> inputs;
  for (const PlannedInput& input : task.inputs) {
    inputs.push_back(
        input.task.empty()
            ? absl::StrCat(input.name, "=", input.blob.sha256().substr(0, 1))
            : absl::StrCat(input.name, "=", input.task, "/", input.output));
  }
  return absl::StrCat(task.key,
                      task.affinity.empty() ? "" : " @" + task.affinity, ": ",
                      absl::StrJoin(inputs, ", "));
}

inline std::vector<std::string> Describe(const Plan& plan) {
  std::vector<std::string> lines;
  for (const PlannedTask& task : plan.tasks) lines.push_back(Describe(task));
  return lines;
}

inline const PlannedTask& Find(const Plan& plan, const std::string& key) {
  for (const PlannedTask& task : plan.tasks) {
    if (task.key == key) return task;
  }
  ADD_FAILURE() << "no task " << key;
  return plan.tasks.front();
}

// All linears of a block, in the order of their names.
inline std::string Linears(int block) {
  std::map<std::string, std::string> inputs;
  for (const LinearSpec& linear : BlockLinears(Model(2), block)) {
    inputs[linear.name] = absl::StrCat("linear.", linear.name, "=quantize-",
                                       linear.name, "/linear");
  }
  std::vector<std::string> lines;
  for (const auto& [name, line] : inputs) lines.push_back(line);
  return absl::StrJoin(lines, ", ");
}

}  // namespace bitwright

#endif  // BITWRIGHT_TESTS_UNIT_SERVER_PLANNER_PLAN_TEST_UTIL_H_
