#include "common/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <thread>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"

namespace bitwright {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string Fixture(const std::string& name) {
  const char* root = std::getenv("BITWRIGHT_SOURCE_DIR");
  return *ReadFile(absl::StrCat(root == nullptr ? "." : root,
                                "/tests/unit/common/text/fixtures/", name));
}

// A tokenizer of three letters, with `more` keys.
std::string Letters(const std::string& more) {
  return absl::StrCat(R"({"model": {"type": "BPE", "vocab":
      {"a": 0, "b": 1, "c": 2, "ab": 3, " ": 4}, "merges": ["a b"]})",
                      more, "}");
}

std::unique_ptr<Tokenizer> FromJson(const std::string& json) {
  auto tokenizer = Tokenizer::FromJson(json, "test");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

TEST(TokenizerTest, SmallestFile) {
  const auto tokenizer = FromJson(Letters(""));
  EXPECT_THAT(tokenizer->Encode("abcab"), ElementsAre(3, 2, 3));
  EXPECT_THAT(tokenizer->Encode(""), IsEmpty());
  EXPECT_EQ(tokenizer->vocab_size(), 5);
  EXPECT_EQ(tokenizer->bos_id(), absl::nullopt);
  EXPECT_EQ(tokenizer->Decode({3, 2, 99, -1}), "ab c");
  EXPECT_EQ(tokenizer->source(), "test");
}

TEST(TokenizerTest, AddedTokensTakeWhatTheirFlagsSay) {
  const auto tokenizer = FromJson(Letters(R"(, "added_tokens": [
    {"id": 10, "content": "<l>", "lstrip": true, "normalized": false},
    {"id": 11, "content": "<r>", "rstrip": true, "normalized": false},
    {"id": 12, "content": "cab", "single_word": true, "normalized": false},
    {"id": 13, "content": "<", "normalized": false},
    {"id": 3, "content": "ab", "normalized": false}])"));
  EXPECT_EQ(tokenizer->vocab_size(), 14);
  EXPECT_THAT(tokenizer->Encode("a  <l> b"), ElementsAre(0, 10, 4, 1));
  EXPECT_THAT(tokenizer->Encode("a <r>  b"), ElementsAre(0, 4, 11, 1));
  EXPECT_THAT(tokenizer->Encode("a<r>  <l>b"), ElementsAre(0, 11, 10, 1));
  EXPECT_THAT(tokenizer->Encode("<l<l>"), ElementsAre(13, 10));
  EXPECT_THAT(tokenizer->Encode("cab cab"), ElementsAre(12, 4, 12));
  EXPECT_THAT(tokenizer->Encode("ccab"), ElementsAre(2, 2, 3));
}

TEST(TokenizerTest, NormalizedAddedTokensAreSoughtInNormalizedText) {
  const auto tokenizer = FromJson(Letters(R"(,
    "normalizer": {"type": "Lowercase"}, "added_tokens": [
    {"id": 10, "content": "Bc", "normalized": true},
    {"id": 11, "content": "CC", "normalized": false}])"));
  EXPECT_THAT(tokenizer->Encode("aBCcbc"), ElementsAre(0, 10, 2, 10));
  EXPECT_THAT(tokenizer->Encode("CCcc"), ElementsAre(11, 2, 2));
}

TEST(TokenizerTest, ThreadsShareOneTokenizer) {
  const auto tokenizer = FromJson(Fixture("tiny_llama3.json"));
  std::string text;
  for (int i = 0; i < 300; ++i)
    absl::StrAppend(&text, "It's the test #", i, "\n");
  const auto expected = tokenizer->Encode(text);
  std::vector<std::thread> threads;
  std::vector<int> same(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 5; ++i) {
        same[t] += tokenizer->Encode(text) == expected &&
                   tokenizer->Decode(expected) == text;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_THAT(same, ElementsAre(5, 5, 5, 5));
}

// A directory with the given files, and what FromDirectory makes of it.
class DirectoryTest : public ::testing::Test {
 protected:
  void Put(const std::string& name, const std::string& contents) {
    ASSERT_TRUE(
        WriteFileAtomically(directory_.path() + "/" + name, contents).ok());
  }
  absl::optional<int32_t> Bos() {
    auto tokenizer = Tokenizer::FromDirectory(directory_.path());
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    return tokenizer.ok() ? (*tokenizer)->bos_id() : -1;
  }
  TempDirectory directory_ = *TempDirectory::Create("tokenizer_test");
};

constexpr char kTemplate[] = R"(, "post_processor": {"type": "Sequence",
  "processors": [{"type": "ByteLevel", "add_prefix_space": true,
  "trim_offsets": false}, {"type": "TemplateProcessing",
  "single": [{"SpecialToken": {"id": "b", "type_id": 0}},
  {"Sequence": {"id": "A", "type_id": 0}},
  {"SpecialToken": {"id": "c", "type_id": 0}}], "pair": [],
  "special_tokens": {"b": {"id": "b", "ids": [1], "tokens": ["b"]},
  "c": {"id": "c", "ids": [2], "tokens": ["c"]}}}]})";

TEST_F(DirectoryTest, NoTokenizer) {
  auto status = Tokenizer::FromDirectory(directory_.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("tokenizer.json"), HasSubstr("tokenizer.model"),
                    HasSubstr("--tokens"), HasSubstr(directory_.path())));
  Put("vocab.json", "{}");
  status = Tokenizer::FromDirectory(directory_.path()).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("save_pretrained"));
}

