#include "worker/quant/raw_vector.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace bitwright::quant {
namespace {

constexpr size_t kLarge = 3 * kHugePage;

TEST(RawVectorTest, ALargeBufferServesTheNextOfItsSize) {
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

TEST(RawVectorTest, KeepsNoMoreThanItMay) {
  { RawVector<char> too_large(kMaxKeptBytes + 1); }
  EXPECT_LE(KeptBytes(), kMaxKeptBytes);
  std::vector<RawVector<char>> many;
  for (size_t bytes = 0; bytes <= 2 * kMaxKeptBytes;
       bytes += kMaxKeptBytes / 4) {
    many.emplace_back(kMaxKeptBytes / 4);
  }
  many.clear();
  EXPECT_LE(KeptBytes(), kMaxKeptBytes);
  EXPECT_GE(KeptBytes(), kMaxKeptBytes / 2);
}

TEST(RawVectorTest, SmallBuffersAreNotKept) {
  const size_t kept = KeptBytes();
  { RawVector<float> small(1000); }
  EXPECT_EQ(KeptBytes(), kept);
}

}  // namespace
}  // namespace bitwright::quant
