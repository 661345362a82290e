// OpenBLAS on a CPU that is newer than it.
//
// OpenBLAS chooses its kernels when it is loaded, by the CPU's model number.
// One that it does not know gets those of a Pentium 4 (Debian 12's 0.3.21 on
// Intel's Emerald Rapids: SGEMM at an eighth of its speed), unless the
// environment says otherwise. A program that multiplies matrices begins with
//
//   int main(int argc, char** argv) {
//     bitwright::quant::RestartWithFastBlas(argv);
//
#ifndef BITWRIGHT_WORKER_QUANT_BLAS_KERNELS_H_
#define BITWRIGHT_WORKER_QUANT_BLAS_KERNELS_H_

#include "absl/strings/string_view.h"

namespace bitwright::quant {

// What OPENBLAS_CORETYPE should be where OpenBLAS runs the kernels `chosen`;
// empty where its choice may stand.
absl::string_view FasterBlasKernels(absl::string_view chosen, bool avx2_and_fma,
                                    bool avx512);

// Starts this program again, in the same process, with OPENBLAS_CORETYPE set as
// FasterBlasKernels says. Returns when there is nothing to gain: another BLAS,
// kernels that fit, OPENBLAS_CORETYPE set already. Before the first thread.
void RestartWithFastBlas(char** argv);

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_BLAS_KERNELS_H_
