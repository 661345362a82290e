#include "worker/model/decoder_model.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <torch/cuda.h>
#include <torch/version.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/model/block.h"
#include "worker/model/embedding.h"
#include "worker/model/hessian_sums.h"
#include "worker/model/sequence_stream.h"
#include "worker/model/square_sums.h"
#include "worker/model/torch_util.h"
#include "worker/model/weights.h"
#include "worker/quant/parallel.h"

namespace bitwright::model {
namespace {

std::atomic<CudaProducts> cuda_products{CudaProducts::kFloat32};

absl::Status CheckBatch(const ModelConfig& config, const HiddenStates& s) {
  if (s.sequences < 1 || s.seqlen < 1 || s.width != config.hidden_size ||
      static_cast<int64_t>(s.data.size()) != s.sequences * s.seqlen * s.width) {
    return absl::InvalidArgumentError(
        absl::StrCat("hidden states [", s.sequences, ", ", s.seqlen, ", ",
                     s.width, "] with ", s.data.size(),
                     " values; the model's width is ", config.hidden_size));
  }
  return absl::OkStatus();
}

absl::Status CheckTokens(size_t tokens, int64_t sequences, int64_t seqlen) {
  if (sequences < 1 || seqlen < 1 ||
      static_cast<int64_t>(tokens) != sequences * seqlen) {
    return absl::InvalidArgumentError(absl::StrCat(tokens, " tokens for ",
                                                   sequences, " sequences of ",
                                                   seqlen, " tokens"));
  }
  return absl::OkStatus();
}

// What WindowNll and NllGradient take.
absl::Status CheckTargets(const ModelConfig& config, const HiddenStates& states,
                          absl::Span<const int32_t> tokens) {
  BW_RETURN_IF_ERROR(CheckBatch(config, states));
  BW_RETURN_IF_ERROR(
      CheckTokens(tokens.size(), states.sequences, states.seqlen));
  for (int32_t token : tokens) {
    if (token < 0 || token >= config.vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(
          "token ", token, " is outside the model's vocabulary of ",
          config.vocab_size));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckFinite(const at::Tensor& gradient, int64_t sequence) {
  if (at::isfinite(gradient).all().item<bool>()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("sequence ", sequence,
                   ": a gradient is not a finite number; the hidden states or "
                   "the gradients that came in overflow"));
}

absl::StatusOr<at::Device> ChooseDevice(const std::string& device) {
  if (device == "cpu") return at::Device(at::kCPU);
  if (device != "auto" && device != "cuda") {
    return absl::InvalidArgumentError(
        absl::StrCat("device \"", device, "\"; it may be auto, cpu or cuda"));
  }
  if (torch::cuda::is_available()) return at::Device(at::kCUDA, 0);
  if (device == "auto") return at::Device(at::kCPU);
  return absl::FailedPreconditionError(
      "device \"cuda\": this machine, or this build of libtorch, has no CUDA "
      "device; use --device cpu");
}

}  // namespace

struct DecoderModel::Impl {
  const ModelDirectory* directory;
  at::Device device{at::kCPU};
  std::string device_name;

  const ModelConfig& config() const { return directory->config(); }

  absl::StatusOr<std::unique_ptr<DecoderBlock>> Load(
      int64_t block, const WeightOverride& weights, int64_t seqlen) const {
    return LoadBlock(*directory, device, weights, block, seqlen);
  }

  at::Tensor Sequence(const HiddenStates& states, int64_t i) const {
    return CopyToTensor(states.data.data() + i * states.seqlen * states.width,
                        {states.seqlen, states.width}, device);
  }

  // Runs the block over `input`, into `output` unless that is null (it may be
  // `input` itself), and collects sums unless `sums` is null.
  absl::Status Run(const DecoderBlock& block, const HiddenStates& input,
                   HiddenStates* output, HessianSums* sums) const;

  // Calls `use(window, chunk's first token, logits, chunk)` for each sequence
  // and each chunk of the vocabulary (Head::Chunk), chunks in order; different
  // windows in parallel.
  using LogitsFn = absl::FunctionRef<absl::Status(
      int64_t, int64_t, const at::Tensor&, const at::Tensor&)>;
  absl::Status ForEachLogits(const WeightReader& reader, const Head& head,
                             const HiddenStates& states, int64_t positions,
                             LogitsFn use) const;

  // Backpropagates sequence `i` through the block: adds to `sums`, and sets
  // *input_gradient's part unless that is null.
  absl::Status Backprop(const DecoderBlock& block, const HiddenStates& input,
                        const HiddenStates& gradient, int64_t i,
                        SquareSums* sums, HiddenStates* input_gradient) const;
};

absl::Status DecoderModel::Impl::Run(const DecoderBlock& block,
                                     const HiddenStates& input,
                                     HiddenStates* output,
                                     HessianSums* sums) const {
  const int64_t batch =
      sums == nullptr ? input.sequences : SequencesAtOnce(device);
  const int64_t size = input.seqlen * input.width;
  SequenceStream stream(device);
  for (int64_t begin = 0; begin < input.sequences; begin += batch) {
    const int64_t n = std::min(batch, input.sequences - begin);
    std::vector<CapturedInputs> captured(sums == nullptr ? 0 : n);
    BW_RETURN_IF_ERROR(
        ForEachSequence(device, n, "block forward", [&](int64_t i) {
          const int64_t at = (begin + i) * size;
          const at::Tensor y = block.Forward(
              stream.In(input.data.data() + at, {input.seqlen, input.width}),
              sums == nullptr ? nullptr : &captured[i], output != nullptr);
          if (output != nullptr) stream.Out(y, output->data.data() + at);
          return absl::OkStatus();
        }));
    for (CapturedInputs& inputs : captured) {
      BW_RETURN_IF_ERROR(sums->Add(inputs));
      inputs = CapturedInputs();
    }
  }
  stream.Finish();
  return absl::OkStatus();
}

absl::Status DecoderModel::Impl::ForEachLogits(const WeightReader& reader,
                                               const Head& head,
                                               const HiddenStates& states,
                                               int64_t positions,
                                               LogitsFn use) const {
  constexpr int64_t kWindows = 16;  // Share one reading of the head.
  for (int64_t begin = 0; begin < states.sequences; begin += kWindows) {
    const int64_t n = std::min(kWindows, states.sequences - begin);
    std::vector<at::Tensor> x(n);
    BW_RETURN_IF_ERROR(ForEachSequence(device, n, "final norm", [&](int64_t i) {
      x[i] =
          head.Normalize(Sequence(states, begin + i).narrow(0, 0, positions));
      return absl::OkStatus();
    }));
    for (int64_t chunk = 0; chunk < head.num_chunks(); ++chunk) {
      BW_ASSIGN_OR_RETURN(const at::Tensor weight, head.Chunk(reader, chunk));
      BW_RETURN_IF_ERROR(ForEachSequence(device, n, "head", [&](int64_t i) {
        return use(begin + i, head.ChunkBegin(chunk), at::mm(x[i], weight.t()),
                   weight);
      }));
    }
  }
  return absl::OkStatus();
}

absl::Status DecoderModel::Impl::Backprop(const DecoderBlock& block,
                                          const HiddenStates& input,
                                          const HiddenStates& gradient,
                                          int64_t i, SquareSums* sums,
                                          HiddenStates* input_gradient) const {
  const at::Tensor d_input = block.Backward(
      Sequence(input, i), [&](auto) { return Sequence(gradient, i); },
      input_gradient != nullptr,
      [&](int64_t linear, const at::Tensor& x, const at::Tensor& g) {
        sums->Use(linear, x, g);
      });
  for (const std::vector<at::Tensor>* all : {&sums->outputs, &sums->weights}) {
    for (const at::Tensor& sum : *all) {
      BW_RETURN_IF_ERROR(CheckFinite(sum, i));
    }
  }
  if (input_gradient == nullptr) return absl::OkStatus();
  BW_RETURN_IF_ERROR(CheckFinite(d_input, i));
  CopyFromTensor(d_input, input_gradient->data.data() + i * d_input.numel());
  return absl::OkStatus();
}

DecoderModel::DecoderModel(std::unique_ptr<Impl> impl)
    : impl_(std::move(impl)) {}
DecoderModel::~DecoderModel() = default;

void SetCudaProducts(CudaProducts products) { cuda_products = products; }
CudaProducts ActiveCudaProducts() { return cuda_products; }

absl::StatusOr<std::unique_ptr<DecoderModel>> DecoderModel::Open(
    const ModelDirectory* directory, const std::string& device) {
  quant::PinBlasToOneThread();
  auto impl = std::make_unique<Impl>();
  impl->directory = directory;
  BW_RETURN_IF_ERROR(CatchTorch("opening the device", [&]() -> absl::Status {
    BW_ASSIGN_OR_RETURN(impl->device, ChooseDevice(device));
    impl->device_name = impl->device.is_cuda() ? "cuda" : "cpu";
    // Full float32 products on GPUs too, and float32 sums of all products.
    at::globalContext().setAllowTF32CuBLAS(false);
    at::globalContext().setAllowFP16ReductionCuBLAS(false);
#if TORCH_VERSION_MAJOR >= 2
    at::globalContext().setAllowBF16ReductionCuBLAS(false);
#endif
    return absl::OkStatus();
  }));
  return std::unique_ptr<DecoderModel>(new DecoderModel(std::move(impl)));
}

absl::StatusOr<std::string> ResolveDevice(const std::string& device) {
  std::string name;
  BW_RETURN_IF_ERROR(CatchTorch("opening the device", [&]() -> absl::Status {
    BW_ASSIGN_OR_RETURN(const at::Device chosen, ChooseDevice(device));
    name = chosen.is_cuda() ? "cuda" : "cpu";
    return absl::OkStatus();
  }));
  return name;
}

const ModelDirectory& DecoderModel::directory() const {
  return *impl_->directory;
}
const std::string& DecoderModel::device() const { return impl_->device_name; }

absl::StatusOr<HiddenStates> DecoderModel::Embed(
    absl::Span<const int32_t> tokens, int64_t sequences, int64_t seqlen) const {
  BW_RETURN_IF_ERROR(CheckTokens(tokens.size(), sequences, seqlen));
  HiddenStates states{sequences, seqlen, config().hidden_size, {}};
  BW_RETURN_IF_ERROR(CatchTorch("embedding", [&]() -> absl::Status {
    const WeightReader reader(impl_->directory, impl_->device);
    BW_ASSIGN_OR_RETURN(const Embedding embedding,
                        Embedding::Load(reader, config(), tokens, seqlen));
    const int64_t size = seqlen * states.width;
    states.data.resize(sequences * size);
    return ForEachSequence(
        impl_->device, sequences, "embedding", [&](int64_t i) {
          CopyFromTensor(embedding(tokens.subspan(i * seqlen, seqlen)),
                         states.data.data() + i * size);
          return absl::OkStatus();
        });
  }));
  return states;
}

absl::Status DecoderModel::RunBlock(int64_t block,
                                    const WeightOverride& weights,
                                    HiddenStates* states,
                                    std::vector<HessianSum>* hessians) const {
  BW_RETURN_IF_ERROR(CheckBatch(config(), *states));
  return CatchTorch(absl::StrCat("block ", block), [&]() -> absl::Status {
    BW_ASSIGN_OR_RETURN(auto loaded,
                        impl_->Load(block, weights, states->seqlen));
    if (hessians == nullptr) {
      return impl_->Run(*loaded, *states, states, nullptr);
    }
    BW_ASSIGN_OR_RETURN(HessianSums sums,
                        HessianSums::Create(config(), block, impl_->device));
    BW_RETURN_IF_ERROR(impl_->Run(*loaded, *states, states, &sums));
    loaded.reset();
    BW_ASSIGN_OR_RETURN(*hessians, sums.Take());
    return absl::OkStatus();
  });
}

absl::StatusOr<std::vector<HessianSum>> DecoderModel::BlockHessians(
    int64_t block, const WeightOverride& weights,
    const HiddenStates& states) const {
  BW_RETURN_IF_ERROR(CheckBatch(config(), states));
  std::vector<HessianSum> result;
  BW_RETURN_IF_ERROR(
      CatchTorch(absl::StrCat("block ", block), [&]() -> absl::Status {
        BW_ASSIGN_OR_RETURN(auto loaded,
                            impl_->Load(block, weights, states.seqlen));
        BW_ASSIGN_OR_RETURN(
            HessianSums sums,
            HessianSums::Create(config(), block, impl_->device));
        BW_RETURN_IF_ERROR(impl_->Run(*loaded, states, nullptr, &sums));
        loaded.reset();
        BW_ASSIGN_OR_RETURN(result, sums.Take());
        return absl::OkStatus();
      }));
  return result;
}

absl::StatusOr<std::vector<double>> DecoderModel::WindowNll(
    const HiddenStates& states, absl::Span<const int32_t> tokens) const {
  BW_RETURN_IF_ERROR(CheckTargets(config(), states, tokens));
  std::vector<double> nll(states.sequences, 0.0);
  const int64_t positions = states.seqlen - 1;
  if (positions == 0) return nll;
  std::vector<NllSum> sums;
  for (int64_t i = 0; i < states.sequences; ++i) {
    sums.emplace_back(tokens.subspan(i * states.seqlen + 1, positions));
  }
  BW_RETURN_IF_ERROR(CatchTorch("head", [&]() -> absl::Status {
    const WeightReader reader(impl_->directory, impl_->device);
    BW_ASSIGN_OR_RETURN(const Head head, Head::Load(reader, config()));
    return impl_->ForEachLogits(
        reader, head, states, positions,
        [&](int64_t window, int64_t first_token, const at::Tensor& logits,
            const at::Tensor& /*chunk*/) {
          sums[window].Add(logits, first_token);
          return absl::OkStatus();
        });
  }));
  for (int64_t i = 0; i < states.sequences; ++i) {
    nll[i] = sums[i].Total();
    if (!std::isfinite(nll[i])) {
      return absl::InvalidArgumentError(
          absl::StrCat("window ", i,
                       ": the negative log-likelihood is not a finite number; "
                       "the hidden states or the model's head overflow"));
    }
  }
  return nll;
}

absl::StatusOr<HiddenStates> DecoderModel::NllGradient(
    const HiddenStates& states, absl::Span<const int32_t> tokens) const {
  BW_RETURN_IF_ERROR(CheckTargets(config(), states, tokens));
  HiddenStates gradient{states.sequences, states.seqlen, states.width, {}};
  const int64_t positions = states.seqlen - 1;
  BW_RETURN_IF_ERROR(CatchTorch("head gradient", [&]() -> absl::Status {
    gradient.data.resize(states.data.size());
    if (positions == 0) return absl::OkStatus();
    const WeightReader reader(impl_->directory, impl_->device);
    BW_ASSIGN_OR_RETURN(const Head head, Head::Load(reader, config()));
    std::vector<ExpectedRow> expected(states.sequences);
    return impl_->ForEachLogits(
        reader, head, states, positions,
        [&](int64_t i, int64_t first_token, const at::Tensor& logits,
            const at::Tensor& chunk) -> absl::Status {
          expected[i].Add(logits, chunk);
          if (first_token + chunk.size(0) < config().vocab_size) {
            return absl::OkStatus();
          }
          // d(NLL) = Σ p(token) · its row − the row of the token that came.
          BW_ASSIGN_OR_RETURN(
              const at::Tensor target,
              head.Rows(reader,
                        tokens.subspan(i * states.seqlen + 1, positions)));
          const at::Tensor d_states = head.NormalizeBackward(
              impl_->Sequence(states, i).narrow(0, 0, positions),
              expected[i].Take().sub_(target));
          BW_RETURN_IF_ERROR(CheckFinite(d_states, i));
          CopyFromTensor(d_states, gradient.data.data() +
                                       i * states.seqlen * states.width);
          return absl::OkStatus();
        });
  }));
  return gradient;
}

absl::StatusOr<std::vector<OutputSensitivity>> DecoderModel::BackpropBlock(
    int64_t block, const WeightOverride& weights, const HiddenStates& input,
    const HiddenStates& gradient, HiddenStates* input_gradient,
    Sensitivity sensitivity) const {
  BW_RETURN_IF_ERROR(CheckBatch(config(), input));
  BW_RETURN_IF_ERROR(Annotate(CheckBatch(config(), gradient), "gradient"));
  if (gradient.sequences != input.sequences ||
      gradient.seqlen != input.seqlen) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a gradient of ", gradient.sequences, " sequences of ", gradient.seqlen,
        " tokens for an input of ", input.sequences, " sequences of ",
        input.seqlen, " tokens"));
  }
  std::vector<OutputSensitivity> result;
  BW_RETURN_IF_ERROR(CatchTorch(
      absl::StrCat("gradient of block ", block), [&]() -> absl::Status {
        BW_ASSIGN_OR_RETURN(auto loaded,
                            impl_->Load(block, weights, input.seqlen));
        if (input_gradient != nullptr && input_gradient != &gradient) {
          *input_gradient = {input.sequences, input.seqlen, input.width, {}};
          input_gradient->data.resize(input.data.size());
        }
        const std::vector<LinearSpec> linears = BlockLinears(config(), block);
        std::vector<SquareSums> sums(input.sequences);
        BW_RETURN_IF_ERROR(ForEachSequence(
            impl_->device, input.sequences, "block backward", [&](int64_t i) {
              sums[i] = SquareSums(linears, impl_->device, sensitivity);
              return impl_->Backprop(*loaded, input, gradient, i, &sums[i],
                                     input_gradient);
            }));
        result = SumOverSequences(linears, sums);
        return absl::OkStatus();
      }));
  return result;
}

