// A std::vector for large buffers: new elements are left as memory had them,
// because filling them with zeros first would cost as much as the work, and
// from a few MiB on huge pages are asked for, because a page fault every 4 KiB
// and the misses that strided access then has would cost as much again. Private
// to this folder.
#ifndef BITWRIGHT_WORKER_QUANT_RAW_VECTOR_H_
#define BITWRIGHT_WORKER_QUANT_RAW_VECTOR_H_

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>
#include <vector>

namespace bitwright::quant {

template <typename T>
struct RawAllocator {
  using value_type = T;

  RawAllocator() = default;
  template <typename U>
  RawAllocator(const RawAllocator<U>&) {}

  T* allocate(size_t n) {
    const size_t bytes = n * sizeof(T);
    void* place = ::operator new(bytes, Alignment(bytes));
    // A hint: without it, or where it is refused, nothing changes but speed.
    if (bytes >= kHugeFrom) madvise(place, bytes, MADV_HUGEPAGE);
    return static_cast<T*>(place);
  }
  void deallocate(T* place, size_t n) {
    ::operator delete(place, Alignment(n * sizeof(T)));
  }

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

 private:
  static constexpr size_t kHugePage = 2 << 20;
  static constexpr size_t kHugeFrom = kHugePage;

  static std::align_val_t Alignment(size_t bytes) {
    return std::align_val_t{bytes >= kHugeFrom ? kHugePage : 64};
  }
};

template <typename T>
using RawVector = std::vector<T, RawAllocator<T>>;

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_RAW_VECTOR_H_
