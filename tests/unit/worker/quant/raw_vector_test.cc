#include "worker/quant/raw_vector.h"

#include <algorithm>
#include <vector>

#include "gtest/gtest.h"

namespace bitwright::quant {
namespace {

constexpr size_t kLarge = 3 * kHugePage;

TEST(RawVectorTest, ALargeBufferServesTheNextOfItsSize) {
  if (kMaxKeptBytes == 0) GTEST_SKIP() << "nothing is kept in this build";
  const char* place = RawVector<char>(kLarge).data();
  const size_t kept = KeptBytes();
  EXPECT_GE(kept, kLarge);
  EXPECT_NE(RawVector<char>(kLarge + 1).data(), place);
  RawVector<char> again(kLarge);
  EXPECT_EQ(again.data(), place);
  EXPECT_LT(KeptBytes(), kept + kLarge);
}

TEST(RawVectorTest, BuffersInUseAreApart) {
  { RawVector<char> a(kLarge), b(kLarge); }  // Two are kept.
  RawVector<char> a(kLarge), b(kLarge);
  std::fill(a.begin(), a.end(), 'a');
  std::fill(b.begin(), b.end(), 'b');
  EXPECT_EQ(std::count(a.begin(), a.end(), 'a'), kLarge);
}

TEST(RawVectorTest, KeepsTheLatestUpToALimit) {
  if (kMaxKeptBytes == 0) GTEST_SKIP() << "nothing is kept in this build";
  const size_t bytes = kMaxKeptBytes / 4;
  std::vector<RawVector<char>> many;
  for (int i = 0; i < 9; ++i) many.emplace_back(bytes);
  const char* last = many.back().data();
  many.pop_back();
  many.clear();
  EXPECT_EQ(KeptBytes(), kMaxKeptBytes);
  { RawVector<char> large(kLarge); }
  EXPECT_EQ(KeptBytes(), kMaxKeptBytes - bytes + kLarge);
  EXPECT_NE(RawVector<char>(bytes).data(), last);  // Freed first, let go first.
}

TEST(RawVectorTest, OneThatIsTooLargeDisplacesNothing) {
  { RawVector<char> kept(kLarge); }
  const size_t before = KeptBytes();
  { RawVector<char> too_large(kMaxKeptBytes / 2 + kHugePage); }
  EXPECT_EQ(KeptBytes(), before);
}

TEST(RawVectorTest, NothingIsKeptOnceItIsFreed) {
  { RawVector<char> kept(kLarge); }
  FreeKeptBuffers();
  EXPECT_EQ(KeptBytes(), 0u);
}

TEST(RawVectorTest, SmallBuffersAreNotKept) {
  const size_t kept = KeptBytes();
  { RawVector<float> small(1000); }
  EXPECT_EQ(KeptBytes(), kept);
}

}  // namespace
}  // namespace bitwright::quant
