#include "worker/model/reconstruction.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/model/block.h"
#include "worker/model/hybrid_weight.h"
#include "worker/model/torch_util.h"

namespace bitwright::model {
namespace {

// The share of the iterations before the regulariser sets in (AdaRound's).
constexpr double kWarmUp = 0.2;
// A loss that has fallen by less counts as flat.
constexpr double kFlat = 1e-3;
// Of the loss, so that gradients stay within float32.
constexpr double kMostScale = 1e30;

absl::Status BadOption(absl::string_view name, double value,
                       absl::string_view allowed) {
  return absl::InvalidArgumentError(absl::StrCat(
      "reconstruction: ", name, " is ", value, "; it must be ", allowed));
}

absl::Status CheckOptions(const ReconstructOptions& o) {
  if (o.iterations < 1) return BadOption("iterations", o.iterations, ">= 1");
  if (o.batch < 1) return BadOption("batch", o.batch, ">= 1");
  if (o.check_every < 1) {
    return BadOption("check_every", o.check_every, ">= 1");
  }
  if (o.patience < 0) return BadOption("patience", o.patience, ">= 0");
  const auto positive = [](double x) { return x > 0 && std::isfinite(x); };
  const auto not_negative = [](double x) { return x >= 0 && std::isfinite(x); };
  if (!positive(o.round_rate)) {
    return BadOption("round_rate", o.round_rate, "positive");
  }
  if (!positive(o.clip_rate)) {
    return BadOption("clip_rate", o.clip_rate, "positive");
  }
  if (!not_negative(o.round_decay)) {
    return BadOption("round_decay", o.round_decay, ">= 0");
  }
  if (!not_negative(o.round_weight)) {
    return BadOption("round_weight", o.round_weight, ">= 0");
  }
  if (!(o.edge_gradient >= 0 && o.edge_gradient <= 1)) {
    return BadOption("edge_gradient", o.edge_gradient, "from 0 to 1");
  }
  if (!(o.gamma_last >= 1 && std::isfinite(o.gamma_first) &&
        o.gamma_first >= o.gamma_last)) {
    return BadOption(
        "gamma_last", o.gamma_last,
        absl::StrCat("from 1 to gamma_first, which is ", o.gamma_first));
  }
  return absl::OkStatus();
}

// Sequences in an order that depends on the seed alone; each once, then all of
// them again in another order.
class Shuffle {
 public:
  Shuffle(int64_t n, uint64_t seed) : random_(seed), order_(n), next_(n) {
    std::iota(order_.begin(), order_.end(), 0);
  }
  int64_t Next() {
    const int64_t n = static_cast<int64_t>(order_.size());
    if (next_ == n) {
      for (int64_t i = n - 1; i > 0; --i) {
        std::swap(order_[i], order_[random_() % (i + 1)]);
      }
      next_ = 0;
    }
    return order_[next_++];
  }

 private:
  std::mt19937_64 random_;
  std::vector<int64_t> order_;
  int64_t next_;
};

class Reconstruction {
 public:
  Reconstruction(const DecoderModel& model, const ReconstructProblem& problem,
                 const ReconstructOptions& options)
      : problem_(problem),
        options_(options),
        linears_(BlockLinears(model.config(), problem.block)),
        width_(model.config().hidden_size),
        device_(model.device()),
        shuffle_(problem.sequences, options.seed) {}

  absl::Status Load(const ModelDirectory& directory);
  absl::StatusOr<ReconstructedBlock> Run();

