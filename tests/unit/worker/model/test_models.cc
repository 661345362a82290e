#include "tests/unit/worker/model/test_models.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <random>
#include <utility>

#include "common/base/file.h"
#include "common/checkpoint/safetensors.h"
#include "worker/quant/parallel.h"

namespace bitwright::model {
namespace {

Matrix Plus(Matrix a, const Matrix& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    for (size_t j = 0; j < a[i].size(); ++j) a[i][j] += b[i][j];
  }
  return a;
}

// One block's weights, and the arithmetic that uses them.
class Layer {
 public:
  Layer(const ModelDirectory& directory, int64_t block, const Weights& weights)
      : directory_(directory),
        config_(directory.config()),
        weights_(weights),
        prefix_(config_.name_prefix + "layers." + std::to_string(block) + ".") {
  }

  bool opt() const { return config_.family == ModelFamily::kOpt; }

  Matrix Linear(const std::string& name, const Matrix& x) const {
    const std::string full = prefix_ + name;
    auto it = weights_.find(full);
    const std::vector<float> w =
        it != weights_.end() ? it->second
                             : Must(directory_.ReadFloats(full + ".weight"));
    const size_t cols = x[0].size(), rows = w.size() / cols;
    std::vector<float> bias(rows, 0.0f);
    if (opt()) bias = Must(directory_.ReadFloats(full + ".bias"));
    Matrix y(x.size(), std::vector<double>(rows));
    for (size_t t = 0; t < x.size(); ++t) {
      for (size_t r = 0; r < rows; ++r) {
        double sum = bias[r];
        for (size_t c = 0; c < cols; ++c)
          sum += double{w[r * cols + c]} * x[t][c];
        y[t][r] = sum;
      }
    }
    return y;
  }

  Matrix Norm(const std::string& name, Matrix x) const {
    const auto weight = Must(directory_.ReadFloats(prefix_ + name + ".weight"));
    std::vector<float> bias(weight.size(), 0.0f);
    if (opt()) bias = Must(directory_.ReadFloats(prefix_ + name + ".bias"));
    const double n = static_cast<double>(weight.size());
    for (auto& row : x) {
      double mean = 0, square = 0;
      if (opt()) {
        for (double v : row) mean += v / n;
      }
      for (double v : row) square += (v - mean) * (v - mean) / n;
      const double scale = 1 / std::sqrt(square + config_.norm_eps);
      for (size_t j = 0; j < row.size(); ++j) {
        row[j] = (row[j] - mean) * scale * weight[j] + bias[j];
      }
    }
    return x;
  }

  void Rope(Matrix* x) const {
    const int64_t dim = config_.head_dim, half = dim / 2;
    for (size_t t = 0; t < x->size(); ++t) {
      auto& row = (*x)[t];
      for (size_t h = 0; h < row.size() / dim; ++h) {
        for (int64_t c = 0; c < half; ++c) {
          const double angle = t * std::pow(config_.rope_theta, -2.0 * c / dim);
          double &a = row[h * dim + c], &b = row[h * dim + c + half];
          const double turned = a * std::cos(angle) - b * std::sin(angle);
          b = b * std::cos(angle) + a * std::sin(angle);
          a = turned;
        }
      }
    }
  }

  Matrix Attend(const Matrix& q, const Matrix& k, const Matrix& v) const {
    const int64_t dim = config_.head_dim;
    const int64_t group = config_.num_heads / config_.num_kv_heads;
    Matrix out(q.size(), std::vector<double>(q[0].size(), 0.0));
    for (size_t t = 0; t < q.size(); ++t) {
      for (int64_t h = 0; h < config_.num_heads; ++h) {
        const int64_t g = h / group;
        const size_t window = config_.sliding_window;
        const size_t first = window > 0 && t >= window ? t - window + 1 : 0;
        std::vector<double> p(t + 1 - first);
        for (size_t s = first; s <= t; ++s) {
          for (int64_t c = 0; c < dim; ++c) {
            p[s - first] +=
                q[t][h * dim + c] * k[s][g * dim + c] / std::sqrt(dim);
          }
        }
        const double top = *std::max_element(p.begin(), p.end());
        double total = 0;
        for (double& value : p) total += value = std::exp(value - top);
        for (size_t s = first; s <= t; ++s) {
          for (int64_t c = 0; c < dim; ++c) {
            out[t][h * dim + c] += p[s - first] / total * v[s][g * dim + c];
          }
        }
      }
    }
    return out;
  }

  // What the last linear of the block reads.
  Matrix Activate(const Matrix& x) const {
    if (opt()) {
      Matrix y = Linear("fc1", x);
      for (auto& row : y) {
        for (double& value : row) value = std::max(value, 0.0);
      }
      return y;
    }
    Matrix y = Linear("mlp.gate_proj", x);
    const Matrix up = Linear("mlp.up_proj", x);
    for (size_t t = 0; t < y.size(); ++t) {
      for (size_t j = 0; j < y[t].size(); ++j) {
        y[t][j] *= up[t][j] / (1 + std::exp(-y[t][j]));
      }
    }
    return y;
  }

