// ProjectToPsd of ratio_solver.h.
#include <Eigen/Dense>
#include <cstdint>
#include <limits>
#include <vector>

#include "worker/quant/ratio_solver.h"

namespace bitwright::quant {

void ProjectToPsd(int64_t n, std::vector<double>* m) {
  if (n == 0) return;
  using Matrix =
      Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  Eigen::Map<Matrix> mapped(m->data(), n, n);
  // Of a symmetric matrix, itself.
  const Matrix symmetric = (mapped + mapped.transpose()) / 2;
  mapped = symmetric;
  const Eigen::SelfAdjointEigenSolver<Matrix> solver(symmetric);
  const Eigen::VectorXd& values = solver.eigenvalues();  // ascending
  const double rounding = static_cast<double>(n) *
                          std::numeric_limits<double>::epsilon() *
                          values.cwiseAbs().maxCoeff();
  if (values[0] >= -rounding) return;
  const Matrix& vectors = solver.eigenvectors();
  const Matrix nearest =
      vectors * values.cwiseMax(0).asDiagonal() * vectors.transpose();
  mapped = (nearest + nearest.transpose()) / 2;
}

}  // namespace bitwright::quant
