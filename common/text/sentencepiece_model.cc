#include "common/text/sentencepiece_model.h"

#include <dlfcn.h>

#include <filesystem>
#include <system_error>

namespace bitwright {
namespace {

namespace fs = std::filesystem;

using LoadFunction = decltype(&BitwrightLoadSentencePiece);

constexpr char kModule[] = "libbitwright_sentencepiece.so";

// Beside the program, or where a sibling directory of it holds libraries.
// RTLD_DEEPBIND: the module and its library find their own symbols first.
LoadFunction OpenModule(std::string* problem) {
  std::error_code error;
  const fs::path program =
      fs::read_symlink("/proc/self/exe", error).parent_path();
  int flags = RTLD_NOW | RTLD_LOCAL;
#if !defined(__SANITIZE_ADDRESS__)  // Which refuses it.
  flags |= RTLD_DEEPBIND;
#endif
  for (const char* place : {".", "../bin", "../lib"}) {
    const fs::path path = program / place / kModule;
    if (!fs::exists(path, error)) continue;
    if (void* module = dlopen(path.c_str(), flags)) {
      return reinterpret_cast<LoadFunction>(
          dlsym(module, "BitwrightLoadSentencePiece"));
    }
    *problem = dlerror();
    return nullptr;
  }
  *problem = std::string(kModule) +
             " is missing; it belongs beside the program, in " +
             program.string();
  return nullptr;
}

}  // namespace

std::unique_ptr<SentencePieceModel> SentencePieceModel::Load(
    std::string_view bytes, std::string* problem) {
  static std::string* const open_problem = new std::string;
  static const LoadFunction load = OpenModule(open_problem);
  if (load == nullptr) {
    *problem = *open_problem;
    return nullptr;
  }
  return std::unique_ptr<SentencePieceModel>(load(&bytes, problem));
}

}  // namespace bitwright
