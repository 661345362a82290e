#include "worker/quant/output_change.h"

#include <cmath>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/quant/parallel.h"

namespace bitwright::quant {
namespace {

using ::testing::HasSubstr;

std::vector<float> Normal(int64_t n, int seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& v : values) v = normal(random);
  return values;
}

// A vocabulary matrix [vocab, dim] and its Gram matrix.
struct Vocabulary {
  Vocabulary(int64_t rows, int64_t columns, int seed)
      : vocab(rows), dim(columns), v(Normal(rows * columns, seed)) {
    gram.resize(dim * dim);
    for (int64_t t = 0; t < vocab; ++t) {
      for (int64_t i = 0; i < dim; ++i) {
        for (int64_t j = 0; j < dim; ++j) {
          gram[i * dim + j] += double{v[t * dim + i]} * v[t * dim + j];
        }
      }
    }
  }
  // ⟨V a, V b⟩ over all rows of a and b, [n, dim], through the logits.
  double Product(const std::vector<float>& a,
                 const std::vector<float>& b) const {
    double total = 0;
    for (size_t at = 0; at < a.size(); at += dim) {
      for (int64_t t = 0; t < vocab; ++t) {
        double x = 0, y = 0;
        for (int64_t i = 0; i < dim; ++i) {
          x += double{v[t * dim + i]} * a[at + i];
          y += double{v[t * dim + i]} * b[at + i];
        }
        total += x * y;
      }
    }
    return total;
  }
  int64_t vocab, dim;
  std::vector<float> v;
  std::vector<double> gram;
};

OutputChange Changed(const OutputMetric& metric,
                     const std::vector<float>& move) {
  OutputChange change(&metric, move.size() / metric.dim());
  const std::vector<float> before(move.size());
  EXPECT_TRUE(change.Add(before, move).ok());
  return change;
}

// Of sketches one after the other.
std::vector<double> Gram(const std::vector<float>& sketches, int64_t n,
                         double scale) {
  const int64_t size = static_cast<int64_t>(sketches.size()) / n;
  return *GramOf(n, size, scale,
                 [&](int64_t i, int64_t begin, absl::Span<float> out) {
                   std::copy_n(sketches.begin() + i * size + begin, out.size(),
                               out.begin());
                   return absl::OkStatus();
                 });
}

TEST(OutputChangeTest, LengthsAndProductsAreThoseOfTheLogits) {
  const Vocabulary vocabulary(61, 12, 1);
  const auto metric = OutputMetric::Create(vocabulary.gram, 12);
  ASSERT_TRUE(metric.ok()) << metric.status();
  const std::vector<float> a = Normal(9 * 12, 2), b = Normal(9 * 12, 3);
  const OutputChange first = Changed(*metric, a), second = Changed(*metric, b);
  const double aa = vocabulary.Product(a, a), bb = vocabulary.Product(b, b);
  EXPECT_NEAR(first.squared_norm() / aa, 1, 1e-6);
  std::vector<float> sketches = first.Sketch();
  const std::vector<float> other = second.Sketch();
  EXPECT_EQ(sketches.size(), a.size());  // Short enough to be whole.
  sketches.insert(sketches.end(), other.begin(), other.end());
  const std::vector<double> gram = Gram(sketches, 2, 3.0);
  EXPECT_NEAR(gram[0] / (3 * aa), 1, 1e-6);
  EXPECT_NEAR(gram[3] / (3 * bb), 1, 1e-6);
  EXPECT_NEAR(gram[1], 3 * vocabulary.Product(a, b), 1e-5 * gram[0]);
  EXPECT_EQ(gram[1], gram[2]);
}

TEST(OutputChangeTest, FewerTokensThanColumnsInTheVocabulary) {
  const Vocabulary vocabulary(5, 12, 1);  // A singular Gram matrix.
  const auto metric = OutputMetric::Create(vocabulary.gram, 12);
  ASSERT_TRUE(metric.ok()) << metric.status();
  const std::vector<float> a = Normal(7 * 12, 2);
  EXPECT_NEAR(Changed(*metric, a).squared_norm() / vocabulary.Product(a, a), 1,
              1e-5);
}

TEST(OutputChangeTest, SketchesKeepLengthsAndNearlyProducts) {
  const Vocabulary vocabulary(64, 32, 4);
  const auto metric = OutputMetric::Create(vocabulary.gram, 32);
  ASSERT_TRUE(metric.ok()) << metric.status();
  const int64_t size = 4 * OutputChange::kSketchSize;
  const std::vector<float> a = Normal(size, 5);
  std::vector<float> b = Normal(size, 6);
  for (int64_t i = 0; i < size; ++i) b[i] += 0.5f * a[i];
  const OutputChange first = Changed(*metric, a), second = Changed(*metric, b);
  std::vector<float> sketches = first.Sketch();
  const std::vector<float> other = second.Sketch();
  ASSERT_EQ(sketches.size(), OutputChange::kSketchSize);
  sketches.insert(sketches.end(), other.begin(), other.end());
  const std::vector<double> gram = Gram(sketches, 2, 1.0);
  EXPECT_NEAR(gram[0] / first.squared_norm(), 1, 1e-6);
  EXPECT_NEAR(gram[3] / second.squared_norm(), 1, 1e-6);
  const double limit = 5 / std::sqrt(double{OutputChange::kSketchSize});
  EXPECT_NEAR(gram[1] / std::sqrt(gram[0] * gram[3]),
              vocabulary.Product(a, b) / std::sqrt(vocabulary.Product(a, a) *
                                                   vocabulary.Product(b, b)),
              limit);
}

// At the same pieces: a BLAS may sum rows at another place of a matrix in
// another order.
TEST(OutputChangeTest, BytesDoNotDependOnThreads) {
  const Vocabulary vocabulary(40, 16, 4);
  const auto metric = OutputMetric::Create(vocabulary.gram, 16);
  ASSERT_TRUE(metric.ok()) << metric.status();
  const int64_t size = 2 * OutputChange::kSketchSize;
  const std::vector<float> before = Normal(size, 7), after = Normal(size, 8);
  std::vector<float> sketch;
  for (int threads : {1, 2, 3}) {
    SetThreads(threads);
    OutputChange change(&*metric, size / 16);
    const absl::Span<const float> b(before), a(after);
    const size_t cut = 16 * 100;
    ASSERT_TRUE(change.Add(b.subspan(0, cut), a.subspan(0, cut)).ok());
    ASSERT_TRUE(change.Add(b.subspan(cut), a.subspan(cut)).ok());
    if (threads == 1) sketch = change.Sketch();
    EXPECT_EQ(change.Sketch(), sketch) << threads << " threads";
  }
  SetThreads(0);
}

TEST(OutputChangeTest, NoMoveHasAnEmptySketch) {
  const auto metric = OutputMetric::Create({1, 0, 0, 1}, 2);
  ASSERT_TRUE(metric.ok()) << metric.status();
  const OutputChange change = Changed(*metric, {0, 0, 0, 0});
  EXPECT_EQ(change.squared_norm(), 0);
  EXPECT_THAT(change.Sketch(), testing::Each(0));
}

TEST(OutputChangeTest, ErrorsSayWhatIsWrong) {
  EXPECT_THAT(OutputMetric::Create({1, 0, 0}, 2).status().message(),
              HasSubstr("3 values for 2 columns"));
  EXPECT_THAT(OutputMetric::Create({NAN, 0, 0, 1}, 2).status().message(),
              HasSubstr("NaN"));
  EXPECT_THAT(OutputMetric::Create({0, 0, 0, 0}, 2).status().message(),
              HasSubstr("zero"));
  const auto metric = OutputMetric::Create({1, 0, 0, 1}, 2);
  ASSERT_TRUE(metric.ok()) << metric.status();
  OutputChange change(&*metric, 1);
  EXPECT_THAT(change.Add({1, 2, 3, 4}, {1, 2, 3, 4}).message(),
              HasSubstr("where 2 are left"));
  EXPECT_THAT(change.Add({1, 2}, {1, INFINITY}).message(),
              HasSubstr("not a finite number"));
}

}  // namespace
}  // namespace bitwright::quant
