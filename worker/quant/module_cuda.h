// The CUDA side of this folder, behind std types alone. Private to it.
//
// Everything that needs CUDA's libraries is in a module of its own,
// libbitwright_cuda.so, opened when a device is asked for: the programs start,
// and the Debian build stays light, on machines that have neither driver nor
// libraries. No header of CUDA, Abseil or torch is included here, so that every
// compiler and every libtorch can be on either side.
//
//   BW_ASSIGN_OR_RETURN(const CudaModule* module, OpenCudaModule());
//   CudaStatus status;
//   std::unique_ptr<CudaLayer> layer(module->layer(w, rows, columns, &status));
#ifndef BITWRIGHT_WORKER_QUANT_MODULE_CUDA_H_
#define BITWRIGHT_WORKER_QUANT_MODULE_CUDA_H_

#include <cstdint>
#include <string>

namespace bitwright::quant {

struct CudaStatus {
  enum Kind {
    kOk,
    kNoDevice,     // no GPU, or no driver that is recent enough
    kOutOfMemory,  // of the device
    kFailed,       // a call into CUDA; the message names it
  };
  Kind kind = kOk;
  std::string message;

  bool ok() const { return kind == kOk; }
};

// What a factorization reads. Borrowed for the call.
struct CudaHessianInput {
  const float* data = nullptr;  // host; the lower triangle is read
  bool packed = false;          // or full, [columns, columns]
  double scale = 1;
  const int32_t* order = nullptr;  // [columns] column of each position
  const uint8_t* dead = nullptr;   // [columns] by original column
};

// Which grid a pass rounds to: one of the two, the other null.
struct CudaLevels {
  const uint16_t* by_position = nullptr;  // [columns]
  const uint16_t* by_row = nullptr;       // [rows]
};

// What a sweep of refine.h needs to know of the factor.
struct CudaRefine {
  int sweeps = 1;
  double added = 0;  // what was added to the diagonal of H
  double mean = 1;   // of that diagonal
};

// One layer on device 0. "By position" is in the order that LoadHessian was
// given. Pointers are to host memory. Calls return when their results are there
// and are made in the order of LayerEngine; by one thread at a time.
class CudaLayer {
 public:
  virtual ~CudaLayer() = default;

  virtual CudaStatus LoadHessian(const CudaHessianInput& input) = 0;
  // Factors H + added·I. *definite tells whether it is positive definite and
  // finite; only then is `diagonal`, [columns] by position, set. Copies the
  // weight while the first factorization runs.
  virtual CudaStatus TryFactor(double added, bool* definite,
                               double* diagonal) = 0;
  // Instead of a factor: no feedback.
  virtual CudaStatus UseDiagonal() = 0;

  // min and max are [groups, rows]; group_of is [columns] by position.
  virtual CudaStatus LoadGrid(const float* min, const float* max,
                              int64_t groups, const int32_t* group_of) = 0;
  // [columns] each, by position: ‖t_k − ŵ_k‖² and ‖w_k − ŵ_k‖².
  virtual CudaStatus Pass(const CudaLevels& levels, int slot, double* rounding,
                          double* error) = 0;
  // On the codes in `slot`, in place; `rounding` is ‖((W−Ŵ) R)_k‖² / R_kk².
  virtual CudaStatus Refine(const CudaLevels& levels, int slot,
                            const CudaRefine& refine, double* rounding,
                            double* error) = 0;
  // [rows, columns] by original column.
  virtual CudaStatus Codes(int slot, uint8_t* codes) = 0;

  // [columns, n] by position. slot -1: the weights.
  virtual CudaStatus Distortion(int slot, const int* counts, int n,
                                double* sums) = 0;
};

// Σ x xᵀ on device 0. By one thread at a time.
class CudaHessian {
 public:
  virtual ~CudaHessian() = default;
  // x is [tokens, columns] on the device, read in the order of `stream` (a
  // cudaStream_t); the call does not wait for it.
  virtual CudaStatus Add(const float* x, int64_t tokens, void* stream) = 0;
  // The lower triangle by rows, to host memory; waits for it.
  virtual CudaStatus Packed(float* out) = 0;
};

// Raised with every change of this header: a module of another build is refused
// instead of called.
inline constexpr int kCudaModuleAbi = 1;

// What the module exports. Null, with the status set, when there is no device
// or its memory does not do.
extern "C" {
CudaLayer* BitwrightCudaLayer(const float* weight, int64_t rows,
                              int64_t columns, CudaStatus* status);
CudaHessian* BitwrightCudaHessian(int64_t columns, bool split_bf16,
                                  CudaStatus* status);
int BitwrightCudaAbi();  // kCudaModuleAbi of the module
// Whether device 0 can be used.
void BitwrightCudaProbe(CudaStatus* status);
}

struct CudaModule {
  decltype(&BitwrightCudaLayer) layer;
  decltype(&BitwrightCudaHessian) hessian;
  decltype(&BitwrightCudaProbe) probe;
};

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_MODULE_CUDA_H_
