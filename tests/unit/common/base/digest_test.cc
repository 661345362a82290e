#include "common/base/digest.h"

#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bitwright {
namespace {

constexpr char kHello[] =
    "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

TEST(DigestTest, KnownValues) {
  EXPECT_EQ(DigestOf("hello").ToString(), absl::StrCat(kHello, "/5"));
  EXPECT_EQ(DigestOf("").sha256,
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

TEST(DigestTest, ParsesWhatItWrites) {
  const Digest digest = DigestOf("hello");
  auto parsed = Digest::Parse(digest.ToString());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(*parsed, digest);
  auto largest = Digest::Parse(absl::StrCat(kHello, "/18446744073709551615"));
  ASSERT_TRUE(largest.ok());
  EXPECT_EQ(largest->size, UINT64_MAX);
}

TEST(DigestTest, RefusesEverythingElse) {
  const std::string hex = kHello;
  for (const std::string& text :
       {std::string(), hex, hex + "/", hex + "/x", hex + "/-1", hex + "/+1",
        hex + "/ 1", hex + "/1 ", hex + "/01", hex + "/1\n", hex + "5",
        hex + "/18446744073709551616", hex.substr(1) + "/5", "g" + hex + "/5",
        "A" + hex.substr(1) + "/5", std::string("../../etc/passwd")}) {
    auto parsed = Digest::Parse(text);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument)
        << text;
  }
}

TEST(DigestTest, PiecesAreTheWhole) {
  std::string data(3'000'000, 'a');
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i * 7);
  Hasher hasher;
  for (size_t i = 0; i < data.size(); i += 777) {
    hasher.Update(absl::string_view(data).substr(i, 777));
  }
  EXPECT_EQ(hasher.Finish(), DigestOf(data));

  auto directory = TempDirectory::Create("digest");
  ASSERT_TRUE(directory.ok());
  const std::string path = directory->path() + "/file";
  ASSERT_TRUE(WriteFileAtomically(path, data).ok());
  auto of_file = DigestOfFile(path);
  ASSERT_TRUE(of_file.ok());
  EXPECT_EQ(*of_file, DigestOf(data));
}

TEST(DigestTest, FileErrorsNameThePath) {
  auto directory = TempDirectory::Create("digest");
  ASSERT_TRUE(directory.ok());
  auto missing = DigestOfFile(directory->path() + "/nothing");
  EXPECT_TRUE(absl::IsNotFound(missing.status()));
  EXPECT_THAT(std::string(missing.status().message()),
              testing::HasSubstr("/nothing"));
  EXPECT_TRUE(
      absl::IsInvalidArgument(DigestOfFile(directory->path()).status()));
}

TEST(DigestTest, Orders) {
  const Digest a{"aa", 1}, b{"ab", 0}, c{"ab", 2};
  EXPECT_LT(a, b);
  EXPECT_LT(b, c);
  EXPECT_NE(b, c);
}

}  // namespace
}  // namespace bitwright
