// How evenly the columns of a linear share its loss, small enough for a
// checkpoint's lineage: the equal-loss structure of math.md §3.
//
//   report["column_loss"] = DescribeColumnLosses(result.column_loss);
//
// gives {"columns": 160, "zero": 0, "mean": ..., "geometric_mean": ...,
// "min": ..., "quartiles": [q1, median, q3], "max": ...,
// "within_2x_of_median": 0.94, "octaves": {"first": -8, "counts": [...]}}.
// Columns without any loss (dead ones) are counted by "zero" and are in nothing
// else. counts[i] is how many of the others have loss/mean in
// [2^(e−½), 2^(e+½)) with e = first + i; the outermost take what lies beyond.
// Private to this folder.
#ifndef BITWRIGHT_WORKER_RUNTIME_COLUMN_LOSSES_H_
#define BITWRIGHT_WORKER_RUNTIME_COLUMN_LOSSES_H_

#include "absl/types/span.h"
#include "nlohmann/json.hpp"

namespace bitwright {

// `losses` are finite and not negative. Pure.
nlohmann::ordered_json DescribeColumnLosses(absl::Span<const double> losses);

}  // namespace bitwright

#endif  // BITWRIGHT_WORKER_RUNTIME_COLUMN_LOSSES_H_
