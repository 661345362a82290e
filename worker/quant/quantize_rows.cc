#include "worker/quant/quantize_rows.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "worker/quant/gptq.h"
#include "worker/quant/grid.h"
#include "worker/quant/parallel.h"

namespace bitwright::quant {
namespace {

constexpr int kMaxCodeBits = 8;

// A row's bits in the file: its count, its ranges, its run of codes.
int64_t RowFileBits(int64_t columns, int64_t groups, int bits) {
  constexpr int64_t kByte = 8, kRange = 32;
  return kByte + kRange * groups + kByte * ((columns * bits + 7) / kByte);
}

// The rows that have codes, as a problem of their own.
struct CodedRows {
  std::vector<int64_t> rows;
  std::vector<float> weight;
  std::vector<uint8_t> bits;
};

CodedRows PickCodedRows(const LinearProblem& problem,
                        absl::Span<const uint8_t> row_bits) {
  CodedRows picked;
  for (int64_t r = 0; r < problem.rows; ++r) {
    if (row_bits[r] == kF16Bits) continue;
    const float* row = problem.weight + r * problem.columns;
    picked.rows.push_back(r);
    picked.bits.push_back(row_bits[r]);
    picked.weight.insert(picked.weight.end(), row, row + problem.columns);
  }
  return picked;
}

// The rows of 16 bits.
std::vector<float> PickF16Rows(const LinearProblem& problem,
                               absl::Span<const uint8_t> row_bits) {
  std::vector<float> kept;
  for (int64_t r = 0; r < problem.rows; ++r) {
    if (row_bits[r] != kF16Bits) continue;
    const float* row = problem.weight + r * problem.columns;
    kept.insert(kept.end(), row, row + problem.columns);
  }
  return kept;
}

std::vector<float> RoundAllToF16(std::vector<float> values) {
  std::transform(values.begin(), values.end(), values.begin(), RoundToF16);
  return values;
}

// Moves the coded rows of `part` to their places in all rows.
void Scatter(const CodedRows& coded, QuantizedResult part,
             QuantizedResult& out) {
  for (size_t i = 0; i < coded.rows.size(); ++i) {
    const int64_t at = static_cast<int64_t>(i);
    std::copy_n(part.codes.begin() + at * out.columns, out.columns,
                out.codes.begin() + coded.rows[i] * out.columns);
    std::copy_n(part.range_min.begin() + at * out.groups, out.groups,
                out.range_min.begin() + coded.rows[i] * out.groups);
    std::copy_n(part.range_max.begin() + at * out.groups, out.groups,
                out.range_max.begin() + coded.rows[i] * out.groups);
  }
  out.order = std::move(part.order);
  out.column_loss = std::move(part.column_loss);
  out.loss += part.loss;
  out.factor = part.factor;
  out.seconds = part.seconds;
}

}  // namespace

absl::Status CheckRowBits(absl::Span<const uint8_t> row_bits, int64_t rows) {
  if (static_cast<int64_t>(row_bits.size()) != rows) {
    return absl::InvalidArgumentError(
        absl::StrCat(row_bits.size(), " row bits for ", rows, " rows"));
  }
  for (size_t r = 0; r < row_bits.size(); ++r) {
    const int bits = row_bits[r];
    if (bits == kF16Bits || (bits >= 1 && bits <= kMaxCodeBits)) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "row ", r, " has ", bits, " bits; 1 to 8 and 16 are possible"));
  }
  return absl::OkStatus();
}

absl::Status CheckRowBits(const LinearProblem& problem,
                          const QuantizeOptions& options) {
  if (options.method != Method::kGptq) {
    return absl::InvalidArgumentError("bits by rows are for gptq only");
  }
  return CheckRowBits(options.row_bits, problem.rows);
}

bool HasF16Rows(absl::Span<const uint8_t> row_bits) {
  return std::find(row_bits.begin(), row_bits.end(), kF16Bits) !=
         row_bits.end();
}

std::vector<uint16_t> RowLevels(absl::Span<const uint8_t> row_bits) {
  std::vector<uint16_t> levels;
  for (const int bits : row_bits) {
    levels.push_back(static_cast<uint16_t>(1 << std::min(bits, kMaxCodeBits)));
  }
  return levels;
}

absl::StatusOr<QuantizedResult> QuantizeWithF16Rows(
    const LinearProblem& problem, const QuantizeOptions& options,
    const HessianView& h) {
  QuantizedResult out;
  BW_ASSIGN_OR_RETURN(
      Grid grid,
      MakeGrid(problem.weight, problem.rows, problem.columns,
               {.group_size = options.group_size, .f16 = options.f16_ranges}));
  out.rows = problem.rows;
  out.columns = problem.columns;
  out.group_size = grid.group_size;
  out.groups = grid.groups;
  out.range_min = std::move(grid.min);
  out.range_max = std::move(grid.max);
  out.codes.assign(problem.rows * problem.columns, 0);
  out.row_bits = options.row_bits;
  out.column_loss.assign(problem.columns, 0);
  out.order.resize(problem.columns);
  std::iota(out.order.begin(), out.order.end(), 0);
  const std::vector<float> kept = PickF16Rows(problem, options.row_bits);
  out.f16_rows = RoundAllToF16(kept);
  out.loss = QuadraticLoss(kept.data(), out.f16_rows.data(),
                           static_cast<int64_t>(kept.size()) / out.columns, h);
  if (CodedRows coded = PickCodedRows(problem, options.row_bits);
      !coded.rows.empty()) {
    LinearProblem rest = problem;
    rest.weight = coded.weight.data();
    rest.rows = static_cast<int64_t>(coded.rows.size());
    QuantizeOptions of_rest = options;
    of_rest.row_bits = coded.bits;
    BW_ASSIGN_OR_RETURN(QuantizedResult part, QuantizeLinear(rest, of_rest));
    Scatter(coded, std::move(part), out);
  }
  CountRowBits(out);
  return out;
}

