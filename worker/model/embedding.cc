#include "worker/model/embedding.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/model/torch_util.h"

namespace bitwright::model {
namespace {

// After ModelConfig::name_prefix.
constexpr char kTokens[] = "embed_tokens.weight";
constexpr char kPositions[] = "embed_positions.weight";
// OPT's position table starts with two rows that no position uses.
constexpr int64_t kOptPositionOffset = 2;

bool IsProjected(const ModelConfig& c) {
  return c.family == ModelFamily::kOpt && c.embed_proj_dim > 0 &&
         c.embed_proj_dim != c.hidden_size;
}

int64_t EmbedDim(const ModelConfig& c) {
  return IsProjected(c) ? c.embed_proj_dim : c.hidden_size;
}

// Rows begin .. end-1.
absl::StatusOr<at::Tensor> RowRange(const WeightReader& reader,
                                    const std::string& name, int64_t cols,
                                    int64_t begin, int64_t end) {
  std::vector<int64_t> rows(end - begin);
  std::iota(rows.begin(), rows.end(), begin);
  return reader.Rows(name, cols, rows);
}

// log(exp(a) + exp(b)); NaN if either is.
double LogAdd(double a, double b) {
  if (std::isnan(a) || std::isnan(b)) return a + b;
  const double high = std::max(a, b), low = std::min(a, b);
  return std::isinf(high) || std::isinf(low)
             ? high
             : high + std::log1p(std::exp(low - high));
}

}  // namespace

absl::StatusOr<Embedding> Embedding::Load(const WeightReader& reader,
                                          const ModelConfig& config,
                                          absl::Span<const int32_t> tokens,
                                          int64_t seqlen) {
  const bool opt = config.family == ModelFamily::kOpt;
  Embedding result;
  std::vector<int64_t> distinct(tokens.begin(), tokens.end());
  std::sort(distinct.begin(), distinct.end());
  distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
  if (distinct.front() < 0 || distinct.back() >= config.vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat(
        "token ", distinct.front() < 0 ? distinct.front() : distinct.back(),
        " is outside the model's vocabulary of ", config.vocab_size,
        "; was the text tokenized for another model?"));
  }
  for (size_t i = 0; i < distinct.size(); ++i) {
    result.row_of_[static_cast<int32_t>(distinct[i])] = i;
  }
  BW_ASSIGN_OR_RETURN(result.rows_, reader.Rows(config.name_prefix + kTokens,
                                                EmbedDim(config), distinct));
  if (!opt) return result;
  if (seqlen > config.max_position) {
    return absl::InvalidArgumentError(
        absl::StrCat("seqlen ", seqlen, " is beyond the model's ",
                     config.max_position, " positions"));
  }
  BW_ASSIGN_OR_RETURN(
      result.positions_,
      RowRange(reader, config.name_prefix + kPositions, config.hidden_size,
               kOptPositionOffset, kOptPositionOffset + seqlen));
  if (IsProjected(config)) {
    BW_ASSIGN_OR_RETURN(
        result.project_in_,
        reader.Linear(config.name_prefix + "project_in", config.hidden_size,
                      EmbedDim(config), /*bias=*/false));
  }
  return result;
}

at::Tensor Embedding::operator()(absl::Span<const int32_t> tokens) const {
  std::vector<int64_t> rows;
  rows.reserve(tokens.size());
  for (int32_t token : tokens) rows.push_back(row_of_.at(token));
  const at::Tensor index =
      at::from_blob(rows.data(), {static_cast<int64_t>(rows.size())},
                    at::TensorOptions().dtype(at::kLong))
          .to(rows_.device());
  at::Tensor x = rows_.index_select(0, index);
  if (project_in_.weight.defined()) x = project_in_(x);
  if (positions_.defined()) x = x + positions_;
  return x;
}

