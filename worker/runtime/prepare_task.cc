// prepare: texts (or token ids) to windows of tokens (worker.proto,
// PrepareParameters; math.md §5).
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status_macros.h"
#include "common/text/tokenizer.h"
#include "common/text/windows.h"
#include "worker/runtime/executor.h"
#include "worker/runtime/task_inputs.h"

namespace bitwright {
namespace {

constexpr uint64_t kMaxTextBytes = uint64_t{1} << 30;

using Windows = std::vector<std::vector<int32_t>>;

absl::Status CheckVocabulary(const std::vector<int64_t>& ids,
                             int64_t vocab_size, absl::string_view source) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab_size) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        source, ": token ", i, " is ", ids[i], ", but the model's vocabulary ",
        "has ", vocab_size, " tokens (0 to ", vocab_size - 1,
        "); was this made with another model's tokenizer?"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> Tokenize(const TaskContext& context) {
  std::vector<std::string> documents;
  uint64_t bytes = 0;
  for (const std::string& name : InputsWithPrefix(*context.action, "text.")) {
    BW_ASSIGN_OR_RETURN(std::string path, context.inputs->Path(name));
    BW_ASSIGN_OR_RETURN(std::string text, ReadFile(path));
    bytes += text.size();
    if (bytes > kMaxTextBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("the texts are longer than ", kMaxTextBytes,
                       " bytes together; give less text, or token ids"));
    }
    documents.push_back(std::move(text));
  }
  if (documents.empty()) {
    return absl::InvalidArgumentError(
        "the task has neither a text nor token ids as its input");
  }
  BW_ASSIGN_OR_RETURN(
      std::unique_ptr<Tokenizer> tokenizer,
      Tokenizer::FromDirectory(context.model->directory().path()));
  BW_RETURN_IF_ERROR(context.control->Check());
  const std::string text = JoinDocuments(documents);
  documents.clear();
  std::vector<int32_t> ids = tokenizer->EncodeWithBos(text);
  BW_RETURN_IF_ERROR(CheckVocabulary({ids.begin(), ids.end()},
                                     context.model->config().vocab_size,
                                     "the model's own tokenizer"));
  return ids;
}

absl::StatusOr<Windows> Cut(const std::vector<int32_t>& ids,
                            const v1::PrepareParameters& parameters) {
  if (!parameters.calibration()) return EvalWindows(ids, parameters.seqlen());
  return CalibrationWindows(ids, parameters.nsamples(), parameters.seqlen(),
                            parameters.seed());
}

// Windows that somebody else cut: calibration takes the first `nsamples`.
absl::StatusOr<Windows> TakeRows(const std::vector<int32_t>& ids, int64_t rows,
                                 int64_t length,
                                 const v1::PrepareParameters& parameters) {
  if (length != parameters.seqlen()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tokens has shape [", rows, ", ", length, "], but seqlen is ",
        parameters.seqlen(), "; set seqlen to ", length,
        " or give one flat list of ids"));
  }
  int64_t take = rows;
  if (parameters.calibration()) {
    if (rows < parameters.nsamples()) {
      return absl::InvalidArgumentError(
          absl::StrCat("too little calibration text: ", parameters.nsamples(),
                       " windows were asked for, and tokens gives ", rows,
                       "; give more windows or a smaller nsamples"));
    }
    take = parameters.nsamples();
  } else if (rows == 0) {
    return absl::InvalidArgumentError("tokens holds no window");
  }
  Windows windows;
  for (int64_t i = 0; i < take; ++i) {
    windows.emplace_back(ids.begin() + i * length,
                         ids.begin() + (i + 1) * length);
  }
  return windows;
}

struct Prepared {
  Windows windows = {};
  int64_t tokens = 0;
};

absl::StatusOr<Prepared> FromTokens(const TaskContext& context) {
  const v1::PrepareParameters& parameters = context.action->prepare();
  BW_ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file,
                      OpenInput(context, "tokens"));
  BW_ASSIGN_OR_RETURN(const TensorInfo* info, file->Require("tokens"));
  const std::vector<int64_t> shape = info->shape;
  if (shape.empty() || shape.size() > 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("input tokens: tokens has shape ", ShapeString(shape),
                     "; it may be [N] or [windows, seqlen]"));
  }
  BW_ASSIGN_OR_RETURN(std::vector<int64_t> wide, file->ReadIntegers("tokens"));
  BW_RETURN_IF_ERROR(CheckVocabulary(wide, context.model->config().vocab_size,
                                     "input tokens"));
  const std::vector<int32_t> ids(wide.begin(), wide.end());
  Prepared prepared{.tokens = static_cast<int64_t>(ids.size())};
  if (shape.size() == 1) {
    BW_ASSIGN_OR_RETURN(prepared.windows, Cut(ids, parameters));
  } else {
    BW_ASSIGN_OR_RETURN(prepared.windows,
                        TakeRows(ids, shape[0], shape[1], parameters));
  }
  return prepared;
}

}  // namespace

absl::StatusOr<TaskResult> ExecutePrepare(const TaskContext& context) {
  const v1::PrepareParameters& parameters = context.action->prepare();
  const int64_t seqlen = parameters.seqlen();
  if (seqlen < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("seqlen must be at least 2, not ", seqlen));
  }
  Prepared prepared;
  if (!InputsWithPrefix(*context.action, "tokens").empty()) {
    BW_ASSIGN_OR_RETURN(prepared, FromTokens(context));
  } else {
    BW_ASSIGN_OR_RETURN(std::vector<int32_t> ids, Tokenize(context));
    prepared.tokens = static_cast<int64_t>(ids.size());
    BW_ASSIGN_OR_RETURN(prepared.windows, Cut(ids, parameters));
  }
  BW_RETURN_IF_ERROR(context.control->Check());

  const int64_t count = static_cast<int64_t>(prepared.windows.size());
  Tensor tokens;
  tokens.spec = {
      .name = "tokens", .dtype = DType::kI32, .shape = {count, seqlen}};
  for (const std::vector<int32_t>& window : prepared.windows) {
    absl::StrAppend(&tokens.bytes, BytesOf(window));
  }
  TaskResult result;
  result.counters.tokens = prepared.tokens;
  result.outputs.push_back(
      {.name = "windows",
       .bytes = SerializeSafetensors(
           {tokens}, {{"asked", absl::StrCat(parameters.calibration()
                                                 ? parameters.nsamples()
                                                 : count)},
                      {"available", absl::StrCat(prepared.tokens / seqlen)},
                      {"tokens", absl::StrCat(prepared.tokens)}})});
  return result;
}

}  // namespace bitwright
