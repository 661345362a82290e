#include "worker/runtime/row_bits.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "common/base/status_macros.h"
#include "worker/quant/ratio_solver.h"
#include "worker/runtime/task_inputs.h"

namespace bitwright {

absl::StatusOr<std::vector<double>> ReadRowScores(const TaskContext& context,
                                                  const LinearSpec& linear) {
  std::vector<double> scores(linear.rows);
  int64_t sequences = 0;
  for (const std::string& name : InputsWithPrefix(*context.action, "fisher.")) {
    BW_ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file,
                        OpenInput(context, name));
    BW_ASSIGN_OR_RETURN(const int64_t count,
                        IntegerOf(*file, name, "sequences"));
    BW_ASSIGN_OR_RETURN(const std::vector<double> sums,
                        ReadDoubles(*file, linear.name, {linear.rows}));
    for (int64_t r = 0; r < linear.rows; ++r) scores[r] += sums[r];
    sequences += count;
  }
  if (sequences == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        linear.name, ": the task has no gradients of any sequence"));
  }
  for (double& score : scores) {
    score /= static_cast<double>(sequences) * static_cast<double>(linear.cols);
    if (std::isfinite(score)) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        linear.name, ": the impact score of a row is not a finite number"));
  }
  return scores;
}

std::vector<uint8_t> RowBits(absl::Span<const double> scores, double ratio,
                             int bits_normal, int bits_high) {
  const int64_t rows = static_cast<int64_t>(scores.size());
  std::vector<int64_t> order(rows);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return scores[a] > scores[b]; });
  std::vector<uint8_t> bits(rows, static_cast<uint8_t>(bits_normal));
  const int64_t high = quant::HighRows(ratio, rows);
  for (int64_t i = 0; i < high; ++i) {
    bits[order[i]] = static_cast<uint8_t>(bits_high);
  }
  return bits;
}

absl::StatusOr<ChosenRows> ReadChosenRows(const TaskContext& context,
                                          const LinearSpec& linear) {
  BW_ASSIGN_OR_RETURN(std::string path, context.inputs->Path("solution"));
  BW_ASSIGN_OR_RETURN(std::string text, ReadFile(path));
  BW_ASSIGN_OR_RETURN(const ChosenRatio ratio,
                      FindInSolution(text, linear.name));
  BW_ASSIGN_OR_RETURN(const std::vector<double> scores,
                      ReadRowScores(context, linear));
  return ChosenRows{
      .ratio = ratio,
      .bits = RowBits(scores, ratio.ratio, ratio.bits_normal, ratio.bits_high)};
}

}  // namespace bitwright
