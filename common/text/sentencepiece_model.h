// The sentencepiece library, behind std types alone.
//
// It lives in a module of its own that is opened at run time: Debian's
// libsentencepiece carries and exports an old protobuf, which must not meet the
// one that gRPC and libtorch use. (Its header also declares absl::string_view
// in its own way and cannot be included beside Abseil's.)
#ifndef BITWRIGHT_COMMON_TEXT_SENTENCEPIECE_MODEL_H_
#define BITWRIGHT_COMMON_TEXT_SENTENCEPIECE_MODEL_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace bitwright {

// Immutable once loaded, so thread-safe.
class SentencePieceModel {
 public:
  // Null, with `problem` saying why, if `bytes` is no usable model or the
  // module is not to be found beside the program.
  static std::unique_ptr<SentencePieceModel> Load(std::string_view bytes,
                                                  std::string* problem);
  virtual ~SentencePieceModel() = default;

  // `utf8` is well-formed.
  virtual std::vector<int> Encode(std::string_view utf8) const = 0;
  // All of `ids` are from 0 to size() - 1.
  virtual std::string Decode(const std::vector<int>& ids) const = 0;
  virtual int size() const = 0;
  virtual int bos_id() const = 0;  // -1: none.
  // -1 if no piece is exactly `piece`.
  virtual int IdOf(std::string_view piece) const = 0;
  virtual const std::string& PieceOf(int id) const = 0;
};

}  // namespace bitwright

// What the module exports: the model, or null and the problem.
extern "C" bitwright::SentencePieceModel* BitwrightLoadSentencePiece(
    const std::string_view* bytes, std::string* problem);

#endif  // BITWRIGHT_COMMON_TEXT_SENTENCEPIECE_MODEL_H_
