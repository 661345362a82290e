#include "worker/runtime/column_losses.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace bitwright {
namespace {

constexpr int kFirstOctave = -8;
constexpr int kOctaves = 13;  // Up to 2^4 times the mean.

// Linear between the two nearest of the sorted values.
double Quantile(const std::vector<double>& sorted, double share) {
  const double at = share * static_cast<double>(sorted.size() - 1);
  const size_t below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  const double rest = at - static_cast<double>(below);
  return sorted[below] * (1 - rest) + sorted[above] * rest;
}

}  // namespace

nlohmann::ordered_json DescribeColumnLosses(absl::Span<const double> losses) {
  std::vector<double> sorted;
  for (double loss : losses) {
    if (loss > 0) sorted.push_back(loss);
  }
  std::sort(sorted.begin(), sorted.end());
  nlohmann::ordered_json out;
  out["columns"] = losses.size();
  out["zero"] = losses.size() - sorted.size();
  if (sorted.empty()) return out;
  const double n = static_cast<double>(sorted.size());
  double sum = 0, log_sum = 0;
  for (double loss : sorted) {
    sum += loss;
    log_sum += std::log(loss);
  }
  const double mean = sum / n, median = Quantile(sorted, 0.5);
  std::vector<int64_t> counts(kOctaves, 0);
  int64_t near = 0;
  for (double loss : sorted) {
    near += loss >= 0.5 * median && loss <= 2 * median;
    const double octave = std::floor(std::log2(loss / mean) + 0.5);
    ++counts[std::clamp(static_cast<int>(octave) - kFirstOctave, 0,
                        kOctaves - 1)];
  }
  out["mean"] = mean;
  out["geometric_mean"] = std::exp(log_sum / n);
  out["min"] = sorted.front();
  out["quartiles"] = {Quantile(sorted, 0.25), median, Quantile(sorted, 0.75)};
  out["max"] = sorted.back();
  out["within_2x_of_median"] = static_cast<double>(near) / n;
  out["octaves"] = {{"first", kFirstOctave}, {"counts", counts}};
  return out;
}

}  // namespace bitwright