 private:
  int64_t entries() const { return problem_.seqlen * width_; }
  // Calls `use` for each linear, on different threads.
  absl::Status ForEachLinear(absl::FunctionRef<absl::Status(size_t)> use) {
    return ForEachSequence(
        device_, static_cast<int64_t>(linears_.size()), "rounding",
        [&](int64_t l) { return use(static_cast<size_t>(l)); });
  }
  // Calls `use` for 0 .. n-1, as many at once as ForEachSequence does, and
  // tells the watcher in between: whole sets take long.
  absl::Status InSteps(int64_t n, absl::string_view what, int iteration,
                       absl::FunctionRef<absl::Status(int64_t)> use);
  absl::Status Watch(int iteration) const {
    if (problem_.watch == nullptr) return absl::OkStatus();
    return problem_.watch(iteration, last_loss_);
  }
  struct Pair {
    at::Tensor input, target;
  };
  absl::StatusOr<Pair> Read(int64_t sequence) const;

  // Hardens the weights as they are, and measures that.
  absl::Status Measure(int iteration);
  double Gamma(int iteration) const;
  absl::Status Iterate(int iteration);
  // What a linear read in one sequence, [seqlen, cols], and the gradient at its
  // output, [seqlen, rows].
  struct Flow {
    at::Tensor input, gradient;
  };
  // Of each linear. `scale` times the error of the block's output is the
  // gradient there.
  absl::StatusOr<std::vector<Flow>> Backward(int64_t sequence,
                                             double scale) const;
  // Adds d(objective)/d(weight) of each linear by these sequences, as many as
  // run together, to `total`.
  absl::Status AddGradients(absl::Span<const int64_t> sequences,
                            std::vector<at::Tensor>* total) const;