TEST_F(DirectoryTest, BosOfThePostProcessor) {
  Put("tokenizer.json", Letters(kTemplate));
  EXPECT_EQ(Bos(), 1);
  Put("config.json", R"({"bos_token_id": 2})");
  EXPECT_EQ(Bos(), 1);
  Put("tokenizer_config.json", R"({"bos_token": "c"})");
  EXPECT_EQ(Bos(), 1);
  const auto tokenizer = Tokenizer::FromDirectory(directory_.path());
  EXPECT_THAT((*tokenizer)->EncodeWithBos("ab"), ElementsAre(1, 3));
}

TEST_F(DirectoryTest, BosOfTheTokenizerConfig) {
  Put("tokenizer.json", Letters(kTemplate));
  Put("tokenizer_config.json", R"({"add_bos_token": true, "bos_token": "c"})");
  EXPECT_EQ(Bos(), 2);
  Put("tokenizer_config.json",
      R"({"add_bos_token": true, "bos_token": {"content": "c"}})");
  EXPECT_EQ(Bos(), 2);
  Put("tokenizer_config.json", R"({"add_bos_token": false, "bos_token": "c"})");
  EXPECT_EQ(Bos(), absl::nullopt);
  for (const char* bad :
       {R"({"add_bos_token": true, "bos_token": "x"})",
        R"({"add_bos_token": true})", R"({"add_bos_token": 1})",
        R"({"add_bos_token": true, "bos_token": 2})", "[]", "{"}) {
    Put("tokenizer_config.json", bad);
    const auto status = Tokenizer::FromDirectory(directory_.path()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("tokenizer_config.json"));
  }
}

TEST_F(DirectoryTest, BosOfTheTokenizerClass) {
  Put("tokenizer.json", Letters(""));
  Put("config.json", R"({"bos_token_id": 1})");
  Put("tokenizer_config.json",
      R"({"tokenizer_class": "LlamaTokenizerFast", "bos_token": "c"})");
  EXPECT_EQ(Bos(), 2);
  Put("tokenizer_config.json",
      R"({"tokenizer_class": "GPT2Tokenizer", "bos_token": "c"})");
  EXPECT_EQ(Bos(), absl::nullopt);
}

TEST_F(DirectoryTest, BosOfTheModelConfig) {
  Put("tokenizer.json", Letters(""));
  EXPECT_EQ(Bos(), absl::nullopt);
  Put("config.json", R"({"bos_token_id": null})");
  EXPECT_EQ(Bos(), absl::nullopt);
  Put("config.json", R"({"bos_token_id": 2})");
  EXPECT_EQ(Bos(), 2);
  Put("config.json", R"({"bos_token_id": 5})");
  EXPECT_FALSE(Tokenizer::FromDirectory(directory_.path()).ok());
}

