#include "common/checkpoint/dtype.h"

#include <bit>
#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace bitwright {
namespace {

static_assert(std::endian::native == std::endian::little,
              "safetensors data are read in place");

struct DTypeEntry {
  DType dtype;
  absl::string_view name;
  size_t size;
};

constexpr DTypeEntry kDTypes[] = {
    {DType::kBool, "BOOL", 1}, {DType::kU8, "U8", 1},   {DType::kI8, "I8", 1},
    {DType::kU16, "U16", 2},   {DType::kI16, "I16", 2}, {DType::kF16, "F16", 2},
    {DType::kBF16, "BF16", 2}, {DType::kU32, "U32", 4}, {DType::kI32, "I32", 4},
    {DType::kF32, "F32", 4},   {DType::kU64, "U64", 8}, {DType::kI64, "I64", 8},
    {DType::kF64, "F64", 8},
};

// All 65,536 half values as floats: one load an element in bulk conversions.
const float* HalfTable() {
  static const std::unique_ptr<float[]> table = [] {
    auto values = std::make_unique<float[]>(65536);
    for (uint32_t i = 0; i < 65536; ++i) {
      values[i] = HalfToFloat(static_cast<uint16_t>(i));
    }
    return values;
  }();
  return table.get();
}

template <typename T, typename F>
void Convert(const char* bytes, absl::Span<float> out, F convert) {
  for (size_t i = 0; i < out.size(); ++i) {
    T value;
    std::memcpy(&value, bytes + i * sizeof(T), sizeof(T));
    out[i] = convert(value);
  }
}

#if defined(__x86_64__) && defined(__GNUC__)
// Eight at a time. The instruction gives what the table has, but for the bits
// of NaNs.
[[gnu::target("avx,f16c")]] size_t ConvertHalves(const char* bytes,
                                                 absl::Span<float> out) {
  size_t i = 0;
  for (; i + 8 <= out.size(); i += 8) {
    const __m128i halves =
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + 2 * i));
    _mm256_storeu_ps(out.data() + i, _mm256_cvtph_ps(halves));
  }
  return i;
}

// Every processor with AVX2 has F16C; the builtin of some compilers does not
// know the latter.
bool HasHalfConversion() {
  static const bool has = __builtin_cpu_supports("avx2");
  return has;
}
#else
size_t ConvertHalves(const char*, absl::Span<float>) { return 0; }
bool HasHalfConversion() { return false; }
#endif

template <typename F>
void Append16(absl::Span<const float> values, std::string* out, F convert) {
  size_t start = out->size();
  out->resize(start + values.size() * 2);
  char* to = out->data() + start;
  for (size_t i = 0; i < values.size(); ++i) {
    uint16_t bits = convert(values[i]);
    std::memcpy(to + 2 * i, &bits, 2);
  }
}

}  // namespace

size_t SizeOf(DType dtype) {
  for (const DTypeEntry& entry : kDTypes) {
    if (entry.dtype == dtype) return entry.size;
  }
  return 0;
}

absl::string_view DTypeName(DType dtype) {
  for (const DTypeEntry& entry : kDTypes) {
    if (entry.dtype == dtype) return entry.name;
  }
  return "?";
}

absl::StatusOr<DType> ParseDType(absl::string_view name) {
  for (const DTypeEntry& entry : kDTypes) {
    if (entry.name == name) return entry.dtype;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown dtype \"", name.substr(0, 32), "\""));
}

uint16_t FloatToHalf(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = (bits >> 16) & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) {  // NaN: quiet, with the top of its payload.
    return sign | 0x7e00 | ((magnitude >> 13) & 0x3ff);
  }
  if (magnitude >= 0x477ff000) return sign | 0x7c00;  // 65520 and above.
  if (magnitude >= 0x38800000) {                      // 2^-14: a normal half.
    const uint32_t rebased = magnitude - 0x38000000;
    return sign | ((rebased + 0xfff + ((rebased >> 13) & 1)) >> 13);
  }
  if (magnitude <= 0x33000000) return sign;  // 2^-25 and below: zero.
  // Subnormal: units of 2^-24, rounded to nearest even.
  const int shift = 126 - static_cast<int>(magnitude >> 23);  // 14..24
  const uint32_t mantissa = (magnitude & 0x7fffff) | 0x800000;
  const uint32_t half = 1u << (shift - 1);
  const uint32_t odd = (mantissa >> shift) & 1;
  return sign | ((mantissa + half - 1 + odd) >> shift);
}

float HalfToFloat(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1f;
  uint32_t mantissa = bits & 0x3ff;
  if (exponent == 0x1f) {
    return std::bit_cast<float>(sign | 0x7f800000 | (mantissa << 13));
  }
  if (exponent != 0) {
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) |
                                (mantissa << 13));
  }
  if (mantissa == 0) return std::bit_cast<float>(sign);
  const int top = 31 - std::countl_zero(mantissa);  // 0..9: value 2^(top-24)...
  mantissa = (mantissa << (10 - top)) & 0x3ff;
  return std::bit_cast<float>(sign | (static_cast<uint32_t>(top + 103) << 23) |
                              (mantissa << 13));
}

uint16_t FloatToBFloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >> 16) | 0x40;
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

float BFloat16ToFloat(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

absl::Status ToFloats(DType dtype, absl::string_view bytes,
                      absl::Span<float> out) {
  if (bytes.size() != out.size() * SizeOf(dtype)) {
    return absl::InvalidArgumentError(
        absl::StrCat(bytes.size(), " bytes are not ", out.size(),
                     " elements of ", DTypeName(dtype)));
  }
  switch (dtype) {
    case DType::kF32:
      if (!out.empty()) std::memcpy(out.data(), bytes.data(), bytes.size());
      return absl::OkStatus();
    case DType::kF16:
      if (HasHalfConversion()) {
        const size_t done = ConvertHalves(bytes.data(), out);
        bytes.remove_prefix(2 * done);
        out.remove_prefix(done);
      }
      Convert<uint16_t>(bytes.data(), out,
                        [table = HalfTable()](uint16_t h) { return table[h]; });
      return absl::OkStatus();
    case DType::kBF16:
      Convert<uint16_t>(bytes.data(), out, BFloat16ToFloat);
      return absl::OkStatus();
    case DType::kF64:
      Convert<double>(bytes.data(), out,
                      [](double d) { return static_cast<float>(d); });
      return absl::OkStatus();
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("dtype ", DTypeName(dtype), " is not floating-point"));
  }
}

absl::Status AppendFloats(DType dtype, absl::Span<const float> values,
                          std::string* out) {
  switch (dtype) {
    case DType::kF32:
      out->append(reinterpret_cast<const char*>(values.data()),
                  values.size() * sizeof(float));
      return absl::OkStatus();
    case DType::kF16:
      Append16(values, out, FloatToHalf);
      return absl::OkStatus();
    case DType::kBF16:
      Append16(values, out, FloatToBFloat16);
      return absl::OkStatus();
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("cannot write floats as ", DTypeName(dtype),
                       "; F32, F16 and BF16 can"));
  }
}

absl::Status RoundTo(DType dtype, absl::Span<float> values) {
  switch (dtype) {
    case DType::kF32:
      return absl::OkStatus();
    case DType::kF16:
      for (float& value : values) value = HalfToFloat(FloatToHalf(value));
      return absl::OkStatus();
    case DType::kBF16:
      for (float& value : values)
        value = BFloat16ToFloat(FloatToBFloat16(value));
      return absl::OkStatus();
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("weights cannot be rounded to ", DTypeName(dtype)));
  }
}

}  // namespace bitwright