  const ReconstructProblem& problem_;
  const ReconstructOptions& options_;
  const std::vector<LinearSpec> linears_;
  const int64_t width_;
  const at::Device device_;
  Shuffle shuffle_;
  std::unique_ptr<DecoderBlock> block_;
  std::vector<std::unique_ptr<HybridWeight>> weights_;
  // What the loss is multiplied by before Adam sees it.
  double scale_ = 0;
  double last_loss_ = std::numeric_limits<double>::quiet_NaN();
  double gained_loss_ = 0;
  int last_gain_ = 0;  // The iteration that last improved the best loss.
  ReconstructedBlock best_;
};

absl::Status Reconstruction::Load(const ModelDirectory& directory) {
  BW_ASSIGN_OR_RETURN(block_, LoadBlock(directory, device_, nullptr,
                                        problem_.block, problem_.seqlen));
  if (problem_.linears.size() != linears_.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("rows of ", problem_.linears.size(), " linears for the ",
                     linears_.size(), " of block ", problem_.block));
  }
  weights_.resize(linears_.size());
  return ForEachLinear([&](size_t l) -> absl::Status {
    at::Tensor& weight = block_->Weight(static_cast<int64_t>(l));
    std::vector<float> values(weight.numel());
    CopyFromTensor(weight, values.data());
    auto created = HybridWeight::Create(std::move(values), linears_[l].rows,
                                        linears_[l].cols, problem_.linears[l],
                                        options_, device_);
    if (!created.ok()) return Annotate(created.status(), linears_[l].name);
    weights_[l] = *std::move(created);
    return absl::OkStatus();
  });
}

absl::StatusOr<Reconstruction::Pair> Reconstruction::Read(
    int64_t sequence) const {
  std::vector<float> input(entries()), target(entries());
  BW_RETURN_IF_ERROR(
      problem_.read(sequence, absl::MakeSpan(input), absl::MakeSpan(target)));
  return Pair{ToTensor(std::move(input), {problem_.seqlen, width_}, device_),
              ToTensor(std::move(target), {problem_.seqlen, width_}, device_)};
}

absl::Status Reconstruction::InSteps(
    int64_t n, absl::string_view what, int iteration,
    absl::FunctionRef<absl::Status(int64_t)> use) {
  const int64_t at_once = SequencesAtOnce(device_);
  for (int64_t begin = 0; begin < n; begin += at_once) {
    if (begin > 0) BW_RETURN_IF_ERROR(Watch(iteration));
    BW_RETURN_IF_ERROR(
        ForEachSequence(device_, std::min(at_once, n - begin), what,
                        [&](int64_t i) { return use(begin + i); }));
  }
  return absl::OkStatus();
}

absl::Status Reconstruction::Measure(int iteration) {
  std::vector<LearnedLinear> learned(linears_.size());
  BW_RETURN_IF_ERROR(ForEachLinear([&](size_t l) {
    learned[l] = weights_[l]->Harden();
    block_->Weight(static_cast<int64_t>(l)) = weights_[l]->Decode(learned[l]);
    return absl::OkStatus();
  }));
  std::vector<double> squares(problem_.sequences);
  BW_RETURN_IF_ERROR(InSteps(
      problem_.sequences, "block forward", iteration,
      [&](int64_t i) -> absl::Status {
        BW_ASSIGN_OR_RETURN(const Pair pair, Read(i));
        const at::Tensor output = block_->Forward(pair.input, nullptr, true);
        squares[i] =
            (output - pair.target).square_().sum(at::kDouble).item<double>();
        return absl::OkStatus();
      }));
  last_loss_ = std::accumulate(squares.begin(), squares.end(), 0.0) /
               static_cast<double>(problem_.sequences * entries());
  if (!std::isfinite(last_loss_)) {
    return absl::InvalidArgumentError(
        absl::StrCat("block ", problem_.block, ": the loss at iteration ",
                     iteration, " is not a finite number; ",
                     iteration == 0 ? "the calibration set's states overflow"
                                    : "lower the learning rates"));
  }
  if (iteration == 0) best_.first_loss = last_loss_;
  const bool first = best_.linears.empty();
  if (first || last_loss_ < gained_loss_ * (1 - kFlat)) {
    gained_loss_ = last_loss_;
    last_gain_ = iteration;
  }
  if (first || last_loss_ < best_.loss) {
    best_.loss = last_loss_;
    best_.linears = std::move(learned);
    best_.kept_iteration = iteration;
  }
  return absl::OkStatus();
}

double Reconstruction::Gamma(int iteration) const {
  const double done = static_cast<double>(iteration) / options_.iterations;
  if (done < kWarmUp) return 0;
  const double left = 1 - (done - kWarmUp) / (1 - kWarmUp);
  return options_.gamma_last +
         (options_.gamma_first - options_.gamma_last) * left;
}

absl::StatusOr<std::vector<Reconstruction::Flow>> Reconstruction::Backward(
    int64_t sequence, double scale) const {
  BW_ASSIGN_OR_RETURN(const Pair pair, Read(sequence));
  std::vector<Flow> flows(linears_.size());
  block_->Backward(
      pair.input,
      [&](absl::FunctionRef<at::Tensor()> output) {
        return output().sub_(pair.target).mul_(scale);
      },
      /*need_input=*/false,
      [&](int64_t linear, const at::Tensor& input, const at::Tensor& gradient) {
        flows[linear] = {input, gradient};
      });
  return flows;
}

absl::Status Reconstruction::AddGradients(
    absl::Span<const int64_t> sequences, std::vector<at::Tensor>* total) const {
  const int64_t n = static_cast<int64_t>(sequences.size());
  const int64_t linears = static_cast<int64_t>(linears_.size());
  const double scale =
      2 * scale_ / static_cast<double>(options_.batch * entries());
  std::vector<std::vector<Flow>> flows(n);
  BW_RETURN_IF_ERROR(ForEachSequence(
      device_, n, "block backward", [&](int64_t i) -> absl::Status {
        BW_ASSIGN_OR_RETURN(flows[i], Backward(sequences[i], scale));
        return absl::OkStatus();
      }));
  // A third of all work, and the part that one sequence has for many threads.
  std::vector<at::Tensor> gradients(n * linears);
  BW_RETURN_IF_ERROR(
      ForEachSequence(device_, n * linears, "weight gradients", [&](int64_t i) {
        const Flow flow = std::move(flows[i / linears][i % linears]);
        gradients[i] = at::mm(flow.gradient.t(), flow.input);
        return absl::OkStatus();
      }));
  for (int64_t i = 0; i < n * linears; ++i) {
    at::Tensor& sum = (*total)[i % linears];
    if (sum.defined()) {
      sum.add_(gradients[i]);
    } else {
      sum = gradients[i];
    }
  }
  return absl::OkStatus();
}

absl::Status Reconstruction::Iterate(int iteration) {
  BW_RETURN_IF_ERROR(ForEachLinear([&](size_t l) {
    block_->Weight(static_cast<int64_t>(l)) = weights_[l]->Forward();
    return absl::OkStatus();
  }));
  const int64_t at_once = SequencesAtOnce(device_);
  // Summed in the order of the sequences.
  std::vector<at::Tensor> total(linears_.size());
  for (int64_t begin = 0; begin < options_.batch; begin += at_once) {
    if (begin > 0) BW_RETURN_IF_ERROR(Watch(iteration));
    const int64_t n = std::min(at_once, options_.batch - begin);
    std::vector<int64_t> sequences;
    for (int64_t i = 0; i < n; ++i) sequences.push_back(shuffle_.Next());
    BW_RETURN_IF_ERROR(AddGradients(sequences, &total));
  }
  const double gamma = Gamma(iteration);
  return ForEachLinear([&](size_t l) -> absl::Status {
    if (!std::isfinite(total[l].sum().item<double>())) {
      return absl::InvalidArgumentError(
          absl::StrCat(linears_[l].name, ": the gradient at iteration ",
                       iteration, " is not a finite number; ",
                       iteration == 0 ? "the calibration set's states overflow"
                                      : "lower the learning rates"));
    }
    weights_[l]->Backward(total[l], gamma);
    weights_[l]->Step();
    return absl::OkStatus();
  });
}

absl::StatusOr<ReconstructedBlock> Reconstruction::Run() {
  BW_RETURN_IF_ERROR(Measure(0));
  int64_t rounded = 0;
  for (const auto& weight : weights_) rounded += weight->rounded_entries();
  // A loss of 0 cannot be improved; one next to it must not overflow.
  scale_ =
      std::min(kMostScale,
               static_cast<double>(std::max<int64_t>(1, rounded)) / best_.loss);
  const int first_flat = rounded > 0 ? options_.iterations / 2 : 0;
  for (int i = 0; i < options_.iterations && best_.loss > 0; ++i) {
    BW_RETURN_IF_ERROR(Iterate(i));
    best_.iterations = i + 1;
    const bool measured = best_.iterations % options_.check_every == 0 ||
                          best_.iterations == options_.iterations;
    if (measured) BW_RETURN_IF_ERROR(Measure(best_.iterations));
    BW_RETURN_IF_ERROR(Watch(best_.iterations));
    // Never away from a state that has not been measured.
    if (measured && options_.patience > 0 &&
        best_.iterations - std::max(last_gain_, first_flat) >=
            options_.patience) {
      break;
    }
  }
  return std::move(best_);
}

}  // namespace

absl::StatusOr<ReconstructedBlock> ReconstructBlock(
    const DecoderModel& model, const ReconstructProblem& problem,
    const ReconstructOptions& options) {
  BW_RETURN_IF_ERROR(CheckOptions(options));
  if (problem.sequences < 1 || problem.seqlen < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "reconstruction of block ", problem.block, " on ", problem.sequences,
        " sequences of ", problem.seqlen, " tokens"));
  }
  ReconstructedBlock result;
  BW_RETURN_IF_ERROR(
      CatchTorch(absl::StrCat("reconstruction of block ", problem.block),
                 [&]() -> absl::Status {
                   Reconstruction reconstruction(model, problem, options);
                   BW_RETURN_IF_ERROR(reconstruction.Load(model.directory()));
                   BW_ASSIGN_OR_RETURN(result, reconstruction.Run());
                   return absl::OkStatus();
                 }));
  return result;
}

}  // namespace bitwright::model
