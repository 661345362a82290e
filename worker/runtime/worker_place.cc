#include "worker/runtime/worker_place.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/digest.h"
#include "common/base/status_macros.h"
#include "spdlog/spdlog.h"

namespace bitwright {
namespace {

constexpr int kPlaces = 256;
constexpr absl::Duration kPoll = absl::Milliseconds(50);

std::string HostName() {
  char name[256] = {};
  if (gethostname(name, sizeof(name) - 1) != 0 || name[0] == 0) {
    return "worker";
  }
  return name;
}

std::string CacheHome() {
  if (const char* xdg = std::getenv("XDG_CACHE_HOME"); xdg && *xdg) {
    return absl::StrCat(xdg, "/bitwright");
  }
  if (const char* home = std::getenv("HOME"); home && *home) {
    return absl::StrCat(home, "/.cache/bitwright");
  }
  return absl::StrCat("/tmp/bitwright-", getuid());
}

absl::StatusOr<std::unique_ptr<BlobCache>> AwaitCache(
    const std::string& directory, uint64_t max_bytes, absl::Duration handover,
    const absl::Notification& stop) {
  const absl::Time deadline = absl::Now() + handover;
  for (bool told = false;; told = true) {
    auto cache = BlobCache::Open(directory, max_bytes);
    if (!absl::IsFailedPrecondition(cache.status())) return cache;
    if (absl::Now() >= deadline) return cache;
    if (!told) {
      spdlog::info("waiting up to {} for the worker that has {}",
                   absl::FormatDuration(handover), directory);
    }
    if (stop.WaitForNotificationWithTimeout(kPoll)) return cache;
  }
}

}  // namespace

absl::StatusOr<WorkerPlace> OpenWorkerPlace(const std::string& directory,
                                            uint64_t max_bytes,
                                            absl::Duration handover,
                                            const absl::Notification& stop) {
  WorkerPlace place;
  if (!directory.empty()) {
    BW_ASSIGN_OR_RETURN(place.cache,
                        AwaitCache(directory, max_bytes, handover, stop));
    const std::string absolute =
        std::filesystem::absolute(directory).lexically_normal().string();
    place.name =
        absl::StrCat(HostName(), "-", DigestOf(absolute).sha256.substr(0, 8));
    return place;
  }
  absl::Status status;
  for (int i = 0; i < kPlaces; ++i) {
    auto cache =
        BlobCache::Open(absl::StrCat(CacheHome(), "/worker-", i), max_bytes);
    if (cache.ok()) {
      place.cache = *std::move(cache);
      place.name = absl::StrCat(HostName(), "-", i);
      return place;
    }
    status = cache.status();
    if (!absl::IsFailedPrecondition(status)) return status;
  }
  return status;
}

}  // namespace bitwright
