#include "worker/model/rope.h"

#include <algorithm>
#include <cmath>

namespace bitwright::model {
namespace {

constexpr double kPi = 3.14159265358979323846;

std::vector<double> PlainFrequencies(double theta, int64_t head_dim) {
  std::vector<double> frequencies(head_dim / 2);
  for (size_t c = 0; c < frequencies.size(); ++c) {
    frequencies[c] = std::pow(theta, -2.0 * c / head_dim);
  }
  return frequencies;
}

// Waves longer than the original context / low_freq_factor are stretched,
// shorter than context / high_freq_factor kept.
void ScaleLlama3(const RopeScaling& s, std::vector<double>* frequencies) {
  for (double& f : *frequencies) {
    const double turns = s.original_max_position * f / (2 * kPi);
    const double keep =
        s.high_freq_factor > s.low_freq_factor
            ? std::clamp((turns - s.low_freq_factor) /
                             (s.high_freq_factor - s.low_freq_factor),
                         0.0, 1.0)
            : (turns < s.low_freq_factor ? 0.0 : 1.0);
    f *= keep + (1 - keep) / s.factor;
  }
}

// The channel that makes `turns` full turns within the original context.
double YarnChannel(double turns, double theta, int64_t head_dim,
                   double context) {
  return head_dim * std::log(context / (turns * 2 * kPi)) /
         (2 * std::log(theta));
}

void ScaleYarn(const ModelConfig& config, std::vector<double>* frequencies) {
  const RopeScaling& s = config.rope_scaling;
  const double context = s.original_max_position > 0 ? s.original_max_position
                                                     : config.max_position;
  const double low =
      std::max(0.0, std::floor(YarnChannel(s.beta_fast, config.rope_theta,
                                           config.head_dim, context)));
  double high = std::min<double>(
      config.head_dim - 1, std::ceil(YarnChannel(s.beta_slow, config.rope_theta,
                                                 config.head_dim, context)));
  if (high == low) high += 0.001;
  for (size_t c = 0; c < frequencies->size(); ++c) {
    const double stretch = std::clamp((c - low) / (high - low), 0.0, 1.0);
    (*frequencies)[c] *= (1 - stretch) + stretch / s.factor;
  }
}

}  // namespace

std::vector<double> RopeFrequencies(const ModelConfig& config, int64_t seqlen) {
  const RopeScaling& s = config.rope_scaling;
  double theta = config.rope_theta;
  if (s.kind == RopeScaling::Kind::kDynamic && seqlen > config.max_position) {
    const double d = config.head_dim;
    theta *= std::pow(s.factor * seqlen / config.max_position - (s.factor - 1),
                      d / (d - 2));
  }
  std::vector<double> frequencies = PlainFrequencies(theta, config.head_dim);
  switch (s.kind) {
    case RopeScaling::Kind::kNone:
    case RopeScaling::Kind::kDynamic:
      break;
    case RopeScaling::Kind::kLinear:
      for (double& f : frequencies) f /= s.factor;
      break;
    case RopeScaling::Kind::kLlama3:
      ScaleLlama3(s, &frequencies);
      break;
    case RopeScaling::Kind::kYarn:
      ScaleYarn(config, &frequencies);
      break;
  }
  return frequencies;
}

double RopeAttentionFactor(const RopeScaling& scaling) {
  if (scaling.kind != RopeScaling::Kind::kYarn) return 1;
  if (scaling.attention_factor > 0) return scaling.attention_factor;
  return scaling.factor <= 1 ? 1 : 0.1 * std::log(scaling.factor) + 1;
}

RopeTables MakeRopeTables(const ModelConfig& config, int64_t seqlen) {
  const std::vector<double> frequencies = RopeFrequencies(config, seqlen);
  const double factor = RopeAttentionFactor(config.rope_scaling);
  RopeTables tables;
  tables.seqlen = seqlen;
  tables.half = static_cast<int64_t>(frequencies.size());
  tables.cos.resize(seqlen * tables.half);
  tables.sin.resize(seqlen * tables.half);
  for (int64_t p = 0; p < seqlen; ++p) {
    for (int64_t c = 0; c < tables.half; ++c) {
      const float angle =
          static_cast<float>(p) * static_cast<float>(frequencies[c]);
      const double exact = angle;
      tables.cos[p * tables.half + c] =
          static_cast<float>(std::cos(exact) * factor);
      tables.sin[p * tables.half + c] =
          static_cast<float>(std::sin(exact) * factor);
    }
  }
  return tables;
}

}  // namespace bitwright::model
