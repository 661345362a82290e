#include "tests/unit/server/scheduler/service.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace bitwright {

v1::BlobDigest MemoryBlobStore::Put(absl::string_view bytes) {
  const Digest digest = DigestOf(bytes);
  absl::MutexLock lock(&mutex_);
  blobs_[digest] = std::string(bytes);
  v1::BlobDigest proto;
  proto.set_sha256(digest.sha256);
  proto.set_size_bytes(static_cast<int64_t>(digest.size));
  return proto;
}

size_t MemoryBlobStore::size() {
  absl::MutexLock lock(&mutex_);
  return blobs_.size();
}

absl::StatusOr<bool> MemoryBlobStore::Has(const Digest& digest) {
  absl::MutexLock lock(&mutex_);
  return blobs_.count(digest) > 0;
}

absl::StatusOr<std::string> MemoryBlobStore::Read(const Digest& digest,
                                                  uint64_t offset,
                                                  uint64_t limit) {
  absl::MutexLock lock(&mutex_);
  auto found = blobs_.find(digest);
  if (found == blobs_.end()) return absl::NotFoundError(digest.ToString());
  return found->second.substr(offset, limit);
}

absl::StatusOr<std::unique_ptr<BlobWriter>> MemoryBlobStore::BeginWrite(
    const Digest& digest) {
  return absl::UnimplementedError(digest.ToString());
}

absl::Status MemoryBlobStore::AddExternal(const Digest& digest,
                                          const std::string& path) {
  absl::MutexLock lock(&mutex_);
  blobs_[digest] = path;
  return absl::OkStatus();
}

absl::Status MemoryBlobStore::Delete(const Digest& digest) {
  absl::MutexLock lock(&mutex_);
  blobs_.erase(digest);
  return absl::OkStatus();
}

absl::Status MemoryBlobStore::ForEach(
    const std::function<void(const Digest&)>& visit) {
  absl::MutexLock lock(&mutex_);
  for (const auto& [digest, bytes] : blobs_) visit(digest);
  return absl::OkStatus();
}

Digest ToDigest(const v1::BlobDigest& digest) {
  return {digest.sha256(), static_cast<uint64_t>(digest.size_bytes())};
}

ModelConfig SmallModel(int layers) {
  ModelConfig config;
  config.family = ModelFamily::kLlama;
  config.model_type = "llama";
  config.name_prefix = "model.";
  config.vocab_size = 32;
  config.hidden_size = 8;
  config.num_layers = layers;
  config.num_heads = config.num_kv_heads = 2;
  config.head_dim = 4;
  config.intermediate_size = 16;
  config.max_position = 64;
  return config;
}

Service::Service(const std::string& path, SchedulerOptions options)
    : path(path), options(options) {
  store = ValueOf(OpenSqliteJobStore(path, absl::Seconds(5)));
  scheduler = std::make_unique<Scheduler>(store.get(), &blobs, &clock, options,
                                          [this] { ++changes; });
}

void Service::Restart() {
  scheduler.reset();
  if (path != ":memory:") {
    store.reset();
    store = ValueOf(OpenSqliteJobStore(path, absl::Seconds(5)));
  }
  scheduler = std::make_unique<Scheduler>(store.get(), &blobs, &clock, options,
                                          [this] { ++changes; });
}

v1::JobSpec Service::Spec(double bits) {
  v1::JobSpec spec;
  spec.mutable_model()->set_path("/models/small");
  v1::NamedBlob* text =
      spec.mutable_calibration()->mutable_source()->add_texts();
  text->set_name("calibration.txt");
  *text->mutable_digest() = blobs.Put("calibration text");
  spec.mutable_calibration()->set_shards(2);
  spec.mutable_method()->set_bits(bits);
  text = spec.mutable_evaluation()->mutable_source()->add_texts();
  text->set_name("heldout.txt");
  *text->mutable_digest() = blobs.Put("held-out text");
  return ValueOf(ResolveSpec(spec, config));
}

std::string Service::Submit(const v1::JobSpec& spec,
                            const std::string& request_id) {
  const v1::Job job = ValueOf(scheduler->CreateJob(spec, request_id));
  PlanAll();
  return job.name();
}

