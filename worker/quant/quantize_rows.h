// Bits by output row (math.md §4): some rows of a linear have more bits than
// the others, and rows of 16 bits keep their values, in F16.
//
//   QuantizeOptions options{.method = Method::kGptq, .row_bits = bits};
//   BW_ASSIGN_OR_RETURN(QuantizedResult q, QuantizeLinear(problem, options));
//
// Error feedback goes along a row, so that rows do not touch each other: those
// of 16 bits are left out of it. What quantizer.h does about rows is here.
#ifndef BITWRIGHT_WORKER_QUANT_QUANTIZE_ROWS_H_
#define BITWRIGHT_WORKER_QUANT_QUANTIZE_ROWS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/quant/hessian.h"
#include "worker/quant/quantizer.h"

namespace bitwright::quant {

// Bits of a row whose values are kept in F16.
inline constexpr int kF16Bits = 16;

// INVALID_ARGUMENT unless there is one count for each row, each 1..8 or 16.
absl::Status CheckRowBits(absl::Span<const uint8_t> row_bits, int64_t rows);
// And unless the method is gptq.
absl::Status CheckRowBits(const LinearProblem& problem,
                          const QuantizeOptions& options);

bool HasF16Rows(absl::Span<const uint8_t> row_bits);
// 2^bits each; 256 for rows of 16 bits, whose codes mean nothing.
std::vector<uint16_t> RowLevels(absl::Span<const uint8_t> row_bits);

// QuantizeLinear where some rows have 16 bits.
absl::StatusOr<QuantizedResult> QuantizeWithF16Rows(
    const LinearProblem& problem, const QuantizeOptions& options,
    const HessianView& h);

// Sets code_bits and file_bits by row_bits.
void CountRowBits(QuantizedResult& result);
// Puts the rows of 16 bits into `weight` [rows, columns].
void PlaceF16Rows(const QuantizedResult& result, std::vector<float>& weight);

// Bits of the file that a linear takes whose `high_rows` rows have `bits_high`
// bits and the others `bits_normal`, all its tensors together.
int64_t RowBitsFileBits(int64_t rows, int64_t columns, int64_t groups,
                        int64_t high_rows, int bits_normal, int bits_high);

// Codes [rows, columns] on ranges [rows, groups] that were found otherwise.
struct GivenCodes {
  std::vector<float> range_min, range_max;
  std::vector<uint8_t> codes;
};
// Them as QuantizeLinear would have given them, with their losses on the
// problem's Hessian: column_loss is ½ H_jj ‖w_j − ŵ_j‖², as of rounding to
// nearest. INVALID_ARGUMENT for sizes that do not fit, or as in HessianView.
absl::StatusOr<QuantizedResult> DescribeCodes(const LinearProblem& problem,
                                              std::vector<uint8_t> row_bits,
                                              int64_t group_size,
                                              GivenCodes given);

// [rows, columns] rounded to nearest at bits by rows, without any Hessian: what
// a reader of the file would decode. INVALID_ARGUMENT as in QuantizeLinear.
absl::StatusOr<std::vector<float>> RoundRows(
    const float* weight, int64_t rows, int64_t columns, int64_t group_size,
    absl::Span<const uint8_t> row_bits);

}  // namespace bitwright::quant

#endif  // BITWRIGHT_WORKER_QUANT_QUANTIZE_ROWS_H_
