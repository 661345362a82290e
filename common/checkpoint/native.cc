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
constexpr int kMaxCodeBits = 8;
// In place of the levels of a run that holds F16 values.
constexpr int kF16Run = kMaxLevels + 1;
constexpr int64_t kMaxDimension = int64_t{1} << 31;
// No linear has more; a file that says so would exhaust memory.
constexpr int64_t kMaxWeights = int64_t{1} << 33;
constexpr int64_t kTile = 64;

// The levels of every run: of columns as they are, of rows by their bits.
std::vector<uint16_t> RunLevels(absl::Span<const uint8_t> row_bits) {
  std::vector<uint16_t> levels(row_bits.size());
  std::transform(
      row_bits.begin(), row_bits.end(), levels.begin(),
      [](int bits) { return bits == kF16RowBits ? kF16Run : 1 << bits; });
  return levels;
}

int64_t RunBytes(int64_t count, int levels) {
  if (levels == kF16Run) return count * sizeof(uint16_t);
  return RunCodec(levels).Bytes(count);
}

// One codec for each level count in use.
class Codecs {
 public:
  explicit Codecs(absl::Span<const uint16_t> levels) {
    for (uint16_t l : levels) {
      if (l != kF16Run && codecs_[l] == nullptr) {
        codecs_[l] = std::make_unique<RunCodec>(l);
      }
    }
  }
  const RunCodec& operator[](int levels) const { return *codecs_[levels]; }

 private:
  std::array<std::unique_ptr<RunCodec>, kMaxLevels + 1> codecs_;
};

// Runs in the order of the file: by levels, then by index.
std::vector<int64_t> RunOrder(absl::Span<const uint16_t> levels) {
  std::vector<int64_t> order(levels.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return levels[a] < levels[b]; });
  return order;
}

