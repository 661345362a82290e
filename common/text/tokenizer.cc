#include "common/text/tokenizer.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status_macros.h"
#include "common/text/bpe_model.h"
#include "common/text/json_reader.h"
#include "common/text/json_tokenizer.h"

namespace bitwright {

// Learns the BOS of a tokenizer from the files beside it: see bos_id().
class BosResolver {
 public:
  BosResolver(std::string directory, Tokenizer* tokenizer)
      : directory_(std::move(directory)), tokenizer_(tokenizer) {}

  absl::Status Resolve() {
    BW_ASSIGN_OR_RETURN(auto config, Read("tokenizer_config.json"));
    if (config.has_value()) return FromTokenizerConfig(*config);
    if (tokenizer_->file_decides_bos_) return absl::OkStatus();
    return FromModelConfig();
  }

 private:
  // nullopt if there is no such file.
  absl::StatusOr<absl::optional<nlohmann::json>> Read(const std::string& name) {
    const std::string path = absl::StrCat(directory_, "/", name);
    absl::StatusOr<std::string> text = ReadFile(path);
    if (absl::IsNotFound(text.status())) {
      return absl::optional<nlohmann::json>();
    }
    BW_RETURN_IF_ERROR(text.status());
    BW_ASSIGN_OR_RETURN(nlohmann::json json, ParseJson(*text, path));
    return absl::optional<nlohmann::json>(std::move(json));
  }

  absl::Status FromTokenizerConfig(const nlohmann::json& json) {
    BW_ASSIGN_OR_RETURN(
        ObjectReader reader,
        ObjectReader::Create(
            json, absl::StrCat(directory_, "/tokenizer_config.json")));
    if (reader.Find("add_bos_token") != nullptr) {
      BW_ASSIGN_OR_RETURN(bool add,
                          reader.Bool("add_bos_token", absl::nullopt));
      tokenizer_->bos_id_ = absl::nullopt;
      return add ? SetBosToken(reader) : absl::OkStatus();
    }
    if (tokenizer_->file_decides_bos_ ||
        reader.Find("tokenizer_class") == nullptr ||
        reader.Find("bos_token") == nullptr) {
      return absl::OkStatus();
    }
    BW_ASSIGN_OR_RETURN(std::string name, reader.String("tokenizer_class"));
    for (absl::string_view prefix :
         {"LlamaTokenizer", "CodeLlamaTokenizer", "GemmaTokenizer"}) {
      if (absl::StartsWith(name, prefix)) return SetBosToken(reader);
    }
    return absl::OkStatus();
  }

  // The key bos_token: a string, or an object with its "content".
  absl::Status SetBosToken(const ObjectReader& reader) {
    const nlohmann::json* found = reader.Find("bos_token");
    std::string token;
    if (found != nullptr && found->is_object()) {
      BW_ASSIGN_OR_RETURN(ObjectReader object, reader.Object("bos_token"));
      BW_ASSIGN_OR_RETURN(token, object.String("content"));
    } else {
      BW_ASSIGN_OR_RETURN(token, reader.String("bos_token"));
    }
    tokenizer_->bos_id_ = tokenizer_->IdOf(token);
    if (tokenizer_->bos_id_.has_value()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        reader.WhereOf("bos_token"), ": the tokenizer has no \"", token, "\""));
  }

  absl::Status FromModelConfig() {
    BW_ASSIGN_OR_RETURN(auto config, Read("config.json"));
    if (!config.has_value()) return absl::OkStatus();
    BW_ASSIGN_OR_RETURN(ObjectReader reader,
                        ObjectReader::Create(
                            *config, absl::StrCat(directory_, "/config.json")));
    if (reader.Find("bos_token_id") == nullptr) return absl::OkStatus();
    BW_ASSIGN_OR_RETURN(tokenizer_->bos_id_,
                        reader.Index("bos_token_id", tokenizer_->vocab_size()));
    return absl::OkStatus();
  }

  const std::string directory_;
  Tokenizer* const tokenizer_;
};

std::vector<int32_t> Tokenizer::EncodeWithBos(absl::string_view utf8) const {
  std::vector<int32_t> ids = Encode(utf8);
  if (bos_id_.has_value()) ids.insert(ids.begin(), *bos_id_);
  return ids;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromJson(
    absl::string_view tokenizer_json, absl::string_view source_name) {
  BW_ASSIGN_OR_RETURN(TokenizerParts parts,
                      ReadTokenizerJson(tokenizer_json, source_name));
  return JsonTokenizer::Create(std::move(parts), source_name);
}

namespace {

absl::Status NoTokenizer(const std::string& model_dir) {
  std::error_code error;
  const bool slow = std::filesystem::exists(model_dir + "/vocab.json", error);
  return absl::NotFoundError(absl::StrCat(
      "no tokenizer in ", model_dir,
      ": neither tokenizer.json nor tokenizer.model exists; ",
      slow ? "vocab.json is there: save a tokenizer.json from it with "
             "AutoTokenizer.save_pretrained, or "
           : "",
      "pass --tokens FILE.safetensors for pre-tokenized input"));
}

// Whether `json` agrees with `model` on words but keeps the extra spaces that
// `model` removes.
bool LostSpaceRemoval(const Tokenizer& json, const Tokenizer& model) {
  const auto removes = [](const Tokenizer& tokenizer) {
    return tokenizer.Encode("  the  end ") == tokenizer.Encode("the end");
  };
  return json.Encode("the end") == model.Encode("the end") && removes(model) &&
         !removes(json);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> ReadTokenizerOf(
    const std::string& model_dir) {
  const std::string json_path = absl::StrCat(model_dir, "/tokenizer.json");
  const std::string model_path = absl::StrCat(model_dir, "/tokenizer.model");
  absl::StatusOr<std::string> json = ReadFile(json_path);
  absl::StatusOr<std::string> model = ReadFile(model_path);
  if (absl::IsNotFound(json.status())) {
    if (absl::IsNotFound(model.status())) return NoTokenizer(model_dir);
    BW_RETURN_IF_ERROR(model.status());
    return Tokenizer::FromSentencePiece(*model, model_path);
  }
  BW_RETURN_IF_ERROR(json.status());
  BW_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer,
                      Tokenizer::FromJson(*json, json_path));
  if (!model.ok()) return tokenizer;
  // Files of other kinds have this name too, so it need not be readable.
  auto original = Tokenizer::FromSentencePiece(*model, model_path);
  if (original.ok() && LostSpaceRemoval(*tokenizer, **original)) {
    return original;
  }
  return tokenizer;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromDirectory(
    const std::string& model_dir) {
  BW_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer,
                      ReadTokenizerOf(model_dir));
  BW_RETURN_IF_ERROR(BosResolver(model_dir, tokenizer.get()).Resolve());
  return tokenizer;
}

}  // namespace bitwright
