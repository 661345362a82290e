// evaluate: the negative log-likelihood of one shard of windows (worker.proto,
// EvaluateParameters; math.md §5).
#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "common/base/status_macros.h"
#include "worker/runtime/executor.h"
#include "worker/runtime/task_inputs.h"

namespace bitwright {
namespace {

std::string NllJson(const v1::EvaluateParameters& parameters, int64_t seqlen,
                    const std::vector<double>& nll) {
  std::string json = absl::StrCat("{\"shard\":", parameters.shard(),
                                  ",\"shards\":", parameters.shards(),
                                  ",\"seqlen\":", seqlen, ",\"nll\":[");
  for (size_t i = 0; i < nll.size(); ++i) {
    absl::StrAppendFormat(&json, "%s%.17g", i == 0 ? "" : ",", nll[i]);
  }
  json += "]}\n";
  return json;
}

}  // namespace

absl::StatusOr<TaskResult> ExecuteEvaluate(const TaskContext& context) {
  const v1::EvaluateParameters& parameters = context.action->evaluate();
  BW_ASSIGN_OR_RETURN(
      TokenWindows windows,
      ReadWindows(context, parameters.shard(), parameters.shards()));
  BW_ASSIGN_OR_RETURN(const model::DecoderModel* decoder,
                      context.model->Decoder());
  const model::WeightOverride weights = QuantizedWeights(context);
  const int64_t window_bytes =
      windows.seqlen * decoder->config().hidden_size * sizeof(float);
  const int64_t chunk =
      std::max<int64_t>(1, context.max_hidden_bytes / window_bytes);

  std::vector<double> nll;
  nll.reserve(windows.count);
  const absl::Span<const int32_t> tokens = windows.tokens;
  for (int64_t first = 0; first < windows.count; first += chunk) {
    const int64_t count = std::min(chunk, windows.count - first);
    const auto part =
        tokens.subspan(first * windows.seqlen, count * windows.seqlen);
    BW_ASSIGN_OR_RETURN(model::HiddenStates states,
                        decoder->Embed(part, count, windows.seqlen));
    for (int64_t block = 0; block < decoder->num_blocks(); ++block) {
      BW_RETURN_IF_ERROR(context.control->Check());
      context.control->SetFraction(
          (first + count * (block / (decoder->num_blocks() + 1.0))) /
          windows.count);
      BW_RETURN_IF_ERROR(decoder->RunBlock(block, weights, &states, nullptr));
    }
    BW_RETURN_IF_ERROR(context.control->Check());
    BW_ASSIGN_OR_RETURN(std::vector<double> sums,
                        decoder->WindowNll(states, part));
    nll.insert(nll.end(), sums.begin(), sums.end());
  }

  TaskResult result;
  result.counters.tokens = windows.count * windows.seqlen;
  v1::EvaluateSummary* summary = result.summary.mutable_evaluate();
  double total = 0;
  for (double value : nll) total += value;
  summary->set_nll(total);
  summary->set_tokens(windows.count * (windows.seqlen - 1));
  summary->set_windows(windows.count);
  summary->set_text_tokens(windows.text_tokens);
  summary->set_seqlen(static_cast<int32_t>(windows.seqlen));
  result.outputs.push_back(
      {.name = "nll", .bytes = NllJson(parameters, windows.seqlen, nll)});
  return result;
}

}  // namespace bitwright
