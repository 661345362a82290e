#include "common/checkpoint/safetensors_header.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"

namespace bitwright {
namespace {

using nlohmann::json;

// Reads the header as a stream of events: no tree is built, so that neither
// nesting nor size can be abused, and duplicate keys are seen.
class HeaderReader : public nlohmann::json_sax<json> {
 public:
  SafetensorsHeader& header() { return header_; }
  const std::string& error() const { return error_; }

  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a boolean"); }
  bool number_float(number_float_t, const string_t& text) override {
    return Unexpected(absl::StrCat("the number ", text.substr(0, 40)));
  }
  bool binary(binary_t&) override { return Unexpected("binary"); }
  bool number_integer(number_integer_t value) override {
    return Unexpected(absl::StrCat("the negative number ", value));
  }
  bool number_unsigned(number_unsigned_t value) override;
  bool string(string_t& value) override;
  bool start_object(size_t) override;
  bool key(string_t& value) override;
  bool end_object() override;
  bool start_array(size_t) override;
  bool end_array() override;
  bool parse_error(size_t, const std::string&,
                   const nlohmann::detail::exception& exception) override {
    return Fail(absl::StrCat("the header is not JSON: ", exception.what()));
  }

 private:
  enum class State { kStart, kNames, kMetadata, kTensor, kShape, kOffsets };

  bool Fail(std::string message) {
    error_ = std::move(message);
    return false;
  }
  std::string Where() const {
    if (state_ == State::kMetadata) return "__metadata__";
    if (state_ == State::kStart) return "the header";
    return absl::StrCat("tensor ", name_);
  }
  bool Unexpected(absl::string_view what) {
    return Fail(absl::StrCat(Where(), ": unexpected ", what,
                             field_.empty() ? "" : " in ", field_));
  }

