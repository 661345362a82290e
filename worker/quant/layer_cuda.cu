// CudaLayer of module_cuda.h.
#include <cmath>
#include <string>
#include <vector>

#include "worker/quant/kernels_cuda.h"
#include "worker/quant/module_cuda.h"
#include "worker/quant/runtime_cuda.h"

namespace bitwright::quant {
namespace {

constexpr int kSlotCount = 3;
// Range of the rows that only fill up a tile: zero is on its grid.
constexpr float kFillerMin = -1.0f, kFillerMax = 1.0f;

class Layer final : public CudaLayer {
 public:
  Layer(const float* weight, int64_t rows, int64_t columns)
      : host_weight_(weight),
        rows_(rows),
        columns_(columns),
        stride_(DivideUp(rows, kRowTile) * kRowTile) {}

  CudaStatus Open() { return LeaseContext(&context_); }

  CudaStatus LoadHessian(const CudaHessianInput& input) override;
  CudaStatus TryFactor(double added, bool* definite, double* diagonal) override;
  CudaStatus UseDiagonal() override;
  CudaStatus LoadGrid(const float* min, const float* max, int64_t groups,
                      const int32_t* group_of) override;
  CudaStatus Pass(const CudaLevels& levels, int slot, double* rounding,
                  double* error) override;
  CudaStatus Refine(const CudaLevels& levels, int slot,
                    const CudaRefine& refine, double* rounding,
                    double* error) override;
  CudaStatus Codes(int slot, uint8_t* codes) override;
  CudaStatus Distortion(int slot, const int* counts, int n,
                        double* sums) override;

 private:
  struct Slot {
    DeviceBuffer<float> targets;
    DeviceBuffer<uint8_t> codes;
  };

  cudaStream_t stream() const { return context_->stream(); }
  CudaStatus Wait() {
    BW_CUDA(cudaStreamSynchronize(stream()));
    return {};
  }

  CudaStatus Cholesky();
  CudaStatus LoadWeight();
  CudaStatus CopyPositions(const CudaHessianInput& input);
  CudaStatus PadRanges(const float* ranges, int64_t groups, float filler,
                       DeviceBuffer<float>& out);
  CudaStatus LoadLevels(const CudaLevels& levels, PassBuffers* in);
  CudaStatus FillBuffers(const CudaLevels& levels, Slot& slot, PassBuffers* in);
  CudaStatus RunBlocks(const PassBuffers& in);
  CudaStatus Sweep(const PassBuffers& in, bool last);
  CudaStatus SumRefined(const PassBuffers& in, double* rounding, double* error);
  // y += m·x over positions: y is [columns, stride] from position `to` on, x
  // `width` columns of which the first has position `from`.
  CudaStatus Carry(const float* x, int64_t from, int64_t width,
                   const float* matrix, int64_t to, float beta, float* y);

  CudaContextLease context_;  // First: the buffers need its streams.
  const float* const host_weight_;
  const int64_t rows_, columns_, stride_;

