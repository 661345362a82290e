// Every tokenizer against the ids that the reference libraries give: see
// tests/interop/tokenizers/make_fixtures.py.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/digest.h"
#include "common/base/file.h"
#include "common/text/tokenizer.h"

namespace bitwright {
namespace {

using nlohmann::json;

std::string Fixture(const std::string& name) {
  const char* root = std::getenv("BITWRIGHT_SOURCE_DIR");
  return absl::StrCat(root == nullptr ? "." : root,
                      "/tests/unit/common/text/fixtures/", name);
}

json ReadFixture(const std::string& name) {
  const auto text = ReadFile(Fixture(name));
  EXPECT_TRUE(text.ok()) << text.status();
  return text.ok() ? json::parse(*text) : json();
}

std::vector<std::string> Strings() {
  return ReadFixture("strings.json")["strings"].get<std::vector<std::string>>();
}

std::string ShortDigest(absl::string_view data) {
  return DigestOf(data).sha256.substr(0, 8);
}

std::string IdsDigest(const std::vector<int32_t>& ids) {
  return ShortDigest(absl::StrJoin(ids, " "));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& path) {
  const auto bytes = ReadFile(path);
  if (!bytes.ok()) return bytes.status();
  return absl::EndsWith(path, ".model")
             ? Tokenizer::FromSentencePiece(*bytes, path)
             : Tokenizer::FromJson(*bytes, path);
}

void ExpectStrings(const Tokenizer& tokenizer, const json& expected) {
  const std::vector<std::string> strings = Strings();
  const bool in_full = expected.contains("ids");
  const json& rows = expected[in_full ? "ids" : "digests"];
  ASSERT_EQ(rows.size(), strings.size());
  for (size_t i = 0; i < strings.size(); ++i) {
    const std::vector<int32_t> ids = tokenizer.Encode(strings[i]);
    if (in_full) {
      EXPECT_EQ(json(ids), rows[i]) << absl::CHexEscape(strings[i]);
    } else if (!rows[i].is_null()) {  // Null: the reference itself fails.
      EXPECT_EQ(IdsDigest(ids), rows[i])
          << absl::CHexEscape(strings[i]) << ": " << json(ids);
    }
    for (int32_t id : ids) EXPECT_LT(id, tokenizer.vocab_size());
    if (expected.contains("decoded")) {
      EXPECT_EQ(ShortDigest(tokenizer.Decode(ids)), expected["decoded"][i])
          << absl::CHexEscape(strings[i]) << ": " << tokenizer.Decode(ids);
    }
  }
}

class TinyTokenizerTest : public ::testing::TestWithParam<std::string> {};

TEST_P(TinyTokenizerTest, GivesTheReferenceIds) {
  const json expected = ReadFixture(GetParam() + ".expected.json");
  const auto tokenizer = Load(Fixture(expected["file"]));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectStrings(**tokenizer, expected);
}

INSTANTIATE_TEST_SUITE_P(All, TinyTokenizerTest,
                         ::testing::Values("tiny_gpt2", "tiny_llama3",
                                           "tiny_qwen2", "tiny_llama2",
                                           "tiny_suffix", "tiny_prefix",
                                           "tiny_sp_bpe", "tiny_sp_unigram"),
                         [](const auto& info) { return info.param; });

TEST(VariantTest, GivesTheReferenceIds) {
  const json variants = ReadFixture("variants.expected.json");
  EXPECT_GE(variants.size(), 30u);
  for (const auto& [name, variant] : variants.items()) {
    SCOPED_TRACE(name);
    json parts = ReadFixture(variant["base"].get<std::string>() + ".json");
    for (const auto& [key, part] : variant["patch"].items()) {
      if (key == "model") {
        parts[key].merge_patch(part);
      } else {
        parts[key] = part;
      }
    }
    const auto tokenizer = Tokenizer::FromJson(parts.dump(), name);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    ExpectStrings(**tokenizer, variant);
  }
}

TEST(InvalidUtf8Test, IsReplacedAsPythonDoes) {
  const auto tokenizer = Load(Fixture("tiny_llama2.json"));
  const auto sentencepiece = Load(Fixture("tiny_sp_bpe.model"));
  ASSERT_TRUE(tokenizer.ok() && sentencepiece.ok());
  const json cases = ReadFixture("strings.json")["invalid"];
  EXPECT_GE(cases.size(), 20u);
  for (const json& item : cases) {
    const std::string raw =
        absl::HexStringToBytes(item["hex"].get<std::string>());
    const std::string text = item["text"];
    EXPECT_EQ((*tokenizer)->Encode(raw), (*tokenizer)->Encode(text))
        << item["hex"];
    EXPECT_EQ((*sentencepiece)->Encode(raw), (*sentencepiece)->Encode(text))
        << item["hex"];
    // This alphabet is complete, so text comes back whole.
    EXPECT_EQ((*tokenizer)->Decode((*tokenizer)->Encode(raw)), text);
  }
}

std::string Sha256OfIds(const std::vector<int32_t>& ids) {
  std::string bytes;
  for (int32_t id : ids) {
    for (int shift = 0; shift < 32; shift += 8) {
      bytes.push_back(static_cast<char>(static_cast<uint32_t>(id) >> shift));
    }
  }
  return DigestOf(bytes).sha256;
}

class SharedTokenizerTest : public ::testing::TestWithParam<std::string> {};

TEST_P(SharedTokenizerTest, GivesTheReferenceIds) {
  const json expected = ReadFixture("shared_" + GetParam() + ".expected.json");
  const char* shared = std::getenv("BITWRIGHT_SHARED_DIR");
  const std::string root = shared == nullptr ? "" : shared;
  const auto tokenizer =
      Load(absl::StrCat(root, "/", expected["file"].get<std::string>()));
  if (absl::IsNotFound(tokenizer.status())) {
    GTEST_SKIP() << tokenizer.status();
  }
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ExpectStrings(**tokenizer, expected);
  for (const auto& [name, text] : expected["texts"].items()) {
    const auto contents = ReadFile(absl::StrCat(root, "/text/", name));
    ASSERT_TRUE(contents.ok()) << contents.status();
    const std::vector<int32_t> ids = (*tokenizer)->Encode(*contents);
    EXPECT_EQ(ids.size(), text["tokens"].get<size_t>()) << name;
    EXPECT_EQ(Sha256OfIds(ids), text["sha256"]) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(All, SharedTokenizerTest,
                         ::testing::Values("gpt2", "pythia", "stories15m",
                                           "stories260k", "stories15m_sp",
                                           "stories260k_sp"),
                         [](const auto& info) { return info.param; });

// The counts that the reference perplexities were computed with.
TEST(SharedModelTest, GivesTheStatedTokenCounts) {
  const char* shared = std::getenv("BITWRIGHT_SHARED_DIR");
  const std::string root = shared == nullptr ? "" : shared;
  const struct {
    const char* model;
    const char* text;
    size_t tokens;
  } kCases[] = {{"stories260k", "tinystories-heldout.txt", 129045},
                {"stories260k", "wikitext-2-valid.txt", 716893},
                {"stories260k", "tinystories-heldout-b.txt", 116837},
                {"stories15m", "tinystories-heldout-b.txt", 59190}};
  for (const auto& c : kCases) {
    const auto tokenizer =
        Tokenizer::FromDirectory(absl::StrCat(root, "/models/", c.model));
    if (absl::IsNotFound(tokenizer.status())) {
      GTEST_SKIP() << tokenizer.status();
    }
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    EXPECT_EQ((*tokenizer)->bos_id(), 1);
    const auto text = ReadFile(absl::StrCat(root, "/text/", c.text));
    ASSERT_TRUE(text.ok());
    EXPECT_EQ((*tokenizer)->EncodeWithBos(*text).size(), c.tokens)
        << c.model << " " << c.text;
  }
}

}  // namespace
}  // namespace bitwright
