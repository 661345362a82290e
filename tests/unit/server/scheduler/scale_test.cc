// A job of 5,000 tasks. Times are printed, and bounded only against a change of
// the order of growth.
#include <algorithm>
#include <chrono>
#include <cstdio>

#include "common/base/file.h"
#include "tests/unit/server/scheduler/service.h"

namespace bitwright {
namespace {

double MillisecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(
             std::chrono::steady_clock::now() - start)
      .count();
}

TEST(Scale, FiveThousandTasks) {
  const TempDirectory directory = ValueOf(TempDirectory::Create("scheduler"));
  Service s(directory.path() + "/jobs.db");
  s.config = SmallModel(320);
  v1::JobSpec spec = s.Spec();
  spec.mutable_calibration()->set_shards(8);
  auto start = std::chrono::steady_clock::now();
  const std::string job = s.Submit(spec);
  const double plan_ms = MillisecondsSince(start);
  const std::string session = s.OpenSession("w");
  std::vector<double> lease_ms, complete_ms;
  for (int i = 0; i < 600; ++i) {
    start = std::chrono::steady_clock::now();
    const v1::LeasedTask task = s.Lease(session);
    lease_ms.push_back(MillisecondsSince(start));
    const v1::CompleteTaskRequest result = s.Result(session, task);
    start = std::chrono::steady_clock::now();
    ASSERT_OK(s.scheduler->CompleteTask(result));
    complete_ms.push_back(MillisecondsSince(start));
  }
  start = std::chrono::steady_clock::now();
  const v1::Job view = ValueOf(s.scheduler->GetJob(job));
  const double get_ms = MillisecondsSince(start);
  int total = 0;
  for (const v1::PhaseProgress& phase : view.phases()) total += phase.total();
  EXPECT_EQ(total, 2 + 320 * (8 + 7) + 1 + 8);
  std::sort(lease_ms.begin(), lease_ms.end());
  std::sort(complete_ms.begin(), complete_ms.end());
  std::printf(
      "%d tasks: plan %.0f ms; lease median %.2f ms, 99 %% %.2f ms; "
      "complete median %.2f ms, 99 %% %.2f ms; get %.2f ms\n",
      total, plan_ms, lease_ms[300], lease_ms[594], complete_ms[300],
      complete_ms[594], get_ms);
  EXPECT_LT(complete_ms[300], 200);
}

}  // namespace
}  // namespace bitwright
