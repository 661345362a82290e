#include "worker/model/weights.h"

#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/checkpoint/dtype.h"
#include "worker/model/torch_util.h"

namespace bitwright::model {
namespace {

absl::Status CheckSize(const std::string& name, const std::string& source,
                       size_t have, int64_t want) {
  if (have == static_cast<size_t>(want)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      source, ": ", name, " has ", have, " elements, expected ", want));
}

}  // namespace

at::Tensor LinearWeights::operator()(const at::Tensor& x) const {
  if (weight.scalar_type() != at::kFloat) {
    const at::Tensor y =
        at::mm(x.to(weight.scalar_type()), weight.t()).to(at::kFloat);
    return bias.defined() ? y + bias : y;
  }
  return bias.defined() ? at::addmm(bias, x, weight.t())
                        : at::mm(x, weight.t());
}

at::Tensor LinearWeights::Backward(const at::Tensor& gradient) const {
  // Gradients are too small for 16 bits.
  return at::mm(gradient, weight.to(at::kFloat));
}

at::Tensor NormWeights::Rms(const at::Tensor& x) const {
  const at::Tensor variance = x.square().mean(-1, /*keepdim=*/true);
  return x * at::rsqrt(variance + eps) * weight;
}

at::Tensor NormWeights::Layer(const at::Tensor& x) const {
  return at::layer_norm(x, {x.size(-1)}, weight, bias, eps);
}

// With y = u w, u = x r and r = (mean(x²) + eps)^-½:
//   dx = r (g − u mean(g u)),  g = dy w.
at::Tensor NormWeights::RmsBackward(const at::Tensor& x,
                                    const at::Tensor& gradient) const {
  const at::Tensor scale =
      at::rsqrt(x.square().mean(-1, /*keepdim=*/true) + eps);
  const at::Tensor unit = x * scale, g = gradient * weight;
  return (g - unit * (g * unit).mean(-1, /*keepdim=*/true)).mul_(scale);
}

// The same with x − mean(x) in the place of x, and its adjoint.
at::Tensor NormWeights::LayerBackward(const at::Tensor& x,
                                      const at::Tensor& gradient) const {
  const at::Tensor centred = x - x.mean(-1, /*keepdim=*/true);
  const at::Tensor dx = RmsBackward(centred, gradient);
  return dx - dx.mean(-1, /*keepdim=*/true);
}

absl::StatusOr<LinearWeights> WeightReader::Linear(const std::string& prefix,
                                                   int64_t rows, int64_t cols,
                                                   bool bias) const {
  const std::string name = prefix + ".weight";
  LinearWeights linear;
  if (bias) {
    BW_ASSIGN_OR_RETURN(linear.bias, Vector(prefix + ".bias", rows));
  }
  std::optional<std::vector<float>> values;
  if (override_ != nullptr && *override_ != nullptr) {
    BW_ASSIGN_OR_RETURN(values, (*override_)(prefix));
    if (values.has_value()) {
      BW_RETURN_IF_ERROR(
          CheckSize(name, "weight override", values->size(), rows * cols));
    }
  }
  const std::optional<at::ScalarType> stored = StoredIn16Bits(name);
  if (!values.has_value() && stored.has_value()) {
    BW_ASSIGN_OR_RETURN(linear.weight, Upload(name, *stored, rows, cols));
    if (ActiveCudaProducts() == CudaProducts::kFloat32)
      linear.weight = linear.weight.to(at::kFloat);
    return linear;
  }
  if (!values.has_value()) {
    BW_ASSIGN_OR_RETURN(values, directory_->ReadFloats(name));
    BW_RETURN_IF_ERROR(
        CheckSize(name, directory_->path(), values->size(), rows * cols));
  }
  linear.weight = ToTensor(*std::move(values), {rows, cols}, device_);
  return linear;
}

