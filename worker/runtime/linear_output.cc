#include "worker/runtime/linear_output.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/checkpoint/dtype.h"
#include "worker/runtime/column_losses.h"
#include "worker/runtime/lineage.h"

namespace bitwright {
namespace {

QuantizedLinear ToNative(const quant::QuantizedResult& result,
                         int64_t group_size) {
  QuantizedLinear linear;
  linear.rows = result.rows;
  linear.cols = result.columns;
  linear.group_size = group_size;
  linear.levels = result.levels;
  linear.row_bits = result.row_bits;
  auto halves = [](const std::vector<float>& values) {
    std::vector<uint16_t> bits(values.size());
    std::transform(values.begin(), values.end(), bits.begin(), FloatToHalf);
    return bits;
  };
  linear.range_min = halves(result.range_min);
  linear.range_max = halves(result.range_max);
  linear.codes = result.row_bits.empty()
                     ? PackCodes(result.codes, result.rows, result.levels)
                     : PackRowCodes(result.codes, result.columns,
                                    result.row_bits, result.f16_rows);
  return linear;
}

// What a reader of the file decodes must be what the quantizer measured.
absl::Status CheckDecodes(const QuantizedLinear& linear,
                          const quant::QuantizedResult& result,
                          absl::string_view name) {
  BW_ASSIGN_OR_RETURN(std::vector<float> decoded, Dequantize(linear));
  const std::vector<float> expected = quant::DequantizeResult(result);
  if (decoded.size() == expected.size() &&
      std::memcmp(decoded.data(), expected.data(),
                  expected.size() * sizeof(float)) == 0) {
    return absl::OkStatus();
  }
  return absl::InternalError(absl::StrCat(
      name, ": the packed form does not decode to the quantizer's values; ",
      "please report this as a bug"));
}

// How many columns have each level count, or rows each count of bits.
template <typename Count>
nlohmann::ordered_json Histogram(const std::vector<Count>& counts) {
  std::map<int, int64_t> histogram;
  for (const Count count : counts) ++histogram[count];
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  for (const auto& [count, times] : histogram) {
    json[absl::StrCat(count)] = times;
  }
  return json;
}

nlohmann::ordered_json RatioReport(const ChosenRatio& ratio,
                                   const std::vector<uint8_t>& row_bits) {
  return {{"share", ratio.ratio},
          {"high_rows", std::count(row_bits.begin(), row_bits.end(),
                                   static_cast<uint8_t>(ratio.bits_high))},
          {"bits_normal", ratio.bits_normal},
          {"bits_high", ratio.bits_high}};
}

}  // namespace

absl::StatusOr<QuantizedLinear> PackLinear(const std::string& name,
                                           const quant::QuantizedResult& result,
                                           int64_t group_size) {
  QuantizedLinear linear = ToNative(result, group_size);
  BW_RETURN_IF_ERROR(CheckDecodes(linear, result, name));
  return linear;
}

// Everything but the times: blobs are pure.
nlohmann::ordered_json DescribeLinear(const quant::QuantizedResult& result,
                                      const QuantizedLinear& linear,
                                      const Asked& asked, bool has_hessian,
                                      double uniform_loss) {
  nlohmann::ordered_json report;
  report["method"] = std::string(MethodName(asked.method));
  report["loss"] = result.loss;
  // Without a Hessian the loss is ‖W − Ŵ‖², not comparable with the others.
  report["loss_kind"] = has_hessian ? "hessian" : "squared_error";
  report["uniform_loss"] = uniform_loss;
  report["code_bits"] = linear.CodeBitsPerWeight();
  report["file_bits"] = linear.FileBitsPerWeight();
  report["gm_over_am"] = result.gm_over_am;
  report["damping"] = result.factor.damping;
  report["damping_attempts"] = result.factor.attempts;
  report["diagonal_fallback"] = result.factor.diagonal_fallback;
  report["dead_columns"] = result.factor.dead_columns;
  if (asked.ratio.has_value()) {
    report["ratio"] = RatioReport(*asked.ratio, result.row_bits);
    report["row_bits_histogram"] = Histogram(result.row_bits);
  } else {
    report["levels_histogram"] = Histogram(result.levels);
  }
  report["column_loss"] = DescribeColumnLosses(result.column_loss);
  if (!result.uniform_column_loss.empty()) {
    // Of every column in the pass that uniform_loss is of.
    report["uniform_levels"] = result.uniform_levels;
    report["uniform_column_loss"] =
        DescribeColumnLosses(result.uniform_column_loss);
  }
  report["scope"] =
      asked.share.has_value() || asked.ratio.has_value() ? "model" : "layer";
  report["asked_bits"] = asked.bits;
  if (asked.share.has_value()) {
    report["sensitivity"] = asked.share->sensitivity;
    report["predicted_loss"] = asked.share->allocation.loss;
  }
  return report;
}

TaskOutput LinearOutput(std::string output, const std::string& name,
                        const QuantizedLinear& linear,
                        const nlohmann::ordered_json& report) {
  return {.name = std::move(output),
          .bytes = SerializeLinearBlob(
              {.name = name, .linear = linear, .report = report.dump()})};
}

}  // namespace bitwright
