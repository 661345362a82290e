// What a tokenizer.json may not say, each with a message that names it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <random>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/text/tokenizer.h"

namespace bitwright {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

json Good() {
  return json::parse(R"({"version": "1.0", "model": {"type": "BPE",
    "vocab": {"a": 0, "b": 1, "ab": 2, "<unk>": 3}, "merges": ["a b"]}})");
}

// Expects that Good() with `patch` is refused.
void ExpectRefused(const std::string& patch, absl::StatusCode code,
                   const std::string& why) {
  json parts = Good();
  parts.merge_patch(json::parse(patch));
  const auto status = Tokenizer::FromJson(parts.dump(), "t.json").status();
  EXPECT_EQ(status.code(), code) << patch << " " << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(why)) << patch;
  EXPECT_THAT(std::string(status.message()), HasSubstr("t.json")) << patch;
}

void Unsupported(const std::string& patch, const std::string& why) {
  ExpectRefused(patch, absl::StatusCode::kUnimplemented, why);
}

void Malformed(const std::string& patch, const std::string& why) {
  ExpectRefused(patch, absl::StatusCode::kInvalidArgument, why);
}

TEST(TokenizerErrorsTest, GoodIsGood) {
  const auto status = Tokenizer::FromJson(Good().dump(), "t.json").status();
  EXPECT_TRUE(status.ok()) << status;
}

TEST(TokenizerErrorsTest, UnsupportedParts) {
  Unsupported(R"({"version": "2.0"})", "2.0");
  Unsupported(R"({"novelty": 1})", "novelty");
  Unsupported(R"({"truncation": {"max_length": 5}})", "truncation");
  Unsupported(R"({"padding": {}})", "padding");
  Unsupported(R"({"normalizer": {"type": "BertNormalizer"}})",
              "BertNormalizer");
  Unsupported(R"({"normalizer": {"type": "NFC", "x": 1}})", "\"x\"");
  Unsupported(R"({"normalizer": {"type": "Sequence", "normalizers":
    [{"type": "NFC"}, {"type": "Precompiled"}]}})",
              "normalizers[1]");
  Unsupported(R"({"pre_tokenizer": {"type": "Whitespace"}})", "Whitespace");
  Unsupported(R"({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space":
    false, "fancy": true}})",
              "fancy");
  Unsupported(R"({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "^a"},
    "behavior": "Isolated", "invert": false}})",
              "unescaped ^");
  Unsupported(R"({"pre_tokenizer": {"type": "Split", "pattern": {"String": "a"},
    "behavior": "Doubled", "invert": false}})",
              "Doubled");
  Unsupported(R"({"pre_tokenizer": {"type": "Metaspace", "replacement": "_",
    "prepend_scheme": "last"}})",
              "last");
  Unsupported(R"({"pre_tokenizer": {"type": "Metaspace", "replacement": "_",
    "prepend_scheme": "first"}, "normalizer": {"type": "StripAccents"}})",
              "first");
  Unsupported(R"({"post_processor": {"type": "Novel"}})", "Novel");
  Unsupported(R"({"decoder": {"type": "WordPiece"}})", "WordPiece");
  Unsupported(R"({"model": {"type": "Unigram"}})", "Unigram");
  Unsupported(R"({"model": {"dropout": 0.1}})", "dropout");
  Unsupported(R"({"model": {"novel": 0.1}})", "novel");
  Unsupported(R"({"added_tokens": [{"id": 9, "content": "x", "hue": 1}]})",
              "hue");
  Unsupported(R"({"normalizer": {"type": "Strip", "strip_left": true,
    "strip_right": true}, "added_tokens": [{"id": 9, "content": " "}]})",
              "added_tokens");
}

