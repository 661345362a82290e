#include "worker/quant/parallel.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <memory>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

// OpenBLAS's own switch; absent (null) with another BLAS.
extern "C" {
__attribute__((weak)) void openblas_set_num_threads(int threads);
__attribute__((weak)) int openblas_get_num_threads(void);
}

namespace bitwright::quant {
namespace {

std::atomic<int> configured_threads{0};
thread_local bool inside_loop = false;

int AvailableCores() {
  static const int cores = [] {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
    return static_cast<int>(std::thread::hardware_concurrency());
  }();
  return std::max(1, cores);
}

// Waits for `ready` without sleeping, for as long as the next of a series of
// small loops usually takes to come: waking a thread takes longer than many of
// them run. False when it did not come.
template <typename Ready>
bool Spin(Ready ready) {
  constexpr int kSpins = 4000;
  for (int i = 0; i < kSpins; ++i) {
    if (ready()) return true;
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  return false;
}

// One ParallelFor in flight. Shared by the caller and its helpers; the caller
// leaves only when every index is done, so fn outlives all calls of it.
struct Loop {
  Loop(int64_t n, absl::FunctionRef<void(int64_t)> fn) : n(n), fn(fn) {}

  // Takes indices until none is left.
  void Work() {
    int64_t finished = 0;
    for (;;) {
      const int64_t i = next.fetch_add(1, std::memory_order_relaxed);
      if (i >= n) break;
      fn(i);
      ++finished;
    }
    if (finished == 0) return;
    if (done.fetch_add(finished, std::memory_order_acq_rel) + finished == n) {
      absl::MutexLock lock(&mutex);  // Makes a waiter look again.
    }
  }

  bool Done() const { return done.load(std::memory_order_acquire) == n; }

  void Wait() {
    if (Spin([this] { return Done(); })) return;
    absl::MutexLock lock(&mutex);
    mutex.Await(absl::Condition(this, &Loop::Done));
  }

  const int64_t n;
  const absl::FunctionRef<void(int64_t)> fn;
  std::atomic<int64_t> next{0};
  absl::Mutex mutex;
  std::atomic<int64_t> done{0};
};

// Helper threads, started when first needed and kept until the process ends.
class Pool {
 public:
  static Pool& Get() {
    static Pool* pool = new Pool;  // Never destroyed: its threads are detached.
    return *pool;
  }

  // Asks `helpers` threads to take part in `loop`.
  void Help(const std::shared_ptr<Loop>& loop, int helpers) {
    absl::MutexLock lock(&mutex_);
    for (int i = 0; i < helpers; ++i) queue_.push_back(loop);
    queued_.store(queue_.size(), std::memory_order_release);
    while (started_ < helpers) {
      std::thread([this] { Run(); }).detach();
      ++started_;
    }
  }

 private:
  void Run() {
    inside_loop = true;
    for (;;) {
      std::shared_ptr<Loop> loop;
      Spin([this] { return queued_.load(std::memory_order_acquire) > 0; });
      {
        absl::MutexLock lock(&mutex_);
        mutex_.Await(absl::Condition(
            +[](Pool* pool) ABSL_NO_THREAD_SAFETY_ANALYSIS {
              return !pool->queue_.empty();
            },
            this));
        loop = std::move(queue_.front());
        queue_.pop_front();
        queued_.store(queue_.size(), std::memory_order_release);
      }
      loop->Work();
    }
  }

  absl::Mutex mutex_;
  std::deque<std::shared_ptr<Loop>> queue_ ABSL_GUARDED_BY(mutex_);
  std::atomic<size_t> queued_{0};  // queue_.size(), to look at without the lock
  int started_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace

void SetThreads(int threads) { configured_threads = std::max(0, threads); }

int Threads() {
  const int threads = configured_threads;
  return threads > 0 ? threads : AvailableCores();
}

void PinBlasToOneThread() {
  if (openblas_set_num_threads == nullptr) return;
  if (openblas_get_num_threads != nullptr && openblas_get_num_threads() == 1) {
    return;
  }
  openblas_set_num_threads(1);
}

void ParallelFor(int64_t n, absl::FunctionRef<void(int64_t)> fn) {
  const int helpers = static_cast<int>(std::min<int64_t>(Threads() - 1, n - 1));
  if (inside_loop || helpers <= 0) {
    for (int64_t i = 0; i < n; ++i) fn(i);
    return;
  }
  auto loop = std::make_shared<Loop>(n, fn);
  Pool::Get().Help(loop, helpers);
  inside_loop = true;
  loop->Work();
  inside_loop = false;
  loop->Wait();
}

int64_t RowChunk(int64_t rows) {
  const int64_t eighth = (rows + 7) / 8;
  return std::clamp<int64_t>((eighth + 15) / 16 * 16, 16, 256);
}

}  // namespace bitwright::quant