 private:
  const ModelDirectory& directory_;
  const ModelConfig& config_;
  const Weights& weights_;
  std::string prefix_;
};

}  // namespace

std::string FixturePath(const std::string& name) {
  const char* root = std::getenv("BITWRIGHT_SOURCE_DIR");
  return std::string(root == nullptr ? "." : root) +
         "/tests/unit/worker/model/fixtures/" + name;
}

ScopedThreads::ScopedThreads(int threads) { quant::SetThreads(threads); }
ScopedThreads::~ScopedThreads() { quant::SetThreads(0); }

LoadedModel::LoadedModel(const std::string& path, const std::string& device)
    : directory(Must(ModelDirectory::Open(path))),
      model(Must(DecoderModel::Open(directory.get(), device))) {}

Fixture::Fixture(const std::string& name)
    : directory(Must(ModelDirectory::Open(FixturePath(name)))),
      model(Must(DecoderModel::Open(directory.get(), "cpu"))) {
  auto file = Must(SafetensorsFile::Open(FixturePath(name) + ".safetensors"));
  for (int64_t id : Must(file->ReadIntegers("tokens"))) {
    tokens.push_back(static_cast<int32_t>(id));
  }
  const auto& shape = Must(file->Require("logits"))->shape;
  sequences = shape[0];
  seqlen = shape[1];
  logits = Must(file->ReadFloats("logits", shape));
}

HiddenStates Fixture::Embed() const {
  return Must(model->Embed(tokens, sequences, seqlen));
}

void WriteRandomLlama(const std::string& directory, int64_t vocab_size,
                      int64_t width, int64_t blocks) {
  const std::string config =
      "{\"model_type\": \"llama\", \"vocab_size\": " +
      std::to_string(vocab_size) +
      ", \"hidden_size\": " + std::to_string(width) +
      ", \"num_hidden_layers\": " + std::to_string(blocks) +
      ", \"intermediate_size\": 12, "
      "\"num_attention_heads\": 2, \"max_position_embeddings\": 64, "
      "\"rms_norm_eps\": 1e-5}";
  std::mt19937 random(7);
  std::vector<Tensor> tensors;
  for (const ExpectedTensor& t :
       ExpectedTensors(Must(ParseModelConfig(config, "config.json")))) {
    if (t.optional) continue;
    int64_t size = 1;
    for (int64_t d : t.shape) size *= d;
    std::vector<float> values(size, 1.0f);
    for (float& v : values) {
      if (t.shape.size() == 2) v = (random() % 2001) / 1000.0f - 1;
    }
    tensors.push_back(FloatTensor(t.name, t.shape, values));
  }
  EXPECT_TRUE(WriteFileAtomically(directory + "/config.json", config).ok());
  EXPECT_TRUE(WriteFileAtomically(directory + "/model.safetensors",
                                  SerializeSafetensors(tensors))
                  .ok());
}

ReferenceBlock::ReferenceBlock(const ModelDirectory& directory, int64_t block,
                               const Weights& weights, const float* x,
                               int64_t seqlen) {
  const Layer layer(directory, block, weights);
  const int64_t width = directory.config().hidden_size;
  Matrix in(seqlen);
  for (int64_t t = 0; t < seqlen; ++t) {
    in[t].assign(x + t * width, x + (t + 1) * width);
  }
  const bool opt = layer.opt();
  Matrix& attn_in = inputs["attn_in"];
  attn_in = layer.Norm(opt ? "self_attn_layer_norm" : "input_layernorm", in);
  Matrix q = layer.Linear("self_attn.q_proj", attn_in);
  Matrix k = layer.Linear("self_attn.k_proj", attn_in);
  if (!opt) {
    layer.Rope(&q);
    layer.Rope(&k);
  }
  inputs["attn_out"] =
      layer.Attend(q, k, layer.Linear("self_attn.v_proj", attn_in));
  const Matrix middle =
      Plus(in, layer.Linear(opt ? "self_attn.out_proj" : "self_attn.o_proj",
                            inputs["attn_out"]));
  Matrix& mlp_in = inputs["mlp_in"];
  mlp_in =
      layer.Norm(opt ? "final_layer_norm" : "post_attention_layernorm", middle);
  inputs["mlp_out"] = layer.Activate(mlp_in);
  output = Plus(middle,
                layer.Linear(opt ? "fc2" : "mlp.down_proj", inputs["mlp_out"]));
}

void AddOuterProducts(const Matrix& x, std::vector<double>* packed) {
  const size_t cols = x[0].size();
  packed->resize(cols * (cols + 1) / 2, 0.0);
  for (const auto& row : x) {
    for (size_t i = 0; i < cols; ++i) {
      for (size_t j = 0; j <= i; ++j) {
        (*packed)[i * (i + 1) / 2 + j] += row[i] * row[j];
      }
    }
  }
}

}  // namespace bitwright::model