TEST(TokenizerErrorsTest, MalformedParts) {
  Malformed(R"({"version": 1})", "version");
  Malformed(R"({"model": null})", "model");
  Malformed(R"({"model": []})", "model");
  Malformed(R"({"model": {"type": 3}})", "model.type");
  Malformed(R"({"model": {"vocab": null}})", "model.vocab");
  Malformed(R"({"model": {"vocab": {"a": "0"}}})", "vocab[\"a\"]");
  Malformed(R"({"model": {"vocab": {"a": -1}}})", "vocab[\"a\"]");
  Malformed(R"({"model": {"vocab": {"a": 1.5}}})", "vocab[\"a\"]");
  Malformed(R"({"model": {"vocab": {"a": 4294967296}}})", "vocab[\"a\"]");
  Malformed(R"({"model": {"vocab": {"c": 1}}})", "same id 1");
  Malformed(R"({"model": {"merges": null}})", "model.merges");
  Malformed(R"({"model": {"merges": {"a": "b"}}})", "model.merges");
  Malformed(R"({"model": {"merges": ["a b", "ab"]}})", "merges[1]");
  Malformed(R"({"model": {"merges": ["a b c"]}})", "merges[0]");
  Malformed(R"({"model": {"merges": [["a"]]}})", "merges[0]");
  Malformed(R"({"model": {"merges": [["a", 1]]}})", "merges[0]");
  Malformed(R"({"model": {"merges": ["a x"]}})", "\"x\"");
  Malformed(R"({"model": {"merges": ["b a"]}})", "\"ba\"");
  Malformed(R"({"model": {"unk_token": "[UNK]"}})", "unk_token");
  Malformed(R"({"model": {"unk_token": 3}})", "unk_token");
  Malformed(R"({"model": {"fuse_unk": "yes"}})", "fuse_unk");
  Malformed(R"({"normalizer": "NFC"})", "normalizer");
  Malformed(R"({"normalizer": {}})", "normalizer.type");
  Malformed(R"({"normalizer": {"type": "Strip"}})", "strip_left");
  Malformed(R"({"normalizer": {"type": "Prepend"}})", "prepend");
  Malformed(R"({"normalizer": {"type": "Replace", "content": ""}})", "pattern");
  Malformed(
      R"({"normalizer": {"type": "Replace", "content": "", "pattern": {}}})",
      "pattern");
  Malformed(R"({"normalizer": {"type": "Sequence", "normalizers": 3}})",
            "normalizers");
  Malformed(R"({"pre_tokenizer": {"type": "ByteLevel"}})", "add_prefix_space");
  Malformed(R"({"pre_tokenizer": {"type": "Digits"}})", "individual_digits");
  Malformed(R"({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("},
    "behavior": "Isolated", "invert": false}})",
            "unmatched");
  Malformed(R"({"pre_tokenizer": {"type": "Metaspace", "replacement": "ab"}})",
            "one character");
  Malformed(R"({"pre_tokenizer": {"type": "Metaspace", "replacement": "_",
    "add_prefix_space": false, "prepend_scheme": "always"}})",
            "disagree");
  Malformed(R"({"decoder": {"type": "Strip", "content": "", "start": 1,
    "stop": 0}})",
            "content");
  Malformed(R"({"post_processor": {"type": "TemplateProcessing", "single":
    [{"SpecialToken": {"id": "a"}}], "special_tokens": {}}})",
            "special_tokens");
  Malformed(R"({"added_tokens": {}})", "added_tokens");
  Malformed(R"({"added_tokens": [3]})", "added_tokens[0]");
  Malformed(R"({"added_tokens": [{"content": "x"}]})", "added_tokens[0].id");
  Malformed(R"({"added_tokens": [{"id": 9}]})", "added_tokens[0].content");
  Malformed(R"({"added_tokens": [{"id": 1, "content": "x"}]})", "\"b\"");
  Malformed(R"({"added_tokens": [{"id": 9, "content": "b"}]})", "as 1");
  Malformed(R"({"added_tokens": [{"id": 9, "content": "x"},
    {"id": 9, "content": "y"}]})",
            "added_tokens[1]");
  Malformed(R"({"added_tokens": [{"id": 9, "content": "x"},
    {"id": 10, "content": "x"}]})",
            "twice");
}

TEST(TokenizerErrorsTest, WhatIsNoJsonObject) {
  for (const char* text :
       {"", "null", "[]", "3", "\"x\"", "{", "{}", "{\"model\"}"}) {
    const auto status = Tokenizer::FromJson(text, "t.json").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

// Every place of a real file, replaced by values of other kinds: an error or a
// tokenizer that works, never a crash.
TEST(TokenizerErrorsTest, AnyValueReplaced) {
  const char* root = std::getenv("BITWRIGHT_SOURCE_DIR");
  for (const char* name :
       {"tiny_llama2.json", "tiny_gpt2.json", "tiny_llama3.json"}) {
    const json good = json::parse(
        *ReadFile(absl::StrCat(root == nullptr ? "." : root,
                               "/tests/unit/common/text/fixtures/", name)));
    const json flat = good.flatten();
    std::mt19937 random(11);
    int refused = 0;
    for (const auto& [pointer, value] : flat.items()) {
      const bool table = pointer.find("/model/vocab") == 0 ||
                         pointer.find("/model/merges") == 0;
      if (table && random() % 300 != 0) continue;
      for (const json& other :
           {json(nullptr), json(-1), json(1e300), json(""), json("\xC3\xA9"),
            json::array(), json::object(), json(true), json(1 << 30)}) {
        json parts = good;
        parts[json::json_pointer(pointer)] = other;
        const auto tokenizer = Tokenizer::FromJson(parts.dump(), "t");
        if (tokenizer.ok()) {
          (*tokenizer)
              ->Decode((*tokenizer)->Encode("The cat's \xC3\xA9 <s>  \n1"));
        } else {
          ++refused;
        }
      }
    }
    EXPECT_GT(refused, 100);
  }
}

TEST(TokenizerErrorsTest, AnyByteFlipped) {
  const char* root = std::getenv("BITWRIGHT_SOURCE_DIR");
  const std::string dir = absl::StrCat(root == nullptr ? "." : root,
                                       "/tests/unit/common/text/fixtures/");
  std::mt19937 random(12);
  for (const char* name :
       {"tiny_llama2.json", "tiny_sp_bpe.model", "tiny_sp_unigram.model"}) {
    const std::string good = *ReadFile(dir + name);
    const bool is_json = name[std::string(name).size() - 1] == 'n';
    for (int i = 0; i < 300; ++i) {
      std::string bad = good;
      bad[random() % bad.size()] = static_cast<char>(random());
      const auto tokenizer = is_json ? Tokenizer::FromJson(bad, "t")
                                     : Tokenizer::FromSentencePiece(bad, "t");
      if (tokenizer.ok()) (*tokenizer)->Encode("The cat's \xC3\xA9 <s>  \n1");
    }
  }
}

}  // namespace
}  // namespace bitwright
