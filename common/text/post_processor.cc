#include "common/text/post_processor.h"

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/text/bpe_model.h"
#include "common/text/json_reader.h"

namespace bitwright {
namespace {

using MaybeId = absl::optional<int32_t>;

absl::Status TwoInFront(const std::string& where) {
  return absl::UnimplementedError(
      absl::StrCat(where, ": more than one token in front of a text"));
}

// The ids of the special token `name` in a template.
absl::StatusOr<int32_t> TemplateId(const ObjectReader& reader,
                                   const std::string& name) {
  BW_ASSIGN_OR_RETURN(ObjectReader tokens, reader.Object("special_tokens"));
  BW_ASSIGN_OR_RETURN(ObjectReader token, tokens.Object(name));
  BW_ASSIGN_OR_RETURN(const nlohmann::json* ids, token.Array("ids"));
  if (ids->size() != 1) return TwoInFront(token.where());
  return JsonIndex((*ids)[0], kMaxTokenId, token.WhereOf("ids"));
}

absl::StatusOr<MaybeId> OfTemplate(const ObjectReader& reader) {
  BW_ASSIGN_OR_RETURN(const nlohmann::json* single, reader.Array("single"));
  MaybeId first;
  for (size_t i = 0; i < single->size(); ++i) {
    BW_ASSIGN_OR_RETURN(
        ObjectReader item,
        ObjectReader::Create(
            (*single)[i], absl::StrCat(reader.WhereOf("single"), "[", i, "]")));
    if (item.Find("Sequence") != nullptr) break;
    BW_ASSIGN_OR_RETURN(ObjectReader special, item.Object("SpecialToken"));
    BW_ASSIGN_OR_RETURN(std::string name, special.String("id"));
    if (first.has_value()) return TwoInFront(reader.where());
    BW_ASSIGN_OR_RETURN(first, TemplateId(reader, name));
  }
  return first;
}

absl::StatusOr<MaybeId> OfSequence(const ObjectReader& reader) {
  BW_ASSIGN_OR_RETURN(const nlohmann::json* steps, reader.Array("processors"));
  MaybeId first;
  for (size_t i = 0; i < steps->size(); ++i) {
    BW_ASSIGN_OR_RETURN(
        MaybeId id,
        FirstTokenOf((*steps)[i],
                     absl::StrCat(reader.WhereOf("processors"), "[", i, "]")));
    if (id.has_value() && first.has_value()) return TwoInFront(reader.where());
    if (id.has_value()) first = id;
  }
  return first;
}

}  // namespace

absl::StatusOr<MaybeId> FirstTokenOf(const nlohmann::json& json,
                                     const std::string& where) {
  BW_ASSIGN_OR_RETURN(ObjectReader reader, ObjectReader::Create(json, where));
  BW_ASSIGN_OR_RETURN(std::string type, reader.String("type"));
  if (type == "ByteLevel") return MaybeId();
  if (type == "TemplateProcessing") return OfTemplate(reader);
  if (type == "Sequence") return OfSequence(reader);
  if (type == "RobertaProcessing" || type == "BertProcessing") {
    BW_ASSIGN_OR_RETURN(const nlohmann::json* cls, reader.Array("cls"));
    if (cls->size() != 2) {
      return absl::InvalidArgumentError(
          absl::StrCat(reader.WhereOf("cls"), ": expected [token, id]"));
    }
    BW_ASSIGN_OR_RETURN(
        int32_t id, JsonIndex((*cls)[1], kMaxTokenId, reader.WhereOf("cls")));
    return MaybeId(id);
  }
  return absl::UnimplementedError(absl::StrCat(where, ": the post-processor \"",
                                               type, "\" is not supported"));
}

}  // namespace bitwright