TEST_F(DirectoryTest, SentencePiece) {
  Put("tokenizer.model", Fixture("tiny_sp_bpe.model"));
  EXPECT_EQ(Bos(), 1);
  Put("tokenizer_config.json", R"({"add_bos_token": false})");
  EXPECT_EQ(Bos(), absl::nullopt);
  Put("tokenizer_config.json",
      R"({"add_bos_token": true, "bos_token": "</s>"})");
  EXPECT_EQ(Bos(), 2);
}

// A tokenizer.json that gives `ids` for "the end" and nothing like it for the
// same words with more spaces.
std::string JsonFor(const std::vector<int32_t>& ids) {
  std::string vocab = "{\"the end\": 100000";
  std::string content;
  for (size_t i = 0; i < ids.size(); ++i) {
    content.push_back(static_cast<char>('A' + i));
    absl::StrAppend(&vocab, ", \"", content.substr(i), "\": ", ids[i]);
  }
  return absl::StrCat(
      R"({"normalizer": {"type": "Replace", "pattern": {"String": "the end"},
      "content": ")",
      content, R"("}, "model": {"type": "BPE", "merges": [], "vocab": )", vocab,
      "}}}");
}

TEST_F(DirectoryTest, ConversionThatLostTheRemovalOfSpaces) {
  const std::string keeps = Fixture("tiny_sp_bpe.model");
  // The model ends with its normalizer: remove_extra_whitespaces is false.
  std::string removes = keeps;
  ASSERT_EQ(removes.substr(removes.size() - 2), std::string("\x20\x00", 2));
  removes.back() = 1;
  const auto ids =
      (*Tokenizer::FromSentencePiece(keeps, "x"))->Encode("the end");
  const auto source = [&] {
    return (*Tokenizer::FromDirectory(directory_.path()))->source();
  };
  Put("tokenizer.json", JsonFor(ids));
  EXPECT_THAT(source(), HasSubstr("tokenizer.json"));
  Put("tokenizer.model", "not a model at all");
  EXPECT_THAT(source(), HasSubstr("tokenizer.json"));
  Put("tokenizer.model", keeps);
  EXPECT_THAT(source(), HasSubstr("tokenizer.json"));
  Put("tokenizer.model", removes);
  EXPECT_THAT(source(), HasSubstr("tokenizer.model"));
  // Another model's file is no reason to leave the JSON.
  Put("tokenizer.json", Letters(""));
  EXPECT_THAT(source(), HasSubstr("tokenizer.json"));
}

TEST_F(DirectoryTest, JsonComesFirst) {
  Put("tokenizer.json", "{");
  Put("tokenizer.model", Fixture("tiny_sp_bpe.model"));
  const auto status = Tokenizer::FromDirectory(directory_.path()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("tokenizer.json"));
}

TEST(SentencePieceTest, LongTextEqualsWholeTextRules) {
  const auto model =
      Tokenizer::FromSentencePiece(Fixture("tiny_sp_bpe.model"), "x");
  ASSERT_TRUE(model.ok());
  // Word by word or at once: \xC2\xA0 keeps the fast path from cutting.
  EXPECT_EQ((*model)->Decode((*model)->Encode("the cat sat  by\nthe mat ")),
            "the cat sat  by\nthe mat ");
}

TEST(SentencePieceTest, RefusesWhatIsNoModel) {
  const std::string good = Fixture("tiny_sp_bpe.model");
  for (const std::string& bad : {std::string(), std::string("hello"),
                                 good.substr(0, good.size() / 2) + "\xFF",
                                 std::string(1000, '\0'), std::string("{}")}) {
    const auto status = Tokenizer::FromSentencePiece(bad, "bad.model").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("bad.model"));
  }
}

}  // namespace
}  // namespace bitwright
