#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/status_macros.h"
#include "common/text/json_reader.h"
#include "common/text/json_tokenizer.h"
#include "common/text/post_processor.h"

namespace bitwright {
namespace {

absl::StatusOr<absl::flat_hash_map<std::string, int32_t>> ReadVocab(
    const ObjectReader& model) {
  BW_ASSIGN_OR_RETURN(ObjectReader vocab, model.Object("vocab"));
  absl::flat_hash_map<std::string, int32_t> result;
  result.reserve(vocab.json().size());
  for (const auto& item : vocab.json().items()) {
    BW_ASSIGN_OR_RETURN(int32_t id, JsonIndex(item.value(), kMaxTokenId,
                                              absl::StrCat(vocab.where(), "[\"",
                                                           item.key(), "\"]")));
    result[item.key()] = id;
  }
  return result;
}

absl::StatusOr<std::pair<std::string, std::string>> ReadMerge(
    const nlohmann::json& merge, const std::string& where) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
      merge[1].is_string()) {
    return std::make_pair(merge[0].get<std::string>(),
                          merge[1].get<std::string>());
  }
  if (merge.is_string()) {
    const std::vector<std::string> parts =
        absl::StrSplit(merge.get_ref<const std::string&>(), ' ');
    if (parts.size() == 2) return std::make_pair(parts[0], parts[1]);
  }
  return absl::InvalidArgumentError(
      absl::StrCat(where, ": expected \"a b\" or [\"a\", \"b\"]"));
}

absl::Status CheckModelType(const ObjectReader& model) {
  std::string type = "BPE";  // Files older than the key were all BPE.
  if (model.Find("type") != nullptr) {
    BW_ASSIGN_OR_RETURN(type, model.String("type"));
  }
  if (type != "BPE") {
    return absl::UnimplementedError(
        absl::StrCat(model.where(), ": the model \"", type,
                     "\" is not supported, only BPE"));
  }
  BW_RETURN_IF_ERROR(model.AllowOnly(
      {"type", "dropout", "unk_token", "continuing_subword_prefix",
       "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges",
       "vocab", "merges"}));
  const nlohmann::json* dropout = model.Find("dropout");
  if (dropout != nullptr && *dropout != 0.0) {
    return absl::UnimplementedError(absl::StrCat(
        model.WhereOf("dropout"), ": random merges are not supported"));
  }
  return absl::OkStatus();
}

absl::StatusOr<BpeOptions> ReadModel(const ObjectReader& model) {
  BW_RETURN_IF_ERROR(CheckModelType(model));
  BpeOptions options;
  BW_ASSIGN_OR_RETURN(options.vocab, ReadVocab(model));
  BW_ASSIGN_OR_RETURN(const nlohmann::json* merges, model.Array("merges"));
  options.merges.reserve(merges->size());
  for (size_t i = 0; i < merges->size(); ++i) {
    BW_ASSIGN_OR_RETURN(
        auto merge,
        ReadMerge((*merges)[i],
                  absl::StrCat(model.WhereOf("merges"), "[", i, "]")));
    options.merges.push_back(std::move(merge));
  }
  if (model.Find("unk_token") != nullptr) {
    BW_ASSIGN_OR_RETURN(options.unk_token, model.String("unk_token"));
  }
  if (model.Find("continuing_subword_prefix") != nullptr) {
    BW_ASSIGN_OR_RETURN(options.continuing_subword_prefix,
                        model.String("continuing_subword_prefix"));
  }
  if (model.Find("end_of_word_suffix") != nullptr) {
    BW_ASSIGN_OR_RETURN(options.end_of_word_suffix,
                        model.String("end_of_word_suffix"));
  }
  BW_ASSIGN_OR_RETURN(options.fuse_unk, model.Bool("fuse_unk", false));
  BW_ASSIGN_OR_RETURN(options.byte_fallback,
                      model.Bool("byte_fallback", false));
  BW_ASSIGN_OR_RETURN(options.ignore_merges,
                      model.Bool("ignore_merges", false));
  return options;
}

absl::StatusOr<AddedToken> ReadAddedToken(const nlohmann::json& json,
                                          const std::string& where) {
  BW_ASSIGN_OR_RETURN(ObjectReader reader, ObjectReader::Create(json, where));
  BW_RETURN_IF_ERROR(reader.AllowOnly({"id", "content", "single_word", "lstrip",
                                       "rstrip", "normalized", "special"}));
  AddedToken token;
  BW_ASSIGN_OR_RETURN(token.id, reader.Index("id", kMaxTokenId));
  BW_ASSIGN_OR_RETURN(token.content, reader.String("content"));
  BW_ASSIGN_OR_RETURN(token.single_word, reader.Bool("single_word", false));
  BW_ASSIGN_OR_RETURN(token.lstrip, reader.Bool("lstrip", false));
  BW_ASSIGN_OR_RETURN(token.rstrip, reader.Bool("rstrip", false));
  BW_ASSIGN_OR_RETURN(token.special, reader.Bool("special", false));
  BW_ASSIGN_OR_RETURN(token.normalized,
                      reader.Bool("normalized", !token.special));
  return token;
}

