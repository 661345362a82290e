#include <Eigen/Dense>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "worker/quant/ratio_solver.h"

namespace bitwright::quant {
namespace {

using Matrix =
    Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Rng = std::mt19937_64;

std::vector<double> Values(const Matrix& m) {
  return {m.data(), m.data() + m.size()};
}

Matrix Normal(Rng& rng, int64_t rows, int64_t columns) {
  std::normal_distribution<double> normal;
  return Matrix::NullaryExpr(rows, columns, [&] { return normal(rng); });
}

double LeastEigenvalue(const std::vector<double>& m, int64_t n) {
  return Eigen::SelfAdjointEigenSolver<Matrix>(
             Eigen::Map<const Matrix>(m.data(), n, n))
      .eigenvalues()[0];
}

TEST(ProjectToPsd, ClearsNegativeEigenvalues) {
  Rng rng(7);
  for (int64_t n : {1, 2, 5, 35}) {
    const Matrix half = Normal(rng, n, n);
    const Matrix m = (half + half.transpose()) / 2;
    std::vector<double> projected = Values(m);
    ProjectToPsd(n, &projected);
    const double largest = m.cwiseAbs().maxCoeff() * static_cast<double>(n);
    EXPECT_GE(LeastEigenvalue(projected, n), -1e-12 * largest);
    const Eigen::Map<const Matrix> p(projected.data(), n, n);
    EXPECT_EQ(p, Matrix(p.transpose()));
    // The nearest: what is taken away is orthogonal to it, and negative.
    const Matrix removed = p - m;
    EXPECT_NEAR(removed.cwiseProduct(p).sum(), 0, 1e-12 * largest * largest);
    EXPECT_GE(LeastEigenvalue(Values(removed), n), -1e-12 * largest);
    std::vector<double> again = projected;
    ProjectToPsd(n, &again);
    for (size_t i = 0; i < again.size(); ++i) {
      EXPECT_NEAR(again[i], projected[i], 1e-13 * largest);
    }
  }
}

TEST(ProjectToPsd, LeavesAPsdMatrixAsItIs) {
  Rng rng(8);
  for (int64_t rank : {1, 5, 20}) {
    const Matrix half = Normal(rng, 20, rank);
    const Matrix product = half * half.transpose();
    const std::vector<double> m =
        Values(Matrix((product + product.transpose()) / 2));
    std::vector<double> projected = m;
    ProjectToPsd(20, &projected);
    EXPECT_EQ(projected, m) << rank;
  }
}

}  // namespace
}  // namespace bitwright::quant