  State state_ = State::kStart;
  SafetensorsHeader header_;
  absl::flat_hash_set<std::string> names_;
  std::string name_, field_, error_;
  TensorInfo tensor_;
  std::vector<uint64_t> offsets_;
  bool has_dtype_ = false, has_shape_ = false, has_offsets_ = false;
  bool metadata_seen_ = false;
};

bool HeaderReader::number_unsigned(number_unsigned_t value) {
  if (state_ == State::kShape) {
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return Unexpected("dimension beyond 63 bits");
    }
    if (tensor_.shape.size() >= 16) return Unexpected("17th dimension");
    tensor_.shape.push_back(static_cast<int64_t>(value));
    return true;
  }
  if (state_ == State::kOffsets) {
    if (offsets_.size() >= 2) return Unexpected("third offset");
    offsets_.push_back(value);
    return true;
  }
  return Unexpected("number");
}

bool HeaderReader::string(string_t& value) {
  if (state_ == State::kMetadata) {
    if (!header_.metadata.emplace(field_, value).second) {
      return Fail(
          absl::StrCat("__metadata__: the key \"", field_, "\" occurs twice"));
    }
    return true;
  }
  if (state_ == State::kTensor && field_ == "dtype") {
    auto dtype = ParseDType(value);
    if (!dtype.ok()) {
      return Fail(
          absl::StrCat("tensor ", name_, ": ", dtype.status().message()));
    }
    tensor_.dtype = *dtype;
    has_dtype_ = true;
    return true;
  }
  return Unexpected("string");
}

bool HeaderReader::start_object(size_t) {
  if (state_ == State::kStart) {
    state_ = State::kNames;
    return true;
  }
  if (state_ != State::kNames) return Unexpected("object");
  field_.clear();
  if (name_ == "__metadata__") {
    state_ = State::kMetadata;
    return true;
  }
  state_ = State::kTensor;
  tensor_ = TensorInfo();
  tensor_.name = name_;
  offsets_.clear();
  has_dtype_ = has_shape_ = has_offsets_ = false;
  return true;
}

bool HeaderReader::key(string_t& value) {
  if (state_ == State::kNames) {
    name_ = value;
    if (names_.insert(value).second) return true;
    return Fail(absl::StrCat("tensor ", value, " occurs twice in the header"));
  }
  field_ = value;
  if (state_ != State::kTensor) return true;
  bool* seen = value == "dtype"          ? &has_dtype_
               : value == "shape"        ? &has_shape_
               : value == "data_offsets" ? &has_offsets_
                                         : nullptr;
  if (seen == nullptr) {
    return Fail(absl::StrCat("tensor ", name_, ": unknown key \"",
                             value.substr(0, 64), "\""));
  }
  if (*seen) {
    return Fail(absl::StrCat("tensor ", name_, ": the key \"", value,
                             "\" occurs twice"));
  }
  return true;
}

bool HeaderReader::end_object() {
  if (state_ == State::kTensor) {
    if (!has_dtype_ || !has_shape_ || !has_offsets_) {
      return Fail(absl::StrCat("tensor ", name_,
                               ": needs dtype, shape and data_offsets"));
    }
    tensor_.begin = offsets_[0];
    tensor_.end = offsets_[1];
    header_.tensors.push_back(std::move(tensor_));
  }
  field_.clear();
  state_ = State::kNames;
  return true;
}

bool HeaderReader::start_array(size_t) {
  if (state_ == State::kTensor && field_ == "shape") {
    state_ = State::kShape;
    has_shape_ = true;
    return true;
  }
  if (state_ == State::kTensor && field_ == "data_offsets") {
    state_ = State::kOffsets;
    has_offsets_ = true;
    return true;
  }
  return Unexpected("array");
}

bool HeaderReader::end_array() {
  if (state_ == State::kOffsets && offsets_.size() != 2) {
    return Fail(
        absl::StrCat("tensor ", name_, ": data_offsets needs two numbers"));
  }
  state_ = State::kTensor;
  return true;
}

// Offsets in order, in bounds, contiguous, and equal to shape times dtype.
absl::Status CheckLayout(std::vector<TensorInfo>& tensors,
                         uint64_t data_bytes) {
  std::sort(tensors.begin(), tensors.end(),
            [](const TensorInfo& a, const TensorInfo& b) {
              return std::tie(a.begin, a.end, a.name) <
                     std::tie(b.begin, b.end, b.name);
            });
  uint64_t position = 0;
  absl::string_view previous = "the start of the data";
  for (const TensorInfo& tensor : tensors) {
    auto error = [&](absl::string_view what) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", tensor.name, " at bytes [", tensor.begin,
                       ", ", tensor.end, ") ", what));
    };
    if (tensor.begin > tensor.end) return error("ends before it begins");
    if (tensor.end > data_bytes) {
      return error(absl::StrCat("lies outside the ", data_bytes,
                                " bytes of data: the file is truncated or "
                                "damaged; fetch it again"));
    }
    if (tensor.begin < position) {
      return error(absl::StrCat("overlaps ", previous));
    }
    if (tensor.begin > position) {
      return error(absl::StrCat("leaves a hole after ", previous,
                                ", which ends at ", position));
    }
    auto bytes = CheckedBytes(tensor.shape, SizeOf(tensor.dtype));
    if (!bytes.ok()) return error(bytes.status().message());
    if (*bytes != tensor.num_bytes()) {
      return error(absl::StrCat("does not hold ", DTypeName(tensor.dtype), " ",
                                ShapeString(tensor.shape), ", which takes ",
                                *bytes, " bytes"));
    }
    position = tensor.end;
    previous = tensor.name;
  }
  if (position != data_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(data_bytes - position,
                                                   " bytes after ", previous,
                                                   " belong to no tensor"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<uint64_t> CheckedBytes(absl::Span<const int64_t> shape,
                                      size_t element_size) {
  // A zero dimension makes the product zero whatever the others are, but the
  // others must still multiply within bounds.
  uint64_t product = element_size;
  bool empty = false;
  for (int64_t dim : shape) {
    if (dim < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("has a negative dimension in ", ShapeString(shape)));
    }
    if (dim == 0) {
      empty = true;
      continue;
    }
    if (__builtin_mul_overflow(product, static_cast<uint64_t>(dim), &product) ||
        product >> 63 != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("has the impossible shape ", ShapeString(shape)));
    }
  }
  return empty ? 0 : product;
}

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(absl::string_view text,
                                                         uint64_t data_bytes) {
  if (text.empty() || text[0] != '{') {
    return absl::InvalidArgumentError(
        "the header is not a JSON object: it does not start with {");
  }
  HeaderReader reader;
  if (!json::sax_parse(text.begin(), text.end(), &reader)) {
    return absl::InvalidArgumentError(reader.error());
  }
  SafetensorsHeader header = std::move(reader.header());
  BW_RETURN_IF_ERROR(CheckLayout(header.tensors, data_bytes));
  return header;
}

std::string FormatSafetensorsHeader(
    absl::Span<const TensorInfo> tensors,
    const std::map<std::string, std::string>& metadata) {
  auto quote = [](const std::string& text) {
    return json(text).dump(-1, ' ', false, json::error_handler_t::replace);
  };
  std::string text = "{";
  auto separate = [&text] {
    if (text.size() > 1) text += ',';
  };
  if (!metadata.empty()) {
    absl::StrAppend(&text, "\"__metadata__\":{",
                    absl::StrJoin(metadata, ",",
                                  [&](std::string* out, const auto& entry) {
                                    absl::StrAppend(out, quote(entry.first),
                                                    ":", quote(entry.second));
                                  }),
                    "}");
  }
  for (const TensorInfo& tensor : tensors) {
    separate();
    absl::StrAppend(&text, quote(tensor.name), ":{\"dtype\":\"",
                    DTypeName(tensor.dtype), "\",\"shape\":[",
                    absl::StrJoin(tensor.shape, ","), "],\"data_offsets\":[",
                    tensor.begin, ",", tensor.end, "]}");
  }
  text += '}';
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t length = text.size();
  std::string header(8, '\0');
  std::memcpy(header.data(), &length, 8);
  return header + text;
}

}  // namespace bitwright
