#include "tests/unit/worker/runtime/task_test_util.h"

#include <cstdlib>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/digest.h"
#include "common/base/status_macros.h"
#include "gtest/gtest.h"
#include "proto/algorithm_version.h"
#include "worker/runtime/task_inputs.h"

namespace bitwright {
namespace {

namespace fs = std::filesystem;

template <typename T>
T Must(absl::StatusOr<T> value) {
  if (!value.ok()) {
    ADD_FAILURE() << value.status();
    std::abort();
  }
  return *std::move(value);
}

class BenchReader : public InputReader {
 public:
  BenchReader(const v1::Action& action, const TaskBench& bench)
      : action_(action), bench_(bench) {}
  absl::StatusOr<std::string> Path(const std::string& name) override {
    for (const v1::NamedBlob& input : action_.inputs()) {
      if (input.name() == name) return bench_.PathOf(input.digest());
    }
    return absl::NotFoundError(name);
  }

 private:
  const v1::Action& action_;
  const TaskBench& bench_;
};

v1::BlobDigest Proto(const Digest& digest) {
  v1::BlobDigest proto;
  proto.set_sha256(digest.sha256);
  proto.set_size_bytes(digest.size);
  return proto;
}

}  // namespace

std::string FixtureModel(const std::string& name) {
  const char* source = std::getenv("BITWRIGHT_SOURCE_DIR");
  return absl::StrCat(source == nullptr ? "." : source,
                      "/tests/unit/worker/model/fixtures/", name);
}

TaskBench::TaskBench(const std::string& model_path)
    : directory_(Must(TempDirectory::Create("bench-"))),
      model_(Must(OpenModel::Open(model_path, "cpu"))) {}

std::string TaskBench::PathOf(const v1::BlobDigest& digest) const {
  return absl::StrCat(directory_.path(), "/", digest.sha256());
}

std::string TaskBench::Bytes(const v1::BlobDigest& digest) const {
  return Must(ReadFile(PathOf(digest)));
}

v1::NamedBlob TaskBench::Store(const std::string& name,
                               const std::string& bytes) {
  v1::NamedBlob blob;
  blob.set_name(name);
  *blob.mutable_digest() = Proto(DigestOf(bytes));
  EXPECT_TRUE(WriteFileAtomically(PathOf(blob.digest()), bytes).ok());
  return blob;
}

absl::StatusOr<TaskBench::Done> TaskBench::Run(v1::Action action) {
  if (action.algorithm_version() == 0)
    action.set_algorithm_version(AlgorithmVersion(action.kind()));
  const std::string scratch =
      absl::StrCat(directory_.path(), "/scratch", next_++);
  fs::create_directory(scratch);
  BenchReader reader(action, *this);
  BW_ASSIGN_OR_RETURN(TaskResult result,
                      ExecuteTask({.action = &action,
                                   .inputs = &reader,
                                   .model = model_.get(),
                                   .scratch = scratch,
                                   .control = &control_,
                                   .max_hidden_bytes = max_hidden_bytes}));
  Done done{
      .outputs = {}, .summary = result.summary, .counters = result.counters};
  for (const TaskOutput& output : result.outputs) {
    const Digest digest = output.path.empty() ? DigestOf(output.bytes)
                                              : Must(DigestOfFile(output.path));
    EXPECT_EQ(output.digest.value_or(digest), digest);
    done.outputs[output.name] = Proto(digest);
    const std::string path = PathOf(Proto(digest));
    if (output.path.empty()) {
      EXPECT_TRUE(WriteFileAtomically(path, output.bytes).ok());
    } else {
      fs::rename(output.path, path);
    }
  }
  return done;
}

std::string TaskBench::Checkout(const Done& finalized) {
  const std::string out =
      absl::StrCat(directory_.path(), "/checkpoint", next_++);
  fs::create_directory(out);
  for (const auto& [name, digest] : finalized.outputs) {
    if (name == "manifest") continue;
    const std::string path = absl::StrCat(out, "/", name.substr(5));
    fs::copy_file(PathOf(digest), path);
  }
  return out;
}

void AddInput(v1::Action* action, const std::string& name,
              const v1::BlobDigest& digest) {
  v1::NamedBlob* input = action->add_inputs();
  input->set_name(name);
  *input->mutable_digest() = digest;
}

std::string TokensBlob(const std::vector<int64_t>& shape, int vocabulary) {
  int64_t count = 1;
  for (int64_t n : shape) count *= n;
  std::vector<int32_t> ids(count);
  uint32_t state = 1;
  for (int32_t& id : ids) {
    state = state * 1664525u + 1013904223u;
    id = static_cast<int32_t>((state >> 16) % vocabulary);
  }
  Tensor tokens{
      .spec = {.name = "tokens", .dtype = DType::kI32, .shape = shape},
      .bytes = std::string(BytesOf(ids))};
  return SerializeSafetensors({tokens});
}

v1::ModelSource Source(const std::string& model_path) {
  v1::ModelSource source;
  source.set_path(model_path);
  auto directory = Must(ModelDirectory::Open(model_path));
  for (const std::string& name : directory->files()) {
    v1::SourceFile* file = source.add_files();
    file->set_name(name);
    *file->mutable_digest() =
        Proto(Must(DigestOfFile(absl::StrCat(model_path, "/", name))));
  }
  return source;
}

v1::MethodSpec Method(v1::Method method, double bits) {
  v1::MethodSpec spec;
  spec.set_method(method);
  spec.set_bits(bits);
  spec.set_damping(0.01);
  if (method == v1::METHOD_BAQ) {
    spec.set_variant(v1::VARIANT_EXACT);
    spec.set_budget(v1::BUDGET_CODES);
  }
  return spec;
}

namespace {

v1::Action ForwardAction(const PipelineSpec& spec, const ModelConfig& config,
                         const PipelineResult& done, int block, int shard) {
  v1::Action action;
  action.set_kind(v1::TASK_KIND_FORWARD);
  v1::ForwardParameters* forward = action.mutable_forward();
  forward->set_block(block);
  forward->set_shard(shard);
  forward->set_shards(spec.shards);
  forward->set_last(block + 1 == config.num_layers);
  if (block == 0) {
    AddInput(&action, "windows",
             done.tasks.at("prepare").outputs.at("windows"));
    return action;
  }
  const std::string before = absl::StrCat("forward-", block - 1, "-", shard);
  AddInput(&action, "hidden", done.tasks.at(before).outputs.at("hidden"));
  if (spec.parallel) return action;
  for (const LinearSpec& linear : BlockLinears(config, block - 1)) {
    AddInput(&action, absl::StrCat("linear.", linear.name),
             done.tasks.at(absl::StrCat("quantize-", linear.name))
                 .outputs.at("linear"));
  }
  return action;
}

v1::Action FinalizeAction(const PipelineSpec& spec, TaskBench* bench,
                          const PipelineResult& done) {
  const ModelConfig& config = bench->model()->config();
  v1::Action action;
  action.set_kind(v1::TASK_KIND_FINALIZE);
  v1::FinalizeParameters* finalize = action.mutable_finalize();
  finalize->set_format(spec.format);
  v1::JobSpec* job = finalize->mutable_spec();
  *job->mutable_model() = Source(bench->model()->directory().path());
  job->mutable_model()->clear_path();
  *job->mutable_method() = spec.method;
  job->mutable_calibration()->set_nsamples(spec.nsamples);
  job->mutable_calibration()->set_seqlen(spec.seqlen);
  job->set_format(spec.format);
  for (int block = 0; block < config.num_layers; ++block) {
    for (const LinearSpec& linear : BlockLinears(config, block)) {
      AddInput(&action, absl::StrCat("linear.", linear.name),
               done.tasks.at(absl::StrCat("quantize-", linear.name))
                   .outputs.at("linear"));
    }
  }
  return action;
}

}  // namespace

PipelineResult RunPipeline(TaskBench* bench, const PipelineSpec& spec) {
  const ModelConfig& config = bench->model()->config();
  PipelineResult result;
  v1::Action prepare;
  prepare.set_kind(v1::TASK_KIND_PREPARE);
  prepare.mutable_prepare()->set_calibration(true);
  prepare.mutable_prepare()->set_nsamples(spec.nsamples);
  prepare.mutable_prepare()->set_seqlen(spec.seqlen);
  *prepare.add_inputs() =
      bench->Store("tokens", TokensBlob({400}, config.vocab_size));
  result.tasks["prepare"] = Must(bench->Run(prepare));
  for (int block = 0; block < config.num_layers; ++block) {
    for (int shard = 0; shard < spec.shards; ++shard) {
      result.tasks[absl::StrCat("forward-", block, "-", shard)] =
          Must(bench->Run(ForwardAction(spec, config, result, block, shard)));
    }
    for (const LinearSpec& linear : BlockLinears(config, block)) {
      v1::Action action;
      action.set_kind(v1::TASK_KIND_QUANTIZE);
      action.mutable_quantize()->set_block(block);
      action.mutable_quantize()->set_linear(linear.name);
      *action.mutable_quantize()->mutable_method() = spec.method;
      for (int shard = 0;
           spec.method.method() != v1::METHOD_RTN && shard < spec.shards;
           ++shard) {
        AddInput(&action, absl::StrFormat("hessian.%04d", shard),
                 result.tasks.at(absl::StrCat("forward-", block, "-", shard))
                     .outputs.at("hessian"));
      }
      result.tasks[absl::StrCat("quantize-", linear.name)] =
          Must(bench->Run(action));
    }
  }
  result.finalized = Must(bench->Run(FinalizeAction(spec, bench, result)));
  return result;
}

}  // namespace bitwright