  DeviceBuffer<int32_t> order_;
  DeviceBuffer<uint8_t> dead_;
  DeviceBuffer<float> hessian_;    // as it came
  DeviceBuffer<double> flipped_;   // [columns, columns] until there is a factor
  DeviceBuffer<double> diagonal_;  // [columns] by position
  DeviceBuffer<int> info_;         // cuSOLVER's
  FlipInput flip_{};
  bool weight_loaded_ = false;
  DeviceBuffer<float> raw_;     // [rows, columns] on its way
  DeviceBuffer<float> weight_;  // [columns, stride] by position
  bool feedback_ = false;
  DeviceBuffer<float> unit_;        // [columns, columns]
  DeviceBuffer<float> min_, max_;   // [groups, stride]
  DeviceBuffer<int32_t> group_of_;  // [columns] by position
  DeviceBuffer<uint16_t> levels_;   // [columns] or [stride]
  DeviceBuffer<float> errors_;      // [columns, stride] of the last pass
  DeviceBuffer<double> rounding_tiles_, error_tiles_;  // [tiles, columns]
  DeviceBuffer<double> sums_;                          // [2, columns]
  DeviceBuffer<int> counts_;
  DeviceBuffer<double> partial_, curves_;
  Slot slots_[kSlotCount];
};

CudaStatus Layer::CopyPositions(const CudaHessianInput& input) {
  BW_CUDA(order_.Allocate(stream(), columns_));
  BW_CUDA(dead_.Allocate(stream(), columns_));
  BW_CUDA(CopyToDevice(order_.get(), input.order, columns_, stream()));
  BW_CUDA(CopyToDevice(dead_.get(), input.dead, columns_, stream()));
  return {};
}

CudaStatus Layer::LoadHessian(const CudaHessianInput& input) {
  BW_CUDA(UseDevice());
  BW_CUDA(CopyPositions(input));
  const int64_t size =
      input.packed ? columns_ * (columns_ + 1) / 2 : columns_ * columns_;
  BW_CUDA(hessian_.Allocate(stream(), size));
  BW_CUDA(CopyToDevice(hessian_.get(), input.data, size, stream()));
  BW_CUDA(flipped_.Allocate(stream(), columns_ * columns_));
  BW_CUDA(diagonal_.Allocate(stream(), columns_));
  BW_CUDA(info_.Allocate(stream(), 1));
  flip_ = {hessian_.get(), input.packed, input.scale,
           order_.get(),   dead_.get(),  columns_};
  weight_loaded_ = false;
  feedback_ = false;
  return {};
}

// Starts the factorization of flipped_; its outcome will be in info_.
CudaStatus Layer::Cholesky() {
  size_t device_bytes = 0, host_bytes = 0;
  BW_CUDA(cusolverDnXpotrf_bufferSize(context_->cusolver(), context_->params(),
                                      CUBLAS_FILL_MODE_LOWER, columns_,
                                      CUDA_R_64F, flipped_.get(), columns_,
                                      CUDA_R_64F, &device_bytes, &host_bytes));
  DeviceBuffer<char> device_work;
  std::vector<char> host_work(host_bytes);
  BW_CUDA(
      device_work.Allocate(stream(), static_cast<int64_t>(device_bytes) + 1));
  BW_CUDA(cusolverDnXpotrf(context_->cusolver(), context_->params(),
                           CUBLAS_FILL_MODE_LOWER, columns_, CUDA_R_64F,
                           flipped_.get(), columns_, CUDA_R_64F,
                           device_work.get(), device_bytes, host_work.data(),
                           host_bytes, info_.get()));
  if (host_bytes > 0) BW_CUDA(Wait());  // It may still be read.
  return {};
}

// Copies on the other stream, beside a factorization that has been started.
CudaStatus Layer::LoadWeight() {
  const cudaStream_t copy = context_->copy_stream();
  // On `copy` only from here to the event: the buffers are made there, too.
  BW_CUDA(raw_.Allocate(copy, rows_ * columns_));
  BW_CUDA(CopyToDevice(raw_.get(), host_weight_, rows_ * columns_, copy));
  BW_CUDA(cudaEventRecord(context_->event(), copy));
  BW_CUDA(cudaStreamWaitEvent(stream(), context_->event(), 0));
  BW_CUDA(weight_.Allocate(stream(), columns_ * stride_));
  BW_CUDA(GatherWeight(raw_.get(), order_.get(), dead_.get(), rows_, columns_,
                       stride_, weight_.get(), stream()));
  // raw_ goes back in the order of `copy`: after the gathering.
  BW_CUDA(cudaEventRecord(context_->event(), stream()));
  BW_CUDA(cudaStreamWaitEvent(copy, context_->event(), 0));
  raw_.Free();
  weight_loaded_ = true;
  return {};
}

CudaStatus Layer::TryFactor(double added, bool* definite, double* diagonal) {
  BW_CUDA(UseDevice());
  *definite = false;
  BW_CUDA(FillFlipped(flip_, added, flipped_.get(), stream()));
  BW_CUDA(Cholesky());
  if (!weight_loaded_) BW_CUDA(LoadWeight());
  BW_CUDA(FlippedDiagonal(flipped_.get(), columns_, diagonal_.get(), stream()));
  int info = 0;
  std::vector<double> found(columns_);
  BW_CUDA(CopyToHost(&info, info_.get(), 1, stream()));
  BW_CUDA(CopyToHost(found.data(), diagonal_.get(), columns_, stream()));
  BW_CUDA(Wait());
  if (info < 0) {
    return {CudaStatus::kFailed, "cusolverDnXpotrf: argument " +
                                     std::to_string(-info) + " is not valid"};
  }
  if (info > 0) return {};
  for (int64_t p = 0; p < columns_; ++p) {
    if (!std::isfinite(found[p]) || found[p] <= 0) return {};
  }
  BW_CUDA(unit_.Allocate(stream(), columns_ * columns_));
  BW_CUDA(
      Unflip(flipped_.get(), diagonal_.get(), columns_, unit_.get(), stream()));
  flipped_.Free();
  std::copy(found.begin(), found.end(), diagonal);
  feedback_ = true;
  *definite = true;
  return {};
}

CudaStatus Layer::UseDiagonal() {
  BW_CUDA(UseDevice());
  if (!weight_loaded_) BW_CUDA(LoadWeight());
  flipped_.Free();
  unit_.Free();
  feedback_ = false;
  return {};
}

CudaStatus Layer::PadRanges(const float* ranges, int64_t groups, float filler,
                            DeviceBuffer<float>& out) {
  std::vector<float> padded(groups * stride_, filler);
  for (int64_t g = 0; g < groups; ++g) {
    std::copy(ranges + g * rows_, ranges + (g + 1) * rows_,
              padded.begin() + g * stride_);
  }
  BW_CUDA(out.Allocate(stream(), groups * stride_));
  BW_CUDA(CopyToDevice(out.get(), padded.data(), groups * stride_, stream()));
  return Wait();  // `padded` goes.
}

CudaStatus Layer::LoadGrid(const float* min, const float* max, int64_t groups,
                           const int32_t* group_of) {
  BW_CUDA(UseDevice());
  BW_CUDA(PadRanges(min, groups, kFillerMin, min_));
  BW_CUDA(PadRanges(max, groups, kFillerMax, max_));
  BW_CUDA(group_of_.Allocate(stream(), columns_));
  BW_CUDA(CopyToDevice(group_of_.get(), group_of, columns_, stream()));
  return Wait();
}

CudaStatus Layer::LoadLevels(const CudaLevels& levels, PassBuffers* in) {
  std::vector<uint16_t> host;
  if (levels.by_position != nullptr) {
    host.assign(levels.by_position, levels.by_position + columns_);
  } else {
    host.assign(levels.by_row, levels.by_row + rows_);
    host.resize(stride_, 1);
  }
  const int64_t n = static_cast<int64_t>(host.size());
  BW_CUDA(levels_.Allocate(stream(), n));
  BW_CUDA(CopyToDevice(levels_.get(), host.data(), n, stream()));
  (levels.by_position != nullptr ? in->levels : in->row_levels) = levels_.get();
  return {};  // The copy is staged: pageable memory may go.
}

// All but what a pass and a sweep have in different places.
CudaStatus Layer::FillBuffers(const CudaLevels& levels, Slot& slot,
                              PassBuffers* in) {
  BW_CUDA(slot.codes.Allocate(stream(), columns_ * stride_));
  BW_CUDA(errors_.Allocate(stream(), columns_ * stride_));
  BW_CUDA(sums_.Allocate(stream(), 2 * columns_));
  in->rows = rows_;
  in->columns = columns_;
  in->stride = stride_;
  in->weight = weight_.get();
  in->min = min_.get();
  in->max = max_.get();
  in->group_of = group_of_.get();
  in->errors = errors_.get();
  in->codes = slot.codes.get();
  return LoadLevels(levels, in);
}

CudaStatus Layer::Pass(const CudaLevels& levels, int slot, double* rounding,
                       double* error) {
  BW_CUDA(UseDevice());
  Slot& out = slots_[slot];
  PassBuffers in{};
  BW_CUDA(FillBuffers(levels, out, &in));
  const int64_t tiles = stride_ / kRowTile;
  BW_CUDA(rounding_tiles_.Allocate(stream(), tiles * columns_));
  BW_CUDA(error_tiles_.Allocate(stream(), tiles * columns_));
  BW_CUDA(out.targets.Allocate(stream(), columns_ * stride_));
  BW_CUDA(cudaMemcpyAsync(out.targets.get(), weight_.get(), weight_.bytes(),
                          cudaMemcpyDeviceToDevice, stream()));
  in.unit = feedback_ ? unit_.get() : nullptr;
  in.targets = out.targets.get();
  in.rounding = rounding_tiles_.get();
  in.error = error_tiles_.get();
  BW_CUDA(RunBlocks(in));
  BW_CUDA(SumTiles(in.rounding, tiles, columns_, sums_.get(), stream()));
  BW_CUDA(
      SumTiles(in.error, tiles, columns_, sums_.get() + columns_, stream()));
  BW_CUDA(CopyToHost(rounding, sums_.get(), columns_, stream()));
  BW_CUDA(CopyToHost(error, sums_.get() + columns_, columns_, stream()));
  return Wait();
}

CudaStatus Layer::RunBlocks(const PassBuffers& in) {
  for (int64_t start = 0; start < columns_; start += kPassColumns) {
    BW_CUDA(PassBlock(in, start, stream()));
    const int64_t end = start + kPassColumns;
    if (feedback_ && end < columns_) {
      BW_CUDA(Carry(in.errors + start * stride_, start, kPassColumns, in.unit,
                    end, 1.0f, in.targets));
    }
  }
  return {};
}

// To cuBLAS, which is column-major, x and y are [stride, positions] and
// `matrix` is transposed.
CudaStatus Layer::Carry(const float* x, int64_t from, int64_t width,
                        const float* matrix, int64_t to, float beta, float* y) {
  const float one = 1.0f;
  const int stride = static_cast<int>(stride_);
  BW_CUDA(cublasSgemm(context_->cublas(), CUBLAS_OP_N, CUBLAS_OP_N, stride,
                      static_cast<int>(columns_ - to), static_cast<int>(width),
                      &one, x, stride, matrix + to * columns_ + from,
                      static_cast<int>(columns_), &beta, y + to * stride_,
                      stride));
  return {};
}

CudaStatus Layer::Refine(const CudaLevels& levels, int slot,
                         const CudaRefine& refine, double* rounding,
                         double* error) {
  BW_CUDA(UseDevice());
  PassBuffers in{};
  BW_CUDA(FillBuffers(levels, slots_[slot], &in));
  DeviceBuffer<float> hessian, inverse, slopes, moved;
  BW_CUDA(hessian.Allocate(stream(), columns_ * columns_));
  BW_CUDA(inverse.Allocate(stream(), columns_));
  BW_CUDA(slopes.Allocate(stream(), columns_ * stride_));
  BW_CUDA(moved.Allocate(stream(), kPassColumns * stride_));
  BW_CUDA(DampedHessian(flip_, refine.added, refine.mean, hessian.get(),
                        inverse.get(), stream()));
  BW_CUDA(ErrorsOfCodes(in, stream()));
  in.unit = hessian.get();
  in.inverse = inverse.get();
  in.targets = slopes.get();
  in.moved = moved.get();
  // Slopes are kept up to date from here on: E H, H symmetric.
  BW_CUDA(Carry(in.errors, 0, columns_, hessian.get(), 0, 0.0f, slopes.get()));
  for (int i = 0; i < refine.sweeps; ++i) {
    BW_CUDA(Sweep(in, i + 1 == refine.sweeps));
  }
  return SumRefined(in, rounding, error);
}

CudaStatus Layer::Sweep(const PassBuffers& in, bool last) {
  for (int64_t start = 0; start < columns_; start += kPassColumns) {
    BW_CUDA(RefineBlock(in, start, stream()));
    const int64_t width =
        columns_ - start < kPassColumns ? columns_ - start : kPassColumns;
    const int64_t to = last ? start + width : 0;
    if (to < columns_) {
      BW_CUDA(Carry(in.moved, start, width, in.unit, to, 1.0f, in.targets));
    }
  }
  return {};
}

// (E R)_k / R_kk = E_k + Σ_j E_j R_jk / R_kk, into what were the slopes.
CudaStatus Layer::SumRefined(const PassBuffers& in, double* rounding,
                             double* error) {
  const float* product = in.errors;
  if (feedback_) {
    const float one = 1.0f;
    const int stride = static_cast<int>(stride_),
              n = static_cast<int>(columns_);
    BW_CUDA(cublasStrmm(context_->cublas(), CUBLAS_SIDE_RIGHT,
                        CUBLAS_FILL_MODE_UPPER, CUBLAS_OP_N, CUBLAS_DIAG_UNIT,
                        stride, n, &one, unit_.get(), n, in.errors, stride,
                        in.targets, stride));
    product = in.targets;
  }
  BW_CUDA(SquareColumns(product, columns_, stride_, sums_.get(), stream()));
  BW_CUDA(SquareColumns(in.errors, columns_, stride_, sums_.get() + columns_,
                        stream()));
  BW_CUDA(CopyToHost(rounding, sums_.get(), columns_, stream()));
  BW_CUDA(CopyToHost(error, sums_.get() + columns_, columns_, stream()));
  return Wait();
}

CudaStatus Layer::Codes(int slot, uint8_t* codes) {
  BW_CUDA(UseDevice());
  DeviceBuffer<uint8_t> out;
  BW_CUDA(out.Allocate(stream(), rows_ * columns_));
  BW_CUDA(ScatterCodes(slots_[slot].codes.get(), order_.get(), rows_, columns_,
                       stride_, out.get(), stream()));
  BW_CUDA(CopyToHost(codes, out.get(), rows_ * columns_, stream()));
  return Wait();
}

CudaStatus Layer::Distortion(int slot, const int* counts, int n, double* sums) {
  BW_CUDA(UseDevice());
  const int64_t pieces = DivideUp(rows_, kDistortionRows);
  BW_CUDA(counts_.Allocate(stream(), n));
  BW_CUDA(CopyToDevice(counts_.get(), counts, n, stream()));
  BW_CUDA(partial_.Allocate(stream(), pieces * columns_ * n));
  BW_CUDA(curves_.Allocate(stream(), columns_ * n));
  DistortionInput in{};
  in.rows = rows_;
  in.columns = columns_;
  in.stride = stride_;
  in.values = slot < 0 ? weight_.get() : slots_[slot].targets.get();
  in.min = min_.get();
  in.max = max_.get();
  in.group_of = group_of_.get();
  in.counts = counts_.get();
  in.n = n;
  BW_CUDA(MeasureDistortion(in, partial_.get(), stream()));
  BW_CUDA(
      SumTiles(partial_.get(), pieces, columns_ * n, curves_.get(), stream()));
  BW_CUDA(CopyToHost(sums, curves_.get(), columns_ * n, stream()));
  return Wait();
}

}  // namespace

extern "C" __attribute__((visibility("default"))) CudaLayer* BitwrightCudaLayer(
    const float* weight, int64_t rows, int64_t columns, CudaStatus* status) {
  auto layer = std::make_unique<Layer>(weight, rows, columns);
  *status = layer->Open();
  return status->ok() ? layer.release() : nullptr;
}

}  // namespace bitwright::quant
