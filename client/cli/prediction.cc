#include "client/cli/prediction.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/console.h"

namespace bitwright {
namespace {

double LogRise(const v1::Prediction& prediction) {
  return std::log10(std::max(prediction.nll_rise(), 1e-12));
}

}  // namespace

int64_t PredictedBytes(const v1::Prediction& prediction) {
  return std::llround(prediction.file_bits_per_weight() *
                      static_cast<double>(prediction.quantized_weights()) / 8);
}

double PredictedPerplexity(const v1::Prediction& prediction) {
  return prediction.calibration_perplexity() * std::exp(prediction.nll_rise());
}

nlohmann::ordered_json PredictionJson(const v1::Prediction& prediction) {
  return {{"bits", prediction.bits()},
          {"code_bits", prediction.code_bits_per_weight()},
          {"file_bits", prediction.file_bits_per_weight()},
          {"bytes", PredictedBytes(prediction)},
          {"loss", prediction.loss()},
          {"weighted_loss", prediction.weighted_loss()},
          {"nll_rise", prediction.nll_rise()},
          {"calibration_perplexity", prediction.calibration_perplexity()},
          {"perplexity", PredictedPerplexity(prediction)}};
}

std::string PredictionText(const v1::Prediction& prediction) {
  return absl::StrFormat(
      "perplexity %s from %s on the calibration set, to second order",
      Significant(PredictedPerplexity(prediction), 4),
      Significant(prediction.calibration_perplexity(), 4));
}

std::string PlotPredictions(const std::vector<v1::Prediction>& predictions,
                            int width, int height) {
  if (predictions.size() < 2 || width < 2 || height < 2) return "";
  double left = predictions[0].file_bits_per_weight(), right = left;
  double bottom = LogRise(predictions[0]), top = bottom;
  for (const v1::Prediction& p : predictions) {
    left = std::min(left, p.file_bits_per_weight());
    right = std::max(right, p.file_bits_per_weight());
    bottom = std::min(bottom, LogRise(p));
    top = std::max(top, LogRise(p));
  }
  const auto place = [](double value, double from, double to, int cells) {
    return to > from ? static_cast<int>(std::lround((value - from) /
                                                    (to - from) * (cells - 1)))
                     : 0;
  };
  std::vector<std::string> lines(height, std::string(width, ' '));
  for (const v1::Prediction& p : predictions) {
    lines[height - 1 - place(LogRise(p), bottom, top, height)]
         [place(p.file_bits_per_weight(), left, right, width)] = '*';
  }
  std::string text = "nats a token\n";
  for (int i = 0; i < height; ++i) {
    const double value = std::pow(10, top - (top - bottom) * i / (height - 1));
    absl::StrAppend(&text, absl::StrFormat("%10s |", Significant(value, 2)),
                    lines[i], "\n");
  }
  const std::string first = absl::StrFormat("%.2f", left);
  const std::string last = absl::StrFormat("%.2f file bits", right);
  const int gap =
      std::max<int>(1, width - static_cast<int>(first.size() + last.size()));
  absl::StrAppend(&text, std::string(10, ' '), " +", std::string(width, '-'),
                  "\n", std::string(12, ' '), first, std::string(gap, ' '),
                  last, "\n");
  return text;
}

}  // namespace bitwright
