// The module's side of sentencepiece_model.h: the only file that includes and
// links the sentencepiece library.
#include <sentencepiece_processor.h>

#include <exception>
#include <utility>

#include "common/text/sentencepiece_model.h"

namespace bitwright {
namespace {

class LibraryModel : public SentencePieceModel {
 public:
  // False, with the problem, if `bytes` is no usable model.
  bool Init(std::string_view bytes, std::string* problem) {
    try {
      const auto status = processor_.LoadFromSerializedProto(bytes);
      if (!status.ok()) *problem = status.ToString();
    } catch (const std::exception& e) {
      *problem = e.what();
    }
    if (problem->empty() && processor_.GetPieceSize() <= 0) {
      *problem = "it has no pieces";
    }
    return problem->empty();
  }

  std::vector<int> Encode(std::string_view utf8) const override {
    return processor_.EncodeAsIds(utf8);
  }
  std::string Decode(const std::vector<int>& ids) const override {
    return processor_.DecodeIds(ids);
  }
  int size() const override { return processor_.GetPieceSize(); }
  int bos_id() const override { return processor_.bos_id(); }
  int IdOf(std::string_view piece) const override {
    const int id = processor_.PieceToId(piece);
    return processor_.IdToPiece(id) == piece ? id : -1;
  }
  const std::string& PieceOf(int id) const override {
    return processor_.IdToPiece(id);
  }

 private:
  sentencepiece::SentencePieceProcessor processor_;
};

}  // namespace
}  // namespace bitwright

extern "C" __attribute__((visibility("default"))) bitwright::SentencePieceModel*
BitwrightLoadSentencePiece(const std::string_view* bytes,
                           std::string* problem) {
  problem->clear();
  auto model = std::make_unique<bitwright::LibraryModel>();
  return model->Init(*bytes, problem) ? model.release() : nullptr;
}