absl::StatusOr<HiddenStates> DecoderModel::HeadInputs(
    const HiddenStates& states) const {
  BW_RETURN_IF_ERROR(CheckBatch(config(), states));
  HiddenStates result{states.sequences, states.seqlen, 0, {}};
  BW_RETURN_IF_ERROR(CatchTorch("head", [&]() -> absl::Status {
    const WeightReader reader(impl_->directory, impl_->device);
    BW_ASSIGN_OR_RETURN(const Head head, Head::Load(reader, config()));
    result.width = head.dim();
    const int64_t size = result.seqlen * result.width;
    result.data.resize(result.sequences * size);
    return ForEachSequence(
        impl_->device, states.sequences, "final norm", [&](int64_t i) {
          CopyFromTensor(head.Normalize(impl_->Sequence(states, i)),
                         result.data.data() + i * size);
          return absl::OkStatus();
        });
  }));
  return result;
}

absl::StatusOr<std::vector<double>> DecoderModel::VocabularyGram() const {
  std::vector<double> result;
  BW_RETURN_IF_ERROR(CatchTorch("vocabulary", [&]() -> absl::Status {
    const WeightReader reader(impl_->directory, impl_->device);
    BW_ASSIGN_OR_RETURN(const Head head, Head::Load(reader, config()));
    at::Tensor gram =
        at::zeros({head.dim(), head.dim()},
                  at::TensorOptions().dtype(at::kDouble).device(impl_->device));
    for (int64_t chunk = 0; chunk < head.num_chunks(); ++chunk) {
      BW_ASSIGN_OR_RETURN(at::Tensor rows, head.Chunk(reader, chunk));
      rows = rows.to(at::kDouble);
      gram.addmm_(rows.t(), rows);
    }
    const at::Tensor host = gram.cpu().contiguous();
    const double* values = host.data_ptr<double>();
    result.assign(values, values + host.numel());
    return absl::OkStatus();
  }));
  return result;
}

absl::StatusOr<std::vector<float>> DecoderModel::Logits(
    const HiddenStates& states) const {
  BW_RETURN_IF_ERROR(CheckBatch(config(), states));
  const int64_t vocab = config().vocab_size;
  std::vector<float> result;
  BW_RETURN_IF_ERROR(CatchTorch("head", [&]() -> absl::Status {
    result.resize(states.sequences * states.seqlen * vocab);
    const WeightReader reader(impl_->directory, impl_->device);
    BW_ASSIGN_OR_RETURN(const Head head, Head::Load(reader, config()));
    return impl_->ForEachLogits(
        reader, head, states, states.seqlen,
        [&](int64_t window, int64_t first_token, const at::Tensor& logits,
            const at::Tensor& /*chunk*/) {
          const at::Tensor host = logits.cpu().contiguous();
          const float* values = host.data_ptr<float>();
          const int64_t rows = host.size(1);
          for (int64_t p = 0; p < states.seqlen; ++p) {
            std::copy_n(values + p * rows, rows,
                        result.data() + (window * states.seqlen + p) * vocab +
                            first_token);
          }
          return absl::OkStatus();
        });
  }));
  return result;
}

}  // namespace bitwright::model