absl::StatusOr<Head> Head::Load(const WeightReader& reader,
                                const ModelConfig& config) {
  const bool opt = config.family == ModelFamily::kOpt;
  Head head;
  head.name_ =
      config.tied_embeddings ? config.name_prefix + kTokens : "lm_head.weight";
  head.vocab_ = config.vocab_size;
  head.dim_ = EmbedDim(config);
  head.rms_ = !opt;
  if (!opt || config.final_norm) {
    BW_ASSIGN_OR_RETURN(
        head.norm_,
        reader.Norm(config.name_prefix + (opt ? "final_layer_norm" : "norm"),
                    config.hidden_size, /*bias=*/opt, config.norm_eps));
  }
  if (IsProjected(config)) {
    BW_ASSIGN_OR_RETURN(
        head.project_out_,
        reader.Linear(config.name_prefix + "project_out", head.dim_,
                      config.hidden_size, /*bias=*/false));
  }
  return head;
}

at::Tensor Head::Normalize(const at::Tensor& x) const {
  at::Tensor y = x;
  if (norm_.weight.defined()) y = rms_ ? norm_.Rms(x) : norm_.Layer(x);
  return project_out_.weight.defined() ? project_out_(y) : y;
}

at::Tensor Head::NormalizeBackward(const at::Tensor& x,
                                   const at::Tensor& gradient) const {
  const at::Tensor g = project_out_.weight.defined()
                           ? project_out_.Backward(gradient)
                           : gradient;
  if (!norm_.weight.defined()) return g;
  return rms_ ? norm_.RmsBackward(x, g) : norm_.LayerBackward(x, g);
}

absl::StatusOr<at::Tensor> Head::Chunk(const WeightReader& reader,
                                       int64_t chunk) const {
  const int64_t begin = ChunkBegin(chunk);
  return RowRange(reader, name_, dim_, begin, std::min(begin + kChunk, vocab_));
}

absl::StatusOr<at::Tensor> Head::Rows(const WeightReader& reader,
                                      absl::Span<const int32_t> tokens) const {
  const std::vector<int64_t> rows(tokens.begin(), tokens.end());
  return reader.Rows(name_, dim_, rows);
}

NllSum::NllSum(absl::Span<const int32_t> targets)
    : targets_(targets),
      log_sum_(targets.size(), -std::numeric_limits<double>::infinity()),
      target_logit_(targets.size(), 0.0) {}

void NllSum::Add(at::Tensor logits, int64_t first_token) {
  const int64_t n = static_cast<int64_t>(targets_.size());
  std::vector<int64_t> columns(n);
  for (int64_t i = 0; i < n; ++i) {
    columns[i] =
        std::clamp<int64_t>(targets_[i] - first_token, 0, logits.size(1) - 1);
  }
  const at::Tensor index = at::from_blob(columns.data(), {n, 1},
                                         at::TensorOptions().dtype(at::kLong))
                               .to(logits.device());
  const at::Tensor picked = at::gather(logits, 1, index).cpu();
  const at::Tensor largest = at::amax(logits, 1, /*keepdim=*/true);
  const at::Tensor sums =
      (logits.sub_(largest).exp_().sum(1, /*keepdim=*/true).log_() + largest)
          .cpu();
  for (int64_t i = 0; i < n; ++i) {
    log_sum_[i] = LogAdd(log_sum_[i], sums.data_ptr<float>()[i]);
    if (columns[i] == targets_[i] - first_token) {
      target_logit_[i] = picked.data_ptr<float>()[i];
    }
  }
}

double NllSum::Total() const {
  double total = 0;
  for (size_t i = 0; i < targets_.size(); ++i) {
    total += log_sum_[i] - target_logit_[i];
  }
  return total;
}

void ExpectedRow::Add(at::Tensor logits, const at::Tensor& rows) {
  at::Tensor largest = at::amax(logits, 1, /*keepdim=*/true);
  if (largest_.defined()) {
    largest = at::maximum(largest, largest_);
    const at::Tensor keep = largest_.sub_(largest).exp_();
    sum_.mul_(keep);
    mixed_.mul_(keep);
    logits.sub_(largest).exp_();
    sum_.add_(logits.sum(1, /*keepdim=*/true));
    mixed_.addmm_(logits, rows);
  } else {
    logits.sub_(largest).exp_();
    sum_ = logits.sum(1, /*keepdim=*/true);
    mixed_ = at::mm(logits, rows);
  }
  largest_ = largest;
}

at::Tensor ExpectedRow::Take() {
  const at::Tensor result = mixed_.div_(sum_);
  largest_.reset();
  sum_.reset();
  mixed_.reset();
  return result;
}

}  // namespace bitwright::model
