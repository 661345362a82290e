#include "worker/quant/parallel.h"

#include <atomic>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace bitwright::quant {
namespace {

TEST(ParallelForTest, CallsEveryIndexOnce) {
  for (int threads : {1, 2, 3, 7}) {
    SetThreads(threads);
    EXPECT_EQ(Threads(), threads);
    for (int64_t n : {0, 1, 2, 5, 1000}) {
      std::vector<std::atomic<int>> calls(n);
      ParallelFor(n, [&](int64_t i) { ++calls[i]; });
      for (int64_t i = 0; i < n; ++i) EXPECT_EQ(calls[i], 1) << i;
    }
  }
  SetThreads(0);
  EXPECT_GE(Threads(), 1);
}

TEST(ParallelForTest, NestedLoopsRunInline) {
  SetThreads(3);
  std::atomic<int> calls{0};
  ParallelFor(10, [&](int64_t) {
    const std::thread::id outer = std::this_thread::get_id();
    ParallelFor(10, [&](int64_t) {
      EXPECT_EQ(std::this_thread::get_id(), outer);
      ++calls;
    });
  });
  EXPECT_EQ(calls, 100);
  SetThreads(0);
}

TEST(ParallelForTest, ConcurrentCallersShareThePool) {
  SetThreads(3);
  std::vector<int64_t> sums(4);
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&, c] {
      for (int round = 0; round < 50; ++round) {
        std::vector<int64_t> parts(20);
        ParallelFor(20, [&](int64_t i) { parts[i] = i; });
        for (int64_t p : parts) sums[c] += p;
      }
    });
  }
  for (std::thread& t : callers) t.join();
  for (int64_t sum : sums) EXPECT_EQ(sum, 50 * 190);
  SetThreads(0);
}

TEST(RowChunkTest, DependsOnRowsAlone) {
  SetThreads(1);
  const int64_t one = RowChunk(2048);
  SetThreads(7);
  EXPECT_EQ(RowChunk(2048), one);
  EXPECT_GE(RowChunk(1), 1);
  EXPECT_LE(RowChunk(1 << 20), 256);
  SetThreads(0);
}

}  // namespace
}  // namespace bitwright::quant
