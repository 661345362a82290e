#include "server/rpc/quantization_service.h"

#include <spdlog/spdlog.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "server/planner/planner.h"
#include "server/rpc/proto_digest.h"
#include "server/rpc/respond.h"

namespace bitwright {
namespace {

constexpr size_t kMaxRequestIdBytes = 128;

}  // namespace

absl::Status QuantizationServiceImpl::CheckTexts(const v1::TextSource& source,
                                                 const char* field) {
  if (source.texts_size() > kMaxTexts) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, ".texts has ", source.texts_size(),
                     " entries; at most ", kMaxTexts, " are allowed"));
  }
  std::vector<v1::NamedBlob> blobs(source.texts().begin(),
                                   source.texts().end());
  if (source.has_tokens()) blobs.push_back(source.tokens());
  for (const v1::NamedBlob& blob : blobs) {
    absl::StatusOr<Digest> digest = CheckedDigest(blob.digest());
    if (!digest.ok()) return Annotate(digest.status(), field);
    BW_ASSIGN_OR_RETURN(bool has, blobs_->Has(*digest));
    if (!has) {
      return WithReason(
          absl::FailedPreconditionError(absl::StrCat(
              field, ": blob ", digest->ToString(),
              blob.name().empty() ? "" : absl::StrCat(" (", blob.name(), ")"),
              " is not in the store; upload it first")),
          "BLOB_MISSING");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::JobSpec> QuantizationServiceImpl::CheckSpec(
    const v1::JobSpec& asked) {
  BW_ASSIGN_OR_RETURN(std::unique_ptr<ModelDirectory> model,
                      roots_->Open(asked.model().path()));
  if (model->is_native() && !asked.evaluate_only()) {
    return WithReason(
        absl::InvalidArgumentError(absl::StrCat(
            model->path(),
            " is a quantized checkpoint already; quantize the original model, "
            "or evaluate this one")),
        "MODEL_ALREADY_QUANTIZED");
  }
  v1::JobSpec spec = asked;
  spec.mutable_model()->set_path(model->path());
  spec.mutable_model()->clear_files();
  BW_ASSIGN_OR_RETURN(spec, ResolveSpec(spec, model->config()));
  if (!spec.evaluate_only()) {
    BW_RETURN_IF_ERROR(
        CheckTexts(spec.calibration().source(), "calibration.source"));
  }
  if (spec.evaluation().has_source()) {
    BW_RETURN_IF_ERROR(
        CheckTexts(spec.evaluation().source(), "evaluation.source"));
  }
  return spec;
}

absl::StatusOr<v1::Job> QuantizationServiceImpl::Create(
    const v1::CreateJobRequest& request) {
  if (request.request_id().size() > kMaxRequestIdBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "request_id is longer than ", kMaxRequestIdBytes, " bytes"));
  }
  BW_ASSIGN_OR_RETURN(v1::JobSpec spec, CheckSpec(request.spec()));
  if (request.validate_only()) {
    v1::Job job;
    *job.mutable_spec() = spec;
    job.set_request_id(request.request_id());
    return job;
  }
  BW_ASSIGN_OR_RETURN(v1::Job job,
                      scheduler_->CreateJob(spec, request.request_id()));
  spdlog::info("{}: accepted, model {}", job.name(), spec.model().path());
  return job;
}

absl::Status QuantizationServiceImpl::Delete(const std::string& name) {
  BW_ASSIGN_OR_RETURN(std::vector<Digest> unused, scheduler_->DeleteJob(name));
  for (const Digest& digest : unused) {
    // The job is gone all the same; what stays costs space only.
    absl::Status deleted = blobs_->Delete(digest);
    if (!deleted.ok()) {
      spdlog::warn("cannot delete blob {}: {}", digest.ToString(),
                   std::string(deleted.message()));
    }
  }
  spdlog::info("{}: deleted, with {} blobs", name, unused.size());
  return absl::OkStatus();
}

grpc::Status QuantizationServiceImpl::CreateJob(
    grpc::ServerContext*, const v1::CreateJobRequest* request,
    v1::Job* response) {
  return Respond(Create(*request), response);
}

grpc::Status QuantizationServiceImpl::GetJob(grpc::ServerContext*,
                                             const v1::GetJobRequest* request,
                                             v1::Job* response) {
  return Respond(scheduler_->GetJob(request->name()), response);
}

grpc::Status QuantizationServiceImpl::ListJobs(
    grpc::ServerContext*, const v1::ListJobsRequest* request,
    v1::ListJobsResponse* response) {
  absl::StatusOr<v1::ListJobsRequest> page = CheckPage(*request);
  if (!page.ok()) return ToGrpcStatus(page.status());
  return Respond(scheduler_->ListJobs(*page), response);
}

grpc::ServerWriteReactor<v1::Job>* QuantizationServiceImpl::WatchJob(
    grpc::CallbackServerContext*, const v1::WatchJobRequest* request) {
  return hub_->Watch(*request);
}

grpc::Status QuantizationServiceImpl::CancelJob(
    grpc::ServerContext*, const v1::CancelJobRequest* request,
    v1::Job* response) {
  return Respond(scheduler_->CancelJob(request->name()), response);
}

grpc::Status QuantizationServiceImpl::RetryJob(
    grpc::ServerContext*, const v1::RetryJobRequest* request,
    v1::Job* response) {
  return Respond(scheduler_->RetryJob(request->name()), response);
}

grpc::Status QuantizationServiceImpl::DeleteJob(
    grpc::ServerContext*, const v1::DeleteJobRequest* request,
    google::protobuf::Empty*) {
  return ToGrpcStatus(Delete(request->name()));
}

grpc::Status QuantizationServiceImpl::ListTasks(
    grpc::ServerContext*, const v1::ListTasksRequest* request,
    v1::ListTasksResponse* response) {
  absl::StatusOr<v1::ListTasksRequest> page = CheckPage(*request);
  if (!page.ok()) return ToGrpcStatus(page.status());
  return Respond(scheduler_->ListTasks(*page), response);
}

}  // namespace bitwright
