// Which rows of a linear get the higher bits (math.md §4): those with the
// greatest impact score, the mean of the row's empirical Fisher diagonal.
//
//   BW_ASSIGN_OR_RETURN(std::vector<double> scores,
//                       ReadRowScores(context, linear));
//   std::vector<uint8_t> bits = RowBits(scores, /*ratio=*/0.05, 2, 3);
//
// Private to this folder.
#ifndef BITWRIGHT_WORKER_RUNTIME_ROW_BITS_H_
#define BITWRIGHT_WORKER_RUNTIME_ROW_BITS_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/checkpoint/model_config.h"
#include "worker/runtime/executor.h"
#include "worker/runtime/solution_blob.h"

namespace bitwright {

// [rows] from the inputs "fisher.0000"..., added in shard order.
// INVALID_ARGUMENT when there are none, or one is not a finite number.
absl::StatusOr<std::vector<double>> ReadRowScores(const TaskContext& context,
                                                  const LinearSpec& linear);

// `bits_high` for the round(ratio · rows) rows of the greatest scores, of equal
// ones the first; `bits_normal` for the others.
std::vector<uint8_t> RowBits(absl::Span<const double> scores, double ratio,
                             int bits_normal, int bits_high);

// What the input "solution" gives a linear.
struct ChosenRows {
  ChosenRatio ratio;
  std::vector<uint8_t> bits;  // [rows]
};
absl::StatusOr<ChosenRows> ReadChosenRows(const TaskContext& context,
                                          const LinearSpec& linear);

}  // namespace bitwright

#endif  // BITWRIGHT_WORKER_RUNTIME_ROW_BITS_H_