std::optional<at::ScalarType> WeightReader::StoredIn16Bits(
    const std::string& name) const {
  if (!device_.is_cuda()) return std::nullopt;
  const auto stored = directory_->Stored(name);  // Not if it is quantized.
  if (!stored.ok()) return std::nullopt;
  switch (stored->info->dtype) {
    case DType::kF16:
      return at::kHalf;
    case DType::kBF16:
      return at::kBFloat16;
    default:
      return std::nullopt;
  }
}

absl::StatusOr<at::Tensor> WeightReader::Upload(const std::string& name,
                                                at::ScalarType type,
                                                int64_t rows,
                                                int64_t cols) const {
  BW_ASSIGN_OR_RETURN(const ModelDirectory::StoredTensor stored,
                      directory_->Stored(name));
  const absl::string_view bytes = stored.file->Data(*stored.info);
  BW_RETURN_IF_ERROR(CheckSize(name, stored.file->path(),
                               bytes.size() / SizeOf(stored.info->dtype),
                               rows * cols));
  const at::Tensor uploaded =
      at::from_blob(const_cast<char*>(bytes.data()), {rows, cols},
                    at::TensorOptions().dtype(type))
          .to(device_);
  stored.file->Drop(*stored.info);
  if (at::isfinite(uploaded).all().item<bool>()) return uploaded;
  // Says where.
  const auto values = directory_->ReadFloats(name);
  return values.ok() ? absl::InternalError(
                           absl::StrCat(name, " came to the device damaged"))
                     : values.status();
}

absl::StatusOr<NormWeights> WeightReader::Norm(const std::string& prefix,
                                               int64_t width, bool bias,
                                               double eps) const {
  NormWeights norm;
  norm.eps = eps;
  BW_ASSIGN_OR_RETURN(norm.weight, Vector(prefix + ".weight", width));
  if (bias) {
    BW_ASSIGN_OR_RETURN(norm.bias, Vector(prefix + ".bias", width));
  }
  return norm;
}

absl::StatusOr<at::Tensor> WeightReader::Vector(const std::string& name,
                                                int64_t width) const {
  BW_ASSIGN_OR_RETURN(std::vector<float> values, directory_->ReadFloats(name));
  BW_RETURN_IF_ERROR(CheckSize(name, directory_->path(), values.size(), width));
  return ToTensor(std::move(values), {width}, device_);
}

absl::StatusOr<at::Tensor> WeightReader::Rows(
    const std::string& name, int64_t cols,
    absl::Span<const int64_t> rows) const {
  BW_ASSIGN_OR_RETURN(ModelDirectory::StoredTensor stored,
                      directory_->Stored(name));
  const auto& shape = stored.info->shape;
  const std::string where = absl::StrCat(stored.file->path(), ": ", name);
  if (shape.size() != 2 || shape[1] != cols) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, " has shape ", ShapeString(shape),
                     ", expected [rows, ", cols, "]"));
  }
  const absl::string_view bytes = stored.file->Data(*stored.info);
  const size_t row_bytes = cols * SizeOf(stored.info->dtype);
  std::vector<float> values(rows.size() * cols);
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i] < 0 || rows[i] >= shape[0]) {
      return absl::InvalidArgumentError(absl::StrCat(
          where, " has ", shape[0], " rows; row ", rows[i], " was asked for"));
    }
    const absl::Span<float> out(values.data() + i * cols, cols);
    BW_RETURN_IF_ERROR(
        Annotate(ToFloats(stored.info->dtype,
                          bytes.substr(rows[i] * row_bytes, row_bytes), out),
                 where));
    for (float v : out) {
      if (!std::isfinite(v)) {
        return absl::InvalidArgumentError(
            absl::StrCat(where, " holds NaN or infinity in row ", rows[i],
                         "; the model is damaged"));
      }
    }
  }
  stored.file->Drop(*stored.info);
  return ToTensor(std::move(values), {static_cast<int64_t>(rows.size()), cols},
                  device_);
}

}  // namespace bitwright::model
