// A std::vector for large buffers: new elements are left as memory had them,
// because filling them with zeros first would cost as much as the work, and
// from a few MiB on huge pages are asked for, because a page fault every 4 KiB
// and the misses that strided access then has would cost as much again. Private
// to this folder, but for FreeKeptBuffers.
#ifndef BITWRIGHT_WORKER_QUANT_RAW_VECTOR_H_
#define BITWRIGHT_WORKER_QUANT_RAW_VECTOR_H_

#include <cstddef>
#include <new>
#include <utility>
#include <vector>

namespace bitwright::quant {

// For RawAllocator. Freed buffers from kHugePage to half of kMaxKeptBytes are
// kept for the next one of exactly that size: the layers of a model repeat
// their shapes, and the kernel clears every page that it hands out. The latest
// kMaxKeptBytes are kept, none under AddressSanitizer. Exact BAQ of 4096x4096
// frees 288 MiB and more; where only 256 were kept it took 8 % longer.
// Thread-safe.
inline constexpr size_t kHugePage = size_t{2} << 20;
#ifdef __SANITIZE_ADDRESS__
inline constexpr size_t kMaxKeptBytes = 0;
#else
inline constexpr size_t kMaxKeptBytes = size_t{512} << 20;
#endif
void* AllocateRaw(size_t bytes);
void FreeRaw(void* place, size_t bytes);
size_t KeptBytes();  // Kept now.
// For when there is nothing to do.
void FreeKeptBuffers();

template <typename T>
struct RawAllocator {
  using value_type = T;

  RawAllocator() = default;
  template <typename U>
  RawAllocator(const RawAllocator<U>&) {}

  T* allocate(size_t n) { return static_cast<T*>(AllocateRaw(n * sizeof(T))); }
  void deallocate(T* place, size_t n) { FreeRaw(place, n * sizeof(T)); }

  template <typename U>
  void construct(U* place) {
    ::new (static_cast<void*>(place)) U;
  }
  template <typename U, typename... Args>
  void construct(U* place, Args&&... args) {
    ::new (static_cast<void*>(place)) U(std::forward<Args>(args)...);
  }

  friend bool operator==(const RawAllocator&, const RawAllocator&) {
    return true;
  }
};

template <typename T>
using RawVector = std::vector<T, RawAllocator<T>>;

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_RAW_VECTOR_H_
