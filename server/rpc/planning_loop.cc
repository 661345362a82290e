#include "server/rpc/planning_loop.h"

#include <spdlog/spdlog.h>

#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/status_macros.h"
#include "server/planner/planner.h"

namespace bitwright {
namespace {

constexpr absl::Duration kRetryPause = absl::Seconds(1);

// Errors of the store or of a shutdown, not of the job.
bool IsTransient(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kResourceExhausted:
      return true;
    default:
      return false;
  }
}

}  // namespace

PlanningLoop::PlanningLoop(Scheduler* scheduler, BlobStore* blobs,
                           const ModelRoots* roots, DigestCache* digests)
    : scheduler_(scheduler),
      blobs_(blobs),
      roots_(roots),
      digests_(digests),
      loop_([this] { return Run(); }) {}

WakeableLoop::Next PlanningLoop::Run() {
  while (!loop_.stopping()) {
    absl::StatusOr<std::optional<v1::Job>> job = scheduler_->NextToPlan();
    if (!job.ok()) {
      spdlog::error("cannot look for jobs to plan: {}",
                    std::string(job.status().message()));
      return {.earliest = kRetryPause, .latest = kRetryPause};
    }
    if (!job->has_value()) break;
    if (!PlanOne(**job))
      return {.earliest = kRetryPause, .latest = kRetryPause};
  }
  return {.latest = absl::Seconds(5)};
}

bool PlanningLoop::PlanOne(const v1::Job& job) {
  const absl::Time start = absl::Now();
  absl::Status planned = MakePlan(job);
  if (planned.ok()) {
    spdlog::info("{}: planned in {}", job.name(),
                 absl::FormatDuration(absl::Now() - start));
    return true;
  }
  // Cancelled or deleted meanwhile: it is not ours any more.
  absl::StatusOr<v1::Job> now = scheduler_->GetJob(job.name());
  if (absl::IsNotFound(now.status()) ||
      (now.ok() && now->state() != v1::JOB_STATE_PLANNING)) {
    spdlog::info("{}: no longer to be planned", job.name());
    return true;
  }
  const std::string why(planned.message());
  if (IsTransient(planned)) {
    if (!loop_.stopping()) {
      spdlog::warn("{}: planning will be tried again: {}", job.name(), why);
    }
    return false;
  }
  spdlog::warn("{}: cannot be planned: {}", job.name(), why);
  absl::Status rejected = scheduler_->RejectPlan(job.name(), planned);
  if (!rejected.ok()) {
    spdlog::error("{}: cannot record that: {}", job.name(),
                  std::string(rejected.message()));
  }
  return rejected.ok();
}

bool PlanningLoop::ShouldStop(const std::string& job) {
  if (loop_.stopping()) return true;
  absl::StatusOr<v1::Job> now = scheduler_->GetJob(job);
  return now.ok() ? now->state() != v1::JOB_STATE_PLANNING
                  : absl::IsNotFound(now.status());
}

absl::Status PlanningLoop::DigestFiles(const std::string& job,
                                       const ModelDirectory& model,
                                       v1::ModelSource* source) {
  absl::Time asked = absl::Now();
  auto stop = [&] {
    if (absl::Now() - asked < absl::Milliseconds(500)) return loop_.stopping();
    asked = absl::Now();
    return ShouldStop(job);
  };
  source->clear_files();
  for (const std::string& name : model.files()) {
    const std::string path = absl::StrCat(model.path(), "/", name);
    BW_ASSIGN_OR_RETURN(Digest digest, digests_->DigestOf(path, stop));
    BW_RETURN_IF_ERROR(blobs_->AddExternal(digest, path));
    v1::SourceFile* file = source->add_files();
    file->set_name(name);
    file->mutable_digest()->set_sha256(digest.sha256);
    file->mutable_digest()->set_size_bytes(static_cast<int64_t>(digest.size));
  }
  return absl::OkStatus();
}

absl::Status PlanningLoop::MakePlan(const v1::Job& job) {
  v1::JobSpec spec = job.spec();
  BW_ASSIGN_OR_RETURN(std::unique_ptr<ModelDirectory> model,
                      roots_->Open(spec.model().path()));
  BW_RETURN_IF_ERROR(DigestFiles(job.name(), *model, spec.mutable_model()));
  const Plan plan = PlanJob(spec, model->config());
  return scheduler_->AcceptPlan(job.name(), spec, plan);
}

}  // namespace bitwright
