#include "common/checkpoint/native.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/checkpoint/dtype.h"
#include "common/checkpoint/run_codec.h"

namespace bitwright {
namespace {

constexpr int kMaxLevels = 256;
constexpr int64_t kMaxDimension = int64_t{1} << 31;
// No linear has more; a file that says so would exhaust memory.
constexpr int64_t kMaxWeights = int64_t{1} << 33;
constexpr int64_t kTile = 64;

// One codec for each level count in use.
class Codecs {
 public:
  explicit Codecs(absl::Span<const uint16_t> levels) {
    for (uint16_t l : levels) {
      if (codecs_[l] == nullptr) codecs_[l] = std::make_unique<RunCodec>(l);
    }
  }
  const RunCodec& operator[](int levels) const { return *codecs_[levels]; }

 private:
  std::array<std::unique_ptr<RunCodec>, kMaxLevels + 1> codecs_;
};

// Columns in the order of their runs: by levels, then by index.
std::vector<int64_t> RunOrder(absl::Span<const uint16_t> levels) {
  std::vector<int64_t> order(levels.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return levels[a] < levels[b]; });
  return order;
}

// `out` [cols, rows] = transpose of `in` [rows, cols]. By tiles of one cache
// line each way, through a local copy: with strides that are powers of two, the
// lines of a tile would evict one another.
void Transpose(const uint8_t* in, int64_t rows, int64_t cols, uint8_t* out) {
  uint8_t tile[kTile][kTile];
  uint8_t line[kTile];
  for (int64_t r0 = 0; r0 < rows; r0 += kTile) {
    const int64_t height = std::min(kTile, rows - r0);
    for (int64_t c0 = 0; c0 < cols; c0 += kTile) {
      const int64_t width = std::min(kTile, cols - c0);
      for (int64_t r = 0; r < height; ++r) {
        std::memcpy(tile[r], in + (r0 + r) * cols + c0, width);
      }
      for (int64_t c = 0; c < width; ++c) {
        for (int64_t r = 0; r < height; ++r) line[r] = tile[r][c];
        std::memcpy(out + (c0 + c) * rows + r0, line, height);
      }
    }
  }
}

// Everything but the codes' content.
absl::Status CheckParts(const QuantizedLinear& linear) {
  auto error = [](auto... parts) {
    return absl::InvalidArgumentError(absl::StrCat(parts...));
  };
  if (linear.rows < 1 || linear.cols < 1 || linear.rows > kMaxDimension ||
      linear.cols > kMaxDimension || linear.rows * linear.cols > kMaxWeights ||
      linear.group_size < 0 || linear.group_size > kMaxDimension) {
    return error("impossible shape [", linear.rows, ", ", linear.cols,
                 "] with group size ", linear.group_size);
  }
  if (static_cast<int64_t>(linear.levels.size()) != linear.cols) {
    return error("weight_levels has ", linear.levels.size(), " entries for ",
                 linear.cols, " columns");
  }
  const uint64_t ranges = linear.rows * linear.groups();
  if (linear.range_min.size() != ranges || linear.range_max.size() != ranges) {
    return error("weight_min and weight_max have ", linear.range_min.size(),
                 " and ", linear.range_max.size(), " entries; ", linear.rows,
                 " rows of ", linear.groups(), " groups need ", ranges);
  }
  std::array<int64_t, kMaxLevels + 1> columns = {};
  for (int64_t c = 0; c < linear.cols; ++c) {
    if (linear.levels[c] < 1 || linear.levels[c] > kMaxLevels) {
      return error("column ", c, " has ", linear.levels[c],
                   " levels; 1 to 256 are possible");
    }
    ++columns[linear.levels[c]];
  }
  int64_t bytes = 0;
  for (int l = 2; l <= kMaxLevels; ++l) {
    if (columns[l] != 0) bytes += columns[l] * PackedRunBytes(linear.rows, l);
  }
  if (static_cast<int64_t>(linear.codes.size()) != bytes) {
    return error("weight_codes has ", linear.codes.size(),
                 " bytes; the levels and ", linear.rows, " rows need ", bytes);
  }
  for (uint64_t i = 0; i < ranges; ++i) {
    const float low = HalfToFloat(linear.range_min[i]);
    const float high = HalfToFloat(linear.range_max[i]);
    if (!std::isfinite(low) || !std::isfinite(high) || !(low < high)) {
      return error("row ", i / linear.groups(), ", group ", i % linear.groups(),
                   " has the impossible range [", low, ", ", high, "]");
    }
  }
  return absl::OkStatus();
}

// Codes [C, R]: column by column.
absl::StatusOr<std::vector<uint8_t>> UnpackByColumn(
    const QuantizedLinear& linear) {
  BW_RETURN_IF_ERROR(CheckParts(linear));
  std::vector<uint8_t> by_column(linear.rows * linear.cols);
  const Codecs codecs(linear.levels);
  const char* bytes = linear.codes.data();
  for (int64_t c : RunOrder(linear.levels)) {
    const RunCodec& codec = codecs[linear.levels[c]];
    if (!codec.Unpack(bytes, linear.rows, by_column.data() + c * linear.rows)) {
      return absl::DataLossError(
          absl::StrCat("weight_codes of column ", c, " (", linear.levels[c],
                       " levels) holds a code out of range or padding that is "
                       "not zero"));
    }
    bytes += codec.Bytes(linear.rows);
  }
  return by_column;
}

absl::StatusOr<std::vector<uint8_t>> UnpackByRow(
    const QuantizedLinear& linear) {
  BW_ASSIGN_OR_RETURN(std::vector<uint8_t> by_column, UnpackByColumn(linear));
  std::vector<uint8_t> codes(by_column.size());
  Transpose(by_column.data(), linear.cols, linear.rows, codes.data());
  return codes;
}

// Zeroed columns take no bytes, so a small file can ask for much memory.
template <typename F>
auto GuardMemory(const QuantizedLinear& linear, F decode)
    -> decltype(decode()) {
  try {
    return decode();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "not enough memory to decode [", linear.rows, ", ", linear.cols, "]"));
  }
}