void Service::PlanAll(const std::function<void(Plan*)>& edit) {
  for (;;) {
    const std::optional<v1::Job> job = ValueOf(scheduler->NextToPlan());
    if (!job) return;
    v1::JobSpec spec = job->spec();
    spec.mutable_model()->clear_files();
    for (const char* file : {"config.json", "model.safetensors"}) {
      v1::SourceFile* source = spec.mutable_model()->add_files();
      source->set_name(file);
      *source->mutable_digest() = blobs.Put(file);
    }
    Plan plan = PlanJob(spec, config);
    if (edit) edit(&plan);
    EXPECT_OK(scheduler->AcceptPlan(job->name(), spec, plan));
  }
}

std::string Service::OpenSession(const std::string& worker) {
  v1::OpenSessionRequest request;
  request.set_worker(worker);
  request.set_device("cpu");
  return ValueOf(scheduler->OpenSession(request)).name();
}

v1::LeasedTask Service::Lease(const std::string& session) {
  std::vector<v1::LeasedTask> tasks =
      ValueOf(scheduler->LeaseTasks(session, 1));
  return tasks.empty() ? v1::LeasedTask() : tasks.front();
}

v1::CompleteTaskRequest Service::Result(const std::string& session,
                                        const v1::LeasedTask& task) {
  EXPECT_EQ(ActionDigest(task.action()), task.action_digest());
  for (const v1::NamedBlob& input : task.action().inputs()) {
    EXPECT_TRUE(*blobs.Has(ToDigest(input.digest())))
        << task.task() << " " << input.name();
  }
  v1::CompleteTaskRequest request;
  request.set_session(session);
  request.mutable_lease()->set_task(task.task());
  request.mutable_lease()->set_lease_epoch(task.lease_epoch());
  auto output = [&](const char* name) {
    v1::NamedBlob* blob = request.add_outputs();
    blob->set_name(name);
    *blob->mutable_digest() =
        blobs.Put(absl::StrCat(name, " of ", task.action_digest()));
  };
  switch (task.action().kind()) {
    case v1::TASK_KIND_PREPARE:
      output("windows");
      break;
    case v1::TASK_KIND_FORWARD:
      if (!task.action().forward().last()) output("hidden");
      output("hessian");
      break;
    case v1::TASK_KIND_QUANTIZE:
      output("linear");
      request.mutable_summary()->mutable_quantize()->set_damping_attempts(2);
      break;
    case v1::TASK_KIND_EVALUATE: {
      output("nll");
      v1::EvaluateSummary* summary =
          request.mutable_summary()->mutable_evaluate();
      summary->set_nll(63 * 2.0);
      summary->set_tokens(63);
      summary->set_windows(1);
      summary->set_seqlen(64);
      break;
    }
    default:
      output("manifest");
      output("file.config.json");
      output("file.model.safetensors");
      request.mutable_summary()->mutable_finalize()->set_file_bits_per_weight(
          3.25);
      request.mutable_summary()->mutable_finalize()->set_code_bits_per_weight(
          3);
  }
  return request;
}

absl::Status Service::Complete(const std::string& session,
                               const v1::LeasedTask& task) {
  return scheduler->CompleteTask(Result(session, task));
}

absl::Status Service::Fail(const std::string& session,
                           const v1::LeasedTask& task, bool retryable,
                           absl::StatusCode code) {
  v1::FailTaskRequest request;
  request.set_session(session);
  request.mutable_lease()->set_task(task.task());
  request.mutable_lease()->set_lease_epoch(task.lease_epoch());
  request.mutable_error()->set_code(static_cast<int>(code));
  request.mutable_error()->set_message("the matrix is on fire");
  request.set_retryable(retryable);
  return scheduler->FailTask(request);
}

int Service::WorkUntilIdle(const std::string& session) {
  for (int done = 0;; ++done) {
    const v1::LeasedTask task = Lease(session);
    if (task.task().empty()) return done;
    EXPECT_OK(Complete(session, task));
  }
}

v1::Task Service::GetTask(const std::string& name) {
  const std::vector<std::string> parts = absl::StrSplit(name, "/tasks/");
  for (const v1::Task& task : Tasks(parts[0])) {
    if (task.name() == name) return task;
  }
  ADD_FAILURE() << "no task " << name;
  return {};
}

std::vector<v1::Task> Service::Tasks(const std::string& job) {
  v1::ListTasksRequest request;
  request.set_job(job);
  request.set_page_size(7);
  std::vector<v1::Task> tasks;
  do {
    const v1::ListTasksResponse page = ValueOf(scheduler->ListTasks(request));
    tasks.insert(tasks.end(), page.tasks().begin(), page.tasks().end());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return tasks;
}

v1::JobState Service::State(const std::string& job) {
  return ValueOf(scheduler->GetJob(job)).state();
}

}  // namespace bitwright