// A token of the model keeps its id; any other must have one of its own.
absl::Status CheckId(const AddedToken& token, const BpeModel& model,
                     const absl::flat_hash_map<int32_t, std::string>& seen,
                     const std::string& where) {
  const absl::optional<int32_t> in_model = model.IdOf(token.content);
  const std::string* of_model = model.TokenOf(token.id);
  std::string other;
  if (in_model.has_value() && *in_model != token.id) {
    other = absl::StrCat("the vocabulary has it as ", *in_model);
  } else if (of_model != nullptr && *of_model != token.content) {
    other = absl::StrCat("that is \"", *of_model, "\" in the vocabulary");
  } else if (auto it = seen.find(token.id); it != seen.end()) {
    other = absl::StrCat("that is the added token \"", it->second, "\"");
  } else {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(where, ": \"", token.content,
                                                 "\" has the id ", token.id,
                                                 ", but ", other));
}

absl::Status ReadAddedTokens(const ObjectReader& root, TokenizerParts* parts) {
  if (root.Find("added_tokens") == nullptr) return absl::OkStatus();
  BW_ASSIGN_OR_RETURN(const nlohmann::json* list, root.Array("added_tokens"));
  absl::flat_hash_map<int32_t, std::string> seen;
  absl::flat_hash_map<std::string, int32_t> ids;
  for (size_t i = 0; i < list->size(); ++i) {
    const std::string where =
        absl::StrCat(root.WhereOf("added_tokens"), "[", i, "]");
    BW_ASSIGN_OR_RETURN(AddedToken token, ReadAddedToken((*list)[i], where));
    if (token.content.empty()) continue;  // As the reference does.
    BW_RETURN_IF_ERROR(CheckId(token, *parts->model, seen, where));
    if (!ids.try_emplace(token.content, token.id).second) {
      return absl::InvalidArgumentError(absl::StrCat(
          where, ": the token \"", token.content, "\" is listed twice"));
    }
    seen[token.id] = token.content;
    parts->added_tokens.push_back(std::move(token));
  }
  return absl::OkStatus();
}

// What else is in a tokenizer.json: only what does nothing.
absl::Status CheckRoot(const ObjectReader& root) {
  BW_RETURN_IF_ERROR(root.AllowOnly(
      {"version", "truncation", "padding", "added_tokens", "normalizer",
       "pre_tokenizer", "post_processor", "decoder", "model"}));
  for (absl::string_view key : {"truncation", "padding"}) {
    if (root.Find(key) == nullptr) continue;
    return absl::UnimplementedError(
        absl::StrCat(root.WhereOf(key),
                     ": not supported; set it to null (whole texts are "
                     "tokenized, and cut into windows later)"));
  }
  if (root.Find("version") != nullptr) {
    BW_ASSIGN_OR_RETURN(std::string version, root.String("version"));
    if (version != "1.0") {
      return absl::UnimplementedError(absl::StrCat(
          root.WhereOf("version"), ": \"", version, "\" is not supported"));
    }
  }
  return absl::OkStatus();
}

bool HasWholeByteAlphabet(const BpeOptions& options) {
  for (int byte = 0; byte < 256; ++byte) {
    if (!options.vocab.contains(
            ByteLevelChar(static_cast<unsigned char>(byte)))) {
      return false;
    }
  }
  return true;
}

absl::Status ReadSteps(const ObjectReader& root, TokenizerParts* parts) {
  if (const nlohmann::json* json = root.Find("normalizer")) {
    BW_ASSIGN_OR_RETURN(parts->normalizer,
                        MakeNormalizer(*json, root.WhereOf("normalizer")));
  }
  if (const nlohmann::json* json = root.Find("pre_tokenizer")) {
    BW_ASSIGN_OR_RETURN(parts->pre_tokenizer,
                        MakePreTokenizer(*json, root.WhereOf("pre_tokenizer")));
  }
  if (const nlohmann::json* json = root.Find("decoder")) {
    BW_ASSIGN_OR_RETURN(parts->decoder,
                        MakeDecoder(*json, root.WhereOf("decoder")));
  }
  if (parts->normalizer != nullptr && parts->pre_tokenizer != nullptr &&
      parts->normalizer->DeletesAtStart() &&
      parts->pre_tokenizer->NeedsStart()) {
    return absl::UnimplementedError(
        absl::StrCat(root.where(),
                     ": a Metaspace with prepend_scheme \"first\" after a "
                     "normalizer that deletes characters is not supported"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerParts> ReadTokenizerJson(absl::string_view text,
                                                 absl::string_view source) {
  BW_ASSIGN_OR_RETURN(nlohmann::json json, ParseJson(text, source));
  BW_ASSIGN_OR_RETURN(ObjectReader root,
                      ObjectReader::Create(json, std::string(source)));
  BW_RETURN_IF_ERROR(CheckRoot(root));
  TokenizerParts parts;
  BW_RETURN_IF_ERROR(ReadSteps(root, &parts));
  BW_ASSIGN_OR_RETURN(ObjectReader model, root.Object("model"));
  BW_ASSIGN_OR_RETURN(BpeOptions options, ReadModel(model));
  const bool always_known = parts.pre_tokenizer != nullptr &&
                            parts.pre_tokenizer->IsByteLevel() &&
                            HasWholeByteAlphabet(options);
  BW_ASSIGN_OR_RETURN(
      parts.model,
      BpeModel::Create(std::move(options), always_known, model.where()));
  BW_RETURN_IF_ERROR(ReadAddedTokens(root, &parts));
  if (const nlohmann::json* post = root.Find("post_processor")) {
    parts.has_post_processor = true;
    BW_ASSIGN_OR_RETURN(parts.bos_id,
                        FirstTokenOf(*post, root.WhereOf("post_processor")));
  }
  return parts;
}

}  // namespace bitwright