// Decodes one row: for each group the scale and zero of each level count in
// it, then one multiplication a weight.
class RowDecoder {
 public:
  explicit RowDecoder(const QuantizedLinear& linear) : linear_(linear) {
    const int64_t size =
        linear.group_size == 0 ? linear.cols : linear.group_size;
    for (int64_t begin = 0; begin < linear.cols; begin += size) {
      Group group{begin, std::min(linear.cols, begin + size), {}};
      std::array<bool, kMaxLevels + 1> seen = {};
      for (int64_t c = group.begin; c < group.end; ++c) {
        const uint16_t levels = linear.levels[c];
        if (levels > 1 && !seen[levels]) group.levels.push_back(levels);
        seen[levels] = true;
      }
      groups_.push_back(std::move(group));
    }
  }

  void Decode(int64_t row, const uint8_t* codes, float* out) {
    for (size_t g = 0; g < groups_.size(); ++g) {
      const int64_t i = row * groups_.size() + g;
      const float low = HalfToFloat(linear_.range_min[i]);
      const float high = HalfToFloat(linear_.range_max[i]);
      for (uint16_t levels : groups_[g].levels) {
        const float scale = (high - low) / static_cast<float>(levels - 1);
        scale_[levels] = scale;
        zero_[levels] = std::nearbyintf(-low / scale);
      }
      for (int64_t c = groups_[g].begin; c < groups_[g].end; ++c) {
        const uint16_t levels = linear_.levels[c];
        out[c] =
            scale_[levels] * (static_cast<float>(codes[c]) - zero_[levels]);
      }
    }
  }

 private:
  struct Group {
    int64_t begin, end;
    std::vector<uint16_t> levels;  // Distinct, without 1.
  };
  const QuantizedLinear& linear_;
  std::vector<Group> groups_;
  // Entry 1 stays 0: zeroed columns.
  std::array<float, kMaxLevels + 1> scale_ = {}, zero_ = {};
};

}  // namespace

