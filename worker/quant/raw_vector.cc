#include "worker/quant/raw_vector.h"

#include <sys/mman.h>

#include <deque>
#include <iterator>
#include <new>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace bitwright::quant {
namespace {

std::align_val_t AlignmentOf(size_t bytes) {
  return std::align_val_t{bytes >= kHugePage ? kHugePage : 64};
}

void Delete(void* place, size_t bytes) {
  ::operator delete(place, AlignmentOf(bytes));
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
    {
      absl::MutexLock lock(&mutex_);
      buffers_.push_back({place, bytes});
      total_ += bytes;
    }
    Shrink(kMaxKeptBytes);
  }

  // Frees the oldest ones until no more than `most` bytes are left.
  void Shrink(size_t most) {
    std::vector<Buffer> surplus;  // Freed without the lock: it takes long.
    {
      absl::MutexLock lock(&mutex_);
      while (total_ > most) {
        surplus.push_back(buffers_.front());
        total_ -= buffers_.front().bytes;
        buffers_.pop_front();
      }
    }
    for (const Buffer& buffer : surplus) Delete(buffer.place, buffer.bytes);
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
  if (bytes < kHugePage) return ::operator new(bytes, AlignmentOf(bytes));
  void* place = KeptBuffers::Get().Take(bytes);
  if (place != nullptr) return place;
  place = ::operator new(bytes, AlignmentOf(bytes), std::nothrow);
  if (place == nullptr) {  // What is kept may be what is missing.
    KeptBuffers::Get().Shrink(0);
    place = ::operator new(bytes, AlignmentOf(bytes));
  }
  // A hint: without it, or where it is refused, nothing changes but speed.
  madvise(place, bytes, MADV_HUGEPAGE);
  return place;
}

void FreeRaw(void* place, size_t bytes) {
  if (bytes < kHugePage || bytes > kMaxKeptBytes / 2) {
    Delete(place, bytes);
  } else {
    KeptBuffers::Get().Keep(place, bytes);
  }
}

size_t KeptBytes() { return KeptBuffers::Get().total(); }

void FreeKeptBuffers() { KeptBuffers::Get().Shrink(0); }

}  // namespace bitwright::quant
