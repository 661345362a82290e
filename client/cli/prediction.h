// What an allocation promises, as people and machines read it.
#ifndef BITWRIGHT_CLIENT_CLI_PREDICTION_H_
#define BITWRIGHT_CLIENT_CLI_PREDICTION_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "bitwright/v1/job.pb.h"

namespace bitwright {

// Of the quantized tensors.
int64_t PredictedBytes(const v1::Prediction& prediction);

// Perplexity on the calibration set, to second order.
double PredictedPerplexity(const v1::Prediction& prediction);

nlohmann::ordered_json PredictionJson(const v1::Prediction& prediction);

// "perplexity 18.02 from 17.54 on the calibration set, to second order".
std::string PredictionText(const v1::Prediction& prediction);

// The rise of the loss over the size, both as predicted, in `height` lines; the
// rise goes by its logarithm. Empty for less than two points.
std::string PlotPredictions(const std::vector<v1::Prediction>& predictions,
                            int width, int height);

}  // namespace bitwright

#endif  // BITWRIGHT_CLIENT_CLI_PREDICTION_H_