void CountRowBits(QuantizedResult& result) {
  int64_t codes = 0, file = 0;
  for (const int bits : result.row_bits) {
    codes += bits * result.columns + 1;
    file += RowFileBits(result.columns, result.groups, bits);
  }
  const double weights = static_cast<double>(result.rows * result.columns);
  result.code_bits = static_cast<double>(codes) / weights;
  result.file_bits = static_cast<double>(file) / weights;
}

void PlaceF16Rows(const QuantizedResult& result, std::vector<float>& weight) {
  auto from = result.f16_rows.begin();
  for (size_t r = 0; r < result.row_bits.size(); ++r) {
    if (result.row_bits[r] != kF16Bits) continue;
    std::copy_n(from, result.columns, weight.begin() + r * result.columns);
    from += result.columns;
  }
}

int64_t RowBitsFileBits(int64_t rows, int64_t columns, int64_t groups,
                        int64_t high_rows, int bits_normal, int bits_high) {
  return (rows - high_rows) * RowFileBits(columns, groups, bits_normal) +
         high_rows * RowFileBits(columns, groups, bits_high);
}

absl::StatusOr<QuantizedResult> DescribeCodes(const LinearProblem& problem,
                                              std::vector<uint8_t> row_bits,
                                              int64_t group_size,
                                              GivenCodes given) {
  BW_RETURN_IF_ERROR(CheckRowBits(row_bits, problem.rows));
  BW_ASSIGN_OR_RETURN(const HessianView h,
                      HessianView::Create(problem.hessian, problem.columns));
  QuantizedResult out;
  out.rows = problem.rows;
  out.columns = problem.columns;
  out.group_size = group_size > 0 ? group_size : problem.columns;
  out.groups = (problem.columns + out.group_size - 1) / out.group_size;
  const size_t ranges = static_cast<size_t>(problem.rows * out.groups);
  if (given.range_min.size() != ranges || given.range_max.size() != ranges ||
      given.codes.size() != static_cast<size_t>(out.rows * out.columns)) {
    return absl::InvalidArgumentError(
        absl::StrCat(given.codes.size(), " codes on ", given.range_min.size(),
                     " ranges for [", out.rows, ", ", out.columns, "] with ",
                     out.groups, " ranges a row"));
  }
  out.row_bits = std::move(row_bits);
  out.range_min = std::move(given.range_min);
  out.range_max = std::move(given.range_max);
  out.codes = std::move(given.codes);
  out.order.resize(out.columns);
  std::iota(out.order.begin(), out.order.end(), 0);
  out.f16_rows = RoundAllToF16(PickF16Rows(problem, out.row_bits));
  CountRowBits(out);
  const std::vector<float> decoded = DequantizeResult(out);
  out.loss = QuadraticLoss(problem.weight, decoded.data(), out.rows, h);
  out.column_loss.assign(out.columns, 0);
  for (int64_t i = 0; i < out.rows * out.columns; ++i) {
    const double error = static_cast<double>(problem.weight[i]) - decoded[i];
    const int64_t j = i % out.columns;
    out.column_loss[j] += 0.5 * h.At(j, j) * error * error;
  }
  return out;
}

absl::StatusOr<std::vector<float>> RoundRows(
    const float* weight, int64_t rows, int64_t columns, int64_t group_size,
    absl::Span<const uint8_t> row_bits) {
  BW_RETURN_IF_ERROR(CheckRowBits(row_bits, rows));
  const std::vector<uint16_t> levels = RowLevels(row_bits);
  BW_ASSIGN_OR_RETURN(
      const Grid grid,
      MakeGrid(weight, rows, columns,
               {.group_size = group_size, .row_levels = levels, .f16 = true}));
  std::vector<float> out(rows * columns);
  ParallelFor(rows, [&](int64_t r) {
    for (int64_t j = 0; j < columns; ++j) {
      const float w = weight[r * columns + j];
      const int64_t g = grid.GroupOf(j);
      const GridPoint p =
          MakeGridPoint(grid.Min(r, g), grid.Max(r, g), levels[r]);
      out[r * columns + j] =
          row_bits[r] == kF16Bits ? RoundToF16(w) : Decode(Encode(w, p), p);
    }
  });
  return out;
}

}  // namespace bitwright::quant
