// Coordinate descent on the codes that a feedback pass left: what makes the
// exact variant of BAQ better than any single pass.
//
//   FeedbackInput input{...};                 // see gptq.h; with targets
//   FeedbackPass(input);
//   FeedbackSums sums = RefineCodes(input, h, /*sweeps=*/1);
//
// Feedback chooses each code knowing only what was lost before it. A sweep
// revisits every column in the factor's order with all others as they are, and
// takes the code that minimises tr((W−Ŵ)H(W−Ŵ)ᵀ), H damped:
//
//   ŵ_k = quantize( ŵ_k + ((W−Ŵ) H)_k / H_kk )
//
// so the loss cannot rise. One sweep is worth about 6 % of the loss at any bit
// count, on held-out tokens too. It costs R·C² flops, as a pass does, and up to
// 2·C for each of the codes that it changes, 1 to 3 in a hundred.
#ifndef BITWRIGHT_WORKER_QUANT_REFINE_H_
#define BITWRIGHT_WORKER_QUANT_REFINE_H_

#include "worker/quant/gptq.h"
#include "worker/quant/hessian.h"

namespace bitwright::quant {

// `input` as for FeedbackPass, which has filled its codes and its targets; the
// codes are replaced, and the targets mean nothing afterwards. `h` is what the
// factor was made from. Returns the sums of the final codes: column_loss_k = ½
// ‖((W−Ŵ) R)_k‖², which is ½ R_kk² ‖t_k − ŵ_k‖² for the t_k that feedback would
// have asked for, and keeps the identity of math.md §2. Float32, or float64
// when the factor is.
FeedbackSums RefineCodes(const FeedbackInput& input, const HessianView& h,
                         int sweeps);

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_REFINE_H_