// Bytes of all runs, of `length` codes each.
int64_t TotalBytes(absl::Span<const uint16_t> levels, int64_t length) {
  std::array<int64_t, kF16Run + 1> runs = {};
  for (uint16_t l : levels) ++runs[l];
  int64_t bytes = 0;
  for (int l = 2; l <= kF16Run; ++l) {
    if (runs[l] != 0) bytes += runs[l] * RunBytes(length, l);
  }
  return bytes;
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

template <typename... Parts>
absl::Status Impossible(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

// That there are levels by columns or bits by rows, as many as needed.
absl::Status CheckLevels(const QuantizedLinear& linear) {
  if (linear.levels.empty() == linear.row_bits.empty()) {
    return Impossible("weight_levels and weight_row_bits are both ",
                      linear.levels.empty() ? "empty" : "there",
                      "; one of them is expected");
  }
  if (linear.runs() == CodeRuns::kRows) {
    if (static_cast<int64_t>(linear.row_bits.size()) != linear.rows) {
      return Impossible("weight_row_bits has ", linear.row_bits.size(),
                        " entries for ", linear.rows, " rows");
    }
    for (int64_t r = 0; r < linear.rows; ++r) {
      const int bits = linear.row_bits[r];
      if (bits == kF16RowBits || (bits >= 1 && bits <= kMaxCodeBits)) continue;
      return Impossible("weight_row_bits: row ", r, " has ", bits,
                        " bits; 1 to 8 and 16 are possible");
    }
    return absl::OkStatus();
  }
  if (static_cast<int64_t>(linear.levels.size()) != linear.cols) {
    return Impossible("weight_levels has ", linear.levels.size(),
                      " entries for ", linear.cols, " columns");
  }
  for (int64_t c = 0; c < linear.cols; ++c) {
    if (linear.levels[c] >= 1 && linear.levels[c] <= kMaxLevels) continue;
    return Impossible("column ", c, " has ", linear.levels[c],
                      " levels; 1 to 256 are possible");
  }
  return absl::OkStatus();
}

// The runs of a linear's codes, checked but for their content.
struct Runs {
  std::vector<uint16_t> levels;  // Of each; kF16Run for F16 values.
  int64_t length = 0;            // Codes in each.
};

absl::StatusOr<Runs> CheckedRuns(const QuantizedLinear& linear) {
  if (linear.rows < 1 || linear.cols < 1 || linear.rows > kMaxDimension ||
      linear.cols > kMaxDimension || linear.rows * linear.cols > kMaxWeights ||
      linear.group_size < 0 || linear.group_size > kMaxDimension) {
    return Impossible("impossible shape [", linear.rows, ", ", linear.cols,
                      "] with group size ", linear.group_size);
  }
  const uint64_t ranges = linear.rows * linear.groups();
  if (linear.range_min.size() != ranges || linear.range_max.size() != ranges) {
    return Impossible("weight_min and weight_max have ",
                      linear.range_min.size(), " and ", linear.range_max.size(),
                      " entries; ", linear.rows, " rows of ", linear.groups(),
                      " groups need ", ranges);
  }
  BW_RETURN_IF_ERROR(CheckLevels(linear));
  const bool by_row = linear.runs() == CodeRuns::kRows;
  Runs runs{by_row ? RunLevels(linear.row_bits) : linear.levels,
            by_row ? linear.cols : linear.rows};
  const int64_t bytes = TotalBytes(runs.levels, runs.length);
  if (static_cast<int64_t>(linear.codes.size()) != bytes) {
    return Impossible("weight_codes has ", linear.codes.size(), " bytes; the ",
                      by_row ? "row bits" : "levels", " and ", runs.length,
                      by_row ? " columns" : " rows", " need ", bytes);
  }
  for (uint64_t i = 0; i < ranges; ++i) {
    const float low = HalfToFloat(linear.range_min[i]);
    const float high = HalfToFloat(linear.range_max[i]);
    if (!std::isfinite(low) || !std::isfinite(high) || !(low < high)) {
      return Impossible("row ", i / linear.groups(), ", group ",
                        i % linear.groups(), " has the impossible range [", low,
                        ", ", high, "]");
    }
  }
  return runs;
}

uint16_t HalfAt(absl::string_view halves, int64_t i) {
  uint16_t half;
  std::memcpy(&half, halves.data() + i * sizeof(half), sizeof(half));
  return half;
}

absl::Status CheckHalves(absl::string_view halves, int64_t row) {
  for (size_t i = 0; i < halves.size() / sizeof(uint16_t); ++i) {
    const float value = HalfToFloat(HalfAt(halves, i));
    if (std::isfinite(value)) continue;
    return absl::DataLossError(absl::StrCat("weight_codes of row ", row,
                                            " (16 bits) holds ", value,
                                            " at column ", i));
  }
  return absl::OkStatus();
}

// What the runs hold.
struct Unpacked {
  std::vector<uint8_t> codes;  // [runs, length]; 0 in runs of F16 values
  // [runs] if these are rows: the F16 values of those that hold such; borrowed
  // from the linear.
  std::vector<absl::string_view> halves;
};

absl::StatusOr<Unpacked> UnpackRuns(const QuantizedLinear& linear) {
  BW_ASSIGN_OR_RETURN(const Runs runs, CheckedRuns(linear));
  const bool by_row = linear.runs() == CodeRuns::kRows;
  Unpacked out;
  out.codes.resize(linear.rows * linear.cols);
  if (by_row) out.halves.resize(linear.rows);
  const Codecs codecs(runs.levels);
  const char* bytes = linear.codes.data();
  for (int64_t i : RunOrder(runs.levels)) {
    const int levels = runs.levels[i];
    if (levels == kF16Run) {
      out.halves[i] = {bytes, runs.length * sizeof(uint16_t)};
      BW_RETURN_IF_ERROR(CheckHalves(out.halves[i], i));
      bytes += out.halves[i].size();
      continue;
    }
    const RunCodec& codec = codecs[levels];
    if (!codec.Unpack(bytes, runs.length, out.codes.data() + i * runs.length)) {
      return absl::DataLossError(absl::StrCat(
          "weight_codes of ", by_row ? "row " : "column ", i, " (",
          by_row ? linear.row_bits[i] : levels, by_row ? " bits" : " levels",
          ") holds a code out of range or padding that is not zero"));
    }
    bytes += codec.Bytes(runs.length);
  }
  return out;
}

// The codes row by row.
absl::StatusOr<Unpacked> UnpackByRow(const QuantizedLinear& linear) {
  BW_ASSIGN_OR_RETURN(Unpacked unpacked, UnpackRuns(linear));
  if (linear.runs() == CodeRuns::kRows) return unpacked;
  std::vector<uint8_t> codes(unpacked.codes.size());
  Transpose(unpacked.codes.data(), linear.cols, linear.rows, codes.data());
  unpacked.codes = std::move(codes);
  return unpacked;
}

// All runs, of `length` codes each, one after the other: [runs, length].
// f16_runs as f16_rows of PackRowCodes.
std::string PackRuns(const uint8_t* codes, absl::Span<const uint16_t> levels,
                     int64_t length, const float* f16_runs) {
  const Codecs codecs(levels);
  std::string packed(TotalBytes(levels, length), '\0');
  char* out = packed.data();
  for (int64_t i : RunOrder(levels)) {
    if (levels[i] == kF16Run) {
      for (int64_t j = 0; j < length; ++j, out += sizeof(uint16_t)) {
        const uint16_t half = FloatToHalf(*f16_runs++);
        std::memcpy(out, &half, sizeof(half));
      }
      continue;
    }
    const RunCodec& codec = codecs[levels[i]];
    codec.Pack(codes + i * length, length, out);
    out += codec.Bytes(length);
  }
  return packed;
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

// Scale and zero of range `i`, [R, G], cut into `levels`.
struct Step {
  float scale = 0, zero = 0;
};

Step StepOf(const QuantizedLinear& linear, int64_t i, int levels) {
  const float low = HalfToFloat(linear.range_min[i]);
  const float high = HalfToFloat(linear.range_max[i]);
  const float scale = (high - low) / static_cast<float>(levels - 1);
  return {scale, std::nearbyintf(-low / scale)};
}

float Decode(uint8_t code, const Step& step) {
  return step.scale * (static_cast<float>(code) - step.zero);
}

// Decodes rows whose columns have levels of their own: for each group the step
// of each level count in it, then one multiplication a weight.
class ColumnLevelsDecoder {
 public:
  explicit ColumnLevelsDecoder(const QuantizedLinear& linear)
      : linear_(linear) {
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
      for (uint16_t levels : groups_[g].levels) {
        steps_[levels] = StepOf(linear_, row * groups_.size() + g, levels);
      }
      for (int64_t c = groups_[g].begin; c < groups_[g].end; ++c) {
        out[c] = bitwright::Decode(codes[c], steps_[linear_.levels[c]]);
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
  std::array<Step, kMaxLevels + 1> steps_ = {};
};

// Decodes a row that has bits of its own.
void DecodeRow(const QuantizedLinear& linear, int64_t row,
               const Unpacked& unpacked, float* out) {
  if (linear.row_bits[row] == kF16RowBits) {
    for (int64_t c = 0; c < linear.cols; ++c) {
      out[c] = HalfToFloat(HalfAt(unpacked.halves[row], c));
    }
    return;
  }
  const uint8_t* codes = unpacked.codes.data() + row * linear.cols;
  const int64_t size = linear.group_size == 0 ? linear.cols : linear.group_size;
  for (int64_t g = 0; g < linear.groups(); ++g) {
    const Step step =
        StepOf(linear, row * linear.groups() + g, 1 << linear.row_bits[row]);
    const int64_t end = std::min(linear.cols, (g + 1) * size);
    for (int64_t c = g * size; c < end; ++c) out[c] = Decode(codes[c], step);
  }
}

}  // namespace

double QuantizedLinear::FileBitsPerWeight() const {
  const double bytes = static_cast<double>(codes.size()) + 2.0 * levels.size() +
                       static_cast<double>(row_bits.size()) +
                       2.0 * (range_min.size() + range_max.size());
  return 8 * bytes / (static_cast<double>(rows) * static_cast<double>(cols));
}

double QuantizedLinear::CodeBitsPerWeight() const {
  if (runs() == CodeRuns::kRows) {
    const int64_t sum =
        std::accumulate(row_bits.begin(), row_bits.end(), int64_t{0});
    return static_cast<double>(sum) / static_cast<double>(row_bits.size()) +
           1 / static_cast<double>(cols);
  }
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
  return PackRuns(by_column.data(), levels, rows, nullptr);
}

std::string PackRowCodes(absl::Span<const uint8_t> codes, int64_t cols,
                         absl::Span<const uint8_t> row_bits,
                         absl::Span<const float> f16_rows) {
  return PackRuns(codes.data(), RunLevels(row_bits), cols, f16_rows.data());
}

absl::StatusOr<std::vector<uint8_t>> UnpackCodes(
    const QuantizedLinear& linear) {
  return GuardMemory(linear, [&]() -> absl::StatusOr<std::vector<uint8_t>> {
    BW_ASSIGN_OR_RETURN(Unpacked unpacked, UnpackByRow(linear));
    return std::move(unpacked.codes);
  });
}

absl::StatusOr<std::vector<float>> Dequantize(const QuantizedLinear& linear) {
  return GuardMemory(linear, [&]() -> absl::StatusOr<std::vector<float>> {
    BW_ASSIGN_OR_RETURN(const Unpacked unpacked, UnpackByRow(linear));
    std::vector<float> weight(unpacked.codes.size());
    if (linear.runs() == CodeRuns::kRows) {
      for (int64_t r = 0; r < linear.rows; ++r) {
        DecodeRow(linear, r, unpacked, weight.data() + r * linear.cols);
      }
      return weight;
    }
    ColumnLevelsDecoder decoder(linear);
    for (int64_t r = 0; r < linear.rows; ++r) {
      decoder.Decode(r, unpacked.codes.data() + r * linear.cols,
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
