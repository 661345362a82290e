#include "worker/quant/raw_vector.h"

#include <sys/mman.h>

#include <deque>
#include <iterator>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace bitwright::quant {
namespace {

std::align_val_t AlignmentOf(size_t bytes) {
  return std::align_val_t{bytes >= kHugePage ? kHugePage : 64};
}

// Buffers that nobody uses, the oldest in front.
class KeptBuffers {
 public:
  static KeptBuffers& Get() {
    static KeptBuffers* kept = new KeptBuffers;  // Outlives all vectors.
    return *kept;
  }

  // Null if there is none of this size.
  void* Take(size_t bytes) {
    absl::MutexLock lock(&mutex_);
    for (auto it = buffers_.rbegin(); it != buffers_.rend(); ++it) {
      if (it->bytes != bytes) continue;
      void* place = it->place;
      buffers_.erase(std::next(it).base());
      total_ -= bytes;
      return place;
    }
    return nullptr;
  }

  void Keep(void* place, size_t bytes) {
    absl::MutexLock lock(&mutex_);
    buffers_.push_back({place, bytes});
    total_ += bytes;
    while (total_ > kMaxKeptBytes) {
      const Buffer oldest = buffers_.front();
      buffers_.pop_front();
      total_ -= oldest.bytes;
      ::operator delete(oldest.place, AlignmentOf(oldest.bytes));
    }
  }

  size_t total() {
    absl::MutexLock lock(&mutex_);
    return total_;
  }

 private:
  struct Buffer {
    void* place;
    size_t bytes;
  };
  absl::Mutex mutex_;
  std::deque<Buffer> buffers_ ABSL_GUARDED_BY(mutex_);
  size_t total_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace

void* AllocateRaw(size_t bytes) {
  if (bytes >= kHugePage) {
    if (void* kept = KeptBuffers::Get().Take(bytes)) return kept;
  }
  void* place = ::operator new(bytes, AlignmentOf(bytes));
  // A hint: without it, or where it is refused, nothing changes but speed.
  if (bytes >= kHugePage) madvise(place, bytes, MADV_HUGEPAGE);
  return place;
}

void FreeRaw(void* place, size_t bytes) {
  if (bytes >= kHugePage) {
    KeptBuffers::Get().Keep(place, bytes);
  } else {
    ::operator delete(place, AlignmentOf(bytes));
  }
}

size_t KeptBytes() { return KeptBuffers::Get().total(); }

}  // namespace bitwright::quant
