// Plans jobs in the background: digests the model's files, refers the blob
// store to them, and hands the task graph to the scheduler.
#ifndef BITWRIGHT_SERVER_RPC_PLANNING_LOOP_H_
#define BITWRIGHT_SERVER_RPC_PLANNING_LOOP_H_

#include "absl/status/status.h"
#include "bitwright/v1/job.pb.h"
#include "server/rpc/digest_cache.h"
#include "server/rpc/model_source.h"
#include "server/rpc/wakeable_loop.h"
#include "server/scheduler/scheduler.h"
#include "server/store/blob_store.h"

namespace bitwright {

class PlanningLoop {
 public:
  // All must outlive it.
  PlanningLoop(Scheduler* scheduler, BlobStore* blobs, const ModelRoots* roots,
               DigestCache* digests);
  void Changed() { loop_.Wake(); }
  // Gives up on a half-digested model; the job is planned after the restart.
  void Stop() { loop_.Stop(); }

 private:
  WakeableLoop::Next Run();
  // Whether the job's planning came to an end, good or bad.
  bool PlanOne(const v1::Job& job);
  absl::Status MakePlan(const v1::Job& job);
  absl::Status DigestFiles(const std::string& job, const ModelDirectory& model,
                           v1::ModelSource* source);
  bool ShouldStop(const std::string& job);

  Scheduler* const scheduler_;
  BlobStore* const blobs_;
  const ModelRoots* const roots_;
  DigestCache* const digests_;
  WakeableLoop loop_;  // Last: uses the rest.
};

}  // namespace bitwright

#endif  // BITWRIGHT_SERVER_RPC_PLANNING_LOOP_H_