double QuantizedLinear::FileBitsPerWeight() const {
  const double bytes = static_cast<double>(codes.size()) + 2.0 * levels.size() +
                       2.0 * (range_min.size() + range_max.size());
  return 8 * bytes / (static_cast<double>(rows) * static_cast<double>(cols));
}

double QuantizedLinear::CodeBitsPerWeight() const {
  std::array<int64_t, kMaxLevels + 1> columns = {};
  for (uint16_t l : levels) ++columns[std::min<int>(l, kMaxLevels)];
  double sum = 0;
  for (int l = 2; l <= kMaxLevels; ++l) sum += columns[l] * std::log2(l);
  return sum / static_cast<double>(levels.size());
}

int64_t PackedRunBytes(int64_t count, int levels) {
  return RunCodec(levels).Bytes(count);
}

void PackRun(absl::Span<const uint8_t> codes, int levels, std::string* out) {
  const RunCodec codec(levels);
  const size_t start = out->size();
  out->resize(start + codec.Bytes(codes.size()));
  codec.Pack(codes.data(), codes.size(), out->data() + start);
}

absl::Status UnpackRun(absl::string_view bytes, int levels,
                       absl::Span<uint8_t> codes) {
  if (levels < 1 || levels > kMaxLevels) {
    return absl::InvalidArgumentError(
        absl::StrCat(levels, " levels; 1 to 256 are possible"));
  }
  const RunCodec codec(levels);
  if (static_cast<int64_t>(bytes.size()) != codec.Bytes(codes.size())) {
    return absl::DataLossError(absl::StrCat(
        bytes.size(), " bytes for a run of ", codes.size(), " codes of ",
        levels, " levels, which takes ", codec.Bytes(codes.size())));
  }
  if (!codec.Unpack(bytes.data(), codes.size(), codes.data())) {
    return absl::DataLossError(
        absl::StrCat("a run of ", levels,
                     " levels holds a code out of range or padding that is "
                     "not zero"));
  }
  return absl::OkStatus();
}

std::string PackCodes(absl::Span<const uint8_t> codes, int64_t rows,
                      absl::Span<const uint16_t> levels) {
  const int64_t cols = levels.size();
  std::vector<uint8_t> by_column(rows * cols);
  Transpose(codes.data(), rows, cols, by_column.data());
  const Codecs codecs(levels);
  int64_t total = 0;
  for (uint16_t l : levels) total += codecs[l].Bytes(rows);
  std::string packed(total, '\0');
  char* out = packed.data();
  for (int64_t c : RunOrder(levels)) {
    const RunCodec& codec = codecs[levels[c]];
    codec.Pack(by_column.data() + c * rows, rows, out);
    out += codec.Bytes(rows);
  }
  return packed;
}

absl::StatusOr<std::vector<uint8_t>> UnpackCodes(
    const QuantizedLinear& linear) {
  return GuardMemory(linear, [&] { return UnpackByRow(linear); });
}

absl::StatusOr<std::vector<float>> Dequantize(const QuantizedLinear& linear) {
  return GuardMemory(linear, [&]() -> absl::StatusOr<std::vector<float>> {
    BW_ASSIGN_OR_RETURN(std::vector<uint8_t> codes, UnpackByRow(linear));
    std::vector<float> weight(codes.size());
    RowDecoder decoder(linear);
    for (int64_t r = 0; r < linear.rows; ++r) {
      decoder.Decode(r, codes.data() + r * linear.cols,
                     weight.data() + r * linear.cols);
    }
    return weight;
  });
}

absl::StatusOr<std::vector<float>> DequantizeAs(DType dtype,
                                                const QuantizedLinear& linear) {
  BW_ASSIGN_OR_RETURN(std::vector<float> weight, Dequantize(linear));
  BW_RETURN_IF_ERROR(RoundTo(dtype, absl::MakeSpan(weight)));
  return weight;
}

}  // namespace bitwright
