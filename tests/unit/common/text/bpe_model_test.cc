#include "common/text/bpe_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "absl/strings/str_cat.h"

namespace bitwright {
namespace {

using ::testing::ElementsAre;

std::unique_ptr<BpeModel> Model(BpeOptions options) {
  auto model = BpeModel::Create(std::move(options), false, "model");
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

std::vector<int32_t> Encode(const BpeModel& model, absl::string_view text) {
  std::vector<int32_t> ids;
  BpeModel::Session(model).Encode(text, &ids);
  return ids;
}

TEST(BpeModelTest, LowestRankThenLeftmost) {
  BpeOptions options;
  options.vocab = {{"a", 0},  {"b", 1},  {"c", 2},
                   {"ab", 3}, {"bc", 4}, {"abc", 5}};
  options.merges = {{"b", "c"}, {"a", "b"}, {"ab", "c"}};
  const auto model = Model(options);
  // "bc" ranks first, and nothing joins "a" and "bc".
  EXPECT_THAT(Encode(*model, "abc"), ElementsAre(0, 4));
  EXPECT_THAT(Encode(*model, "abab"), ElementsAre(3, 3));
  // What is unknown is dropped if there is no unk_token.
  EXPECT_THAT(Encode(*model, "xaxbx"), ElementsAre(3));
}

TEST(BpeModelTest, RunsMergeFromTheLeft) {
  BpeOptions options;
  options.vocab = {{"a", 0}, {"aa", 1}, {"aaaa", 2}};
  options.merges = {{"a", "a"}, {"aa", "aa"}};
  const auto model = Model(options);
  EXPECT_THAT(Encode(*model, "aaaaaaa"), ElementsAre(2, 1, 0));
  // Long runs take no quadratic time.
  EXPECT_EQ(Encode(*model, std::string(1 << 18, 'a')).size(), 1u << 16);
}

// The definition, step by step.
std::vector<int32_t> Naive(const BpeOptions& options, const std::string& text) {
  std::vector<std::string> parts;
  for (char c : text) parts.emplace_back(1, c);
  while (true) {
    size_t best = options.merges.size();
    size_t at = 0;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      for (size_t rank = 0; rank < best; ++rank) {
        if (options.merges[rank] == std::make_pair(parts[i], parts[i + 1])) {
          best = rank;
          at = i;
        }
      }
    }
    if (best == options.merges.size()) break;
    parts[at] += parts[at + 1];
    parts.erase(parts.begin() + at + 1);
  }
  std::vector<int32_t> ids;
  for (const auto& part : parts) ids.push_back(options.vocab.at(part));
  return ids;
}

TEST(BpeModelTest, EqualsTheDefinitionOnRandomModels) {
  std::mt19937 random(5);
  for (int round = 0; round < 40; ++round) {
    BpeOptions options;
    std::vector<std::string> tokens = {"a", "b", "c", "d", "_"};
    for (const auto& t : tokens) {
      options.vocab.emplace(t, static_cast<int32_t>(options.vocab.size()));
    }
    while (options.merges.size() < 30) {
      const auto& left = tokens[random() % tokens.size()];
      // Nothing joins across the start of a word, as in real vocabularies.
      const auto& right = tokens[random() % tokens.size()];
      if (right[0] == '_' || left.size() + right.size() > 6) continue;
      const std::string joined = left + right;
      if (!options.vocab
               .emplace(joined, static_cast<int32_t>(options.vocab.size()))
               .second) {
        continue;
      }
      options.merges.emplace_back(left, right);
      tokens.push_back(joined);
    }
    const auto model = Model(options);
    BpeModel::Session session(*model);
    for (int i = 0; i < 50; ++i) {
      std::string text;
      const size_t size = 1 + random() % 60;
      while (text.size() < size) text += "abcd_"[random() % 5];
      std::vector<int32_t> ids;
      session.Encode(text, &ids);
      ASSERT_EQ(ids, Naive(options, text)) << text;
    }
  }
}

TEST(BpeModelTest, UnknownSymbols) {
  BpeOptions options;
  options.vocab = {{"<unk>", 0}, {"a", 1}, {"<0x78>", 2}, {"ax", 3}};
  options.unk_token = "<unk>";
  EXPECT_THAT(Encode(*Model(options), "a??a?"), ElementsAre(1, 0, 0, 1, 0));
  options.fuse_unk = true;
  EXPECT_THAT(Encode(*Model(options), "a??a?"), ElementsAre(1, 0, 1, 0));
  options.byte_fallback = true;
  // As in the reference, bytes go ahead of an unknown symbol held back.
  EXPECT_THAT(Encode(*Model(options), "a?xa"), ElementsAre(1, 2, 0, 1));
  options.unk_token.reset();
  EXPECT_THAT(Encode(*Model(options), "a?xa"), ElementsAre(1, 2, 1));
}

// Merges can join byte and unknown symbols too: no cut may come between.
TEST(BpeModelTest, MergesOfStandInSymbols) {
  BpeOptions options;
  options.vocab = {{"<unk>", 0},
                   {"a", 1},
                   {"<0x78>", 2},
                   {"a<0x78>", 3},
                   {"<0x78><unk>", 4}};
  options.merges = {{"a", "<0x78>"}, {"<0x78>", "<unk>"}};
  options.unk_token = "<unk>";
  options.byte_fallback = true;
  EXPECT_THAT(Encode(*Model(options), "aaxa"), ElementsAre(1, 3, 1));
  EXPECT_THAT(Encode(*Model(options), "x?"), ElementsAre(4));
}

TEST(BpeModelTest, IgnoreMergesTakesWholePieces) {
  BpeOptions options;
  options.vocab = {{"a", 0}, {"b", 1}, {"ab", 2}};
  EXPECT_THAT(Encode(*Model(options), "ab"), ElementsAre(0, 1));
  options.ignore_merges = true;
  EXPECT_THAT(Encode(*Model(options), "ab"), ElementsAre(2));
  EXPECT_THAT(Encode(*Model(options), "aba"), ElementsAre(0, 1, 0));
}

TEST(BpeModelTest, RefusesInconsistentTables) {
  const auto fails = [](BpeOptions options) {
    return BpeModel::Create(std::move(options), false, "model")
               .status()
               .code() == absl::StatusCode::kInvalidArgument;
  };
  BpeOptions good;
  good.vocab = {{"a", 0}, {"b", 1}, {"ab", 2}};
  good.merges = {{"a", "b"}};
  EXPECT_FALSE(fails(good));
  auto bad = good;
  bad.vocab["c"] = 1;
  EXPECT_TRUE(fails(bad));
  bad = good;
  bad.vocab["c"] = -1;
  EXPECT_TRUE(fails(bad));
  bad = good;
  bad.vocab["c"] = kMaxTokenId;
  EXPECT_TRUE(fails(bad));
  bad = good;
  bad.merges.emplace_back("b", "a");
  EXPECT_TRUE(fails(bad));
  bad = good;
  bad.merges.emplace_back("b", "x");
  EXPECT_TRUE(fails(bad));
  bad = good;
  bad.unk_token = "<unk>";
  EXPECT_TRUE(fails(bad));
  bad = good;
  bad.continuing_subword_prefix = "##";
  EXPECT_TRUE(fails(bad));
}

}  // namespace
}  // namespace bitwright
