#include "worker/runtime/blob_cache.h"

#include <filesystem>
#include <fstream>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "gtest/gtest.h"

namespace bitwright {
namespace {

namespace fs = std::filesystem;

class BlobCacheTest : public testing::Test {
 protected:
  std::unique_ptr<BlobCache> Open(uint64_t max_bytes) {
    auto cache = BlobCache::Open(directory_.path(), max_bytes);
    EXPECT_TRUE(cache.ok()) << cache.status();
    return *std::move(cache);
  }
  std::string BlobPath(const Digest& digest) {
    return absl::StrCat(directory_.path(), "/blobs/", digest.sha256);
  }

  TempDirectory directory_ = *TempDirectory::Create("cache-");
};

TEST_F(BlobCacheTest, FindsWhatWasAdded) {
  auto cache = Open(100);
  EXPECT_FALSE(cache->Find(DigestOf("hello")).has_value());
  auto blob = cache->AddBytes("hello");
  ASSERT_TRUE(blob.ok()) << blob.status();
  EXPECT_EQ(blob->digest(), DigestOf("hello"));
  auto found = cache->Find(DigestOf("hello"));
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(*ReadFile(found->path()), "hello");
  EXPECT_FALSE(cache->Find({DigestOf("hello").sha256, 4}).has_value());
}

TEST_F(BlobCacheTest, AdoptsFilesAndTakesThemAway) {
  auto cache = Open(100);
  const std::string path = cache->NewScratchPath();
  ASSERT_TRUE(WriteFileAtomically(path, "a file").ok());
  auto blob = cache->AdoptFile(path);
  ASSERT_TRUE(blob.ok()) << blob.status();
  EXPECT_EQ(blob->digest(), DigestOf("a file"));
  EXPECT_FALSE(fs::exists(path));
  EXPECT_EQ(cache->bytes(), 6u);
}

TEST_F(BlobCacheTest, EvictsTheLeastRecentlyUsedThatNobodyHolds) {
  auto cache = Open(10);
  const Digest a = DigestOf("aaaa"), b = DigestOf("bbbb"), c = DigestOf("cccc");
  ASSERT_TRUE(cache->AddBytes("aaaa").ok());
  ASSERT_TRUE(cache->AddBytes("bbbb").ok());
  ASSERT_TRUE(cache->Find(a).has_value());  // Now b is the oldest.
  ASSERT_TRUE(cache->AddBytes("cccc").ok());
  EXPECT_TRUE(cache->Find(a).has_value());
  EXPECT_FALSE(cache->Find(b).has_value());
  EXPECT_TRUE(cache->Find(c).has_value());
  EXPECT_FALSE(fs::exists(BlobPath(b)));
  EXPECT_EQ(cache->bytes(), 8u);
}

TEST_F(BlobCacheTest, WhatIsHeldStaysEvenBeyondTheBound) {
  auto cache = Open(5);
  auto a = cache->AddBytes("aaaa");
  auto b = cache->AddBytes("bbbb");
  EXPECT_EQ(cache->bytes(), 8u);
  EXPECT_EQ(*ReadFile(a->path()), "aaaa");
  CachedBlob moved = *std::move(a);
  { CachedBlob gone = std::move(moved); }
  EXPECT_EQ(cache->bytes(), 4u);
  EXPECT_FALSE(cache->Find(DigestOf("aaaa")).has_value());
  EXPECT_TRUE(cache->Find(DigestOf("bbbb")).has_value());
}

TEST_F(BlobCacheTest, SurvivesARestartAndKeepsTheOrderOfUse) {
  const Digest a = DigestOf("aaaa"), b = DigestOf("bbbb");
  {
    auto cache = Open(100);
    ASSERT_TRUE(cache->AddBytes("aaaa").ok());
    ASSERT_TRUE(cache->AddBytes("bbbb").ok());
    fs::last_write_time(BlobPath(b), fs::last_write_time(BlobPath(a)) -
                                         std::chrono::seconds(5));
  }
  auto cache = Open(5);
  EXPECT_TRUE(cache->Find(a).has_value());
  EXPECT_FALSE(cache->Find(b).has_value());
}

TEST_F(BlobCacheTest, AFileThatWasDamagedBetweenRunsIsNotServed) {
  const Digest digest = DigestOf("hello");
  { ASSERT_TRUE(Open(100)->AddBytes("hello").ok()); }
  std::ofstream(BlobPath(digest), std::ios::trunc) << "jello";
  auto cache = Open(100);
  EXPECT_FALSE(cache->Find(digest).has_value());
  EXPECT_FALSE(fs::exists(BlobPath(digest)));
  ASSERT_TRUE(cache->AddBytes("hello").ok());
  EXPECT_TRUE(cache->Find(digest).has_value());
}

TEST_F(BlobCacheTest, AFileThatVanishedOrShrankIsNotServed) {
  auto cache = Open(100);
  ASSERT_TRUE(cache->AddBytes("hello").ok());
  ASSERT_TRUE(cache->AddBytes("world!").ok());
  fs::remove(BlobPath(DigestOf("hello")));
  fs::resize_file(BlobPath(DigestOf("world!")), 2);
  EXPECT_FALSE(cache->Find(DigestOf("hello")).has_value());
  EXPECT_FALSE(cache->Find(DigestOf("world!")).has_value());
  EXPECT_EQ(cache->bytes(), 0u);
}

TEST_F(BlobCacheTest, LeftoversOfACrashAreRemoved) {
  {
    auto cache = Open(100);
    std::ofstream(cache->NewScratchPath()) << "half a down";
  }
  auto cache = Open(100);
  EXPECT_TRUE(fs::is_empty(cache->scratch()));
}

TEST_F(BlobCacheTest, OneProcessAtATime) {
  auto cache = Open(100);
  auto second = BlobCache::Open(directory_.path(), 100);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  cache.reset();
  EXPECT_TRUE(BlobCache::Open(directory_.path(), 100).ok());
}

}  // namespace
}  // namespace bitwright
