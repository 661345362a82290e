#include "common/checkpoint/checkpoint_writer.h"

#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "common/base/digest.h"
#include "common/base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "test_model.h"

namespace bitwright {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing_model::AllLinears;
using testing_model::kLlamaConfig;
using testing_model::kOptConfig;
using testing_model::Lineage;
using testing_model::WriteModel;
using testing_model::WriteQuantized;

class CheckpointWriterTest : public testing::Test {
 protected:
  CheckpointWriterTest() : temporary_(*TempDirectory::Create("checkpoint")) {}

  std::string Path(const std::string& name) {
    return temporary_.path() + "/" + name;
  }
  std::unique_ptr<ModelDirectory> Open(const std::string& name) {
    auto model = ModelDirectory::Open(Path(name));
    EXPECT_TRUE(model.ok()) << model.status();
    return model.ok() ? *std::move(model) : nullptr;
  }
  CheckpointOptions Options(const ModelDirectory& source) {
    CheckpointOptions options;
    options.method = "baq";
    options.lineage_json = Lineage(source.config());
    return options;
  }
  void ExpectGood(const std::string& name) {
    auto report = VerifyCheckpoint(Path(name));
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(absl::StrJoin(report->problems, "\n"), "");
  }
  std::map<std::string, std::string> Contents(const std::string& name) {
    std::map<std::string, std::string> contents;
    for (const auto& entry : fs::directory_iterator(Path(name))) {
      contents[entry.path().filename()] = *ReadFile(entry.path());
    }
    return contents;
  }

  TempDirectory temporary_;
};

TEST_F(CheckpointWriterTest, NativeKeepsEveryTensor) {
  for (const char* config : {kLlamaConfig, kOptConfig}) {
    for (int64_t group_size : {0, 5}) {
      for (int shards : {1, 3}) {
        fs::remove_all(Path("source"));
        fs::remove_all(Path("native"));
        WriteModel(Path("source"),
                   {.config = config, .dtype = DType::kBF16, .shards = shards});
        auto source = Open("source");
        CheckpointOptions options = Options(*source);
        options.group_size = group_size;
        ASSERT_TRUE(WriteQuantized(*source, Path("native"), options).ok());
        ExpectGood("native");
        auto native = Open("native");
        EXPECT_TRUE(native->is_native());
        EXPECT_EQ(native->group_size(), group_size);
        uint32_t seed = 1;
        for (const std::string& linear : AllLinears(source->config())) {
          auto shape = source->Shape(linear + ".weight");
          ASSERT_EQ(*native->Shape(linear + ".weight"), *shape);
          EXPECT_TRUE(native->IsQuantized(linear));
          EXPECT_EQ(*native->WeightDType(linear + ".weight"), DType::kBF16);
          const QuantizedLinear expected = testing_model::RandomLinear(
              (*shape)[0], (*shape)[1], group_size, seed++);
          EXPECT_EQ(native->ReadQuantized(linear)->codes, expected.codes);
          EXPECT_EQ(*native->ReadFloats(linear + ".weight"),
                    *DequantizeAs(DType::kBF16, expected));
        }
        for (const auto& tensor : source->stored()) {
          ASSERT_TRUE(native->Has(tensor.info->name));
          auto copied = native->Stored(tensor.info->name);
          if (!copied.ok()) continue;  // Quantized.
          EXPECT_EQ(copied->file->Data(*copied->info),
                    tensor.file->Data(*tensor.info));
          EXPECT_EQ(copied->info->dtype, tensor.info->dtype);
        }
      }
    }
  }
}

TEST_F(CheckpointWriterTest, ConfigKeepsItsKeysAndOrder) {
  WriteModel(Path("source"));
  auto source = Open("source");
  ASSERT_TRUE(WriteQuantized(*source, Path("native"), Options(*source)).ok());
  const auto before = nlohmann::ordered_json::parse(kLlamaConfig);
  auto after =
      nlohmann::ordered_json::parse(*ReadFile(Path("native/config.json")));
  EXPECT_EQ(after["quantization_config"]["quant_method"], "bitwright");
  EXPECT_EQ(after["quantization_config"]["format_version"], 1);
  EXPECT_EQ(after["quantization_config"]["method"], "baq");
  EXPECT_EQ(after["quantization_config"]["group_size"], 0);
  EXPECT_EQ(after["quantization_config"]["weight_dtype"], "F16");
  after.erase("quantization_config");
  EXPECT_EQ(after.dump(), before.dump());  // Order included.
  EXPECT_EQ(*ReadFile(Path("native/LICENSE")), "Use it.");
  EXPECT_TRUE(fs::exists(Path("native/tokenizer.json")));
  EXPECT_FALSE(fs::exists(Path("native/README.md")));
  EXPECT_FALSE(fs::exists(Path("native/.quantized.spool")));
}

TEST_F(CheckpointWriterTest, DenseIsWhatExportMakes) {
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const char* name : {"source", "native", "dense", "exported"}) {
      fs::remove_all(Path(name));
    }
    WriteModel(Path("source"), {.dtype = dtype, .shards = 2});
    auto source = Open("source");
    CheckpointOptions options = Options(*source);
    options.group_size = 8;
    ASSERT_TRUE(WriteQuantized(*source, Path("native"), options).ok());
    options.format = CheckpointFormat::kDense;
    ASSERT_TRUE(WriteQuantized(*source, Path("dense"), options).ok());
    ASSERT_TRUE(ExportDense(Path("native"), Path("exported")).ok());
    ExpectGood("dense");
    EXPECT_EQ(Contents("dense"), Contents("exported"));
    auto dense = Open("dense");
    auto native = Open("native");
    EXPECT_FALSE(dense->is_native());
    for (const std::string& linear : AllLinears(source->config())) {
      auto stored = dense->Stored(linear + ".weight");
      ASSERT_TRUE(stored.ok());
      EXPECT_EQ(stored->info->dtype, dtype);
      std::string rounded;
      ASSERT_TRUE(
          AppendFloats(dtype, *native->ReadFloats(linear + ".weight"), &rounded)
              .ok());
      EXPECT_EQ(stored->file->Data(*stored->info), rounded);
    }
    EXPECT_FALSE(absl::StrContains(*ReadFile(Path("dense/config.json")),
                                   "quantization_config"));
  }
}

TEST_F(CheckpointWriterTest, MixedDTypesAreRemembered) {
  WriteModel(
      Path("source"), {.edit = [](std::vector<Tensor>* tensors) {
        for (Tensor& tensor : *tensors) {
          if (!absl::StrContains(tensor.spec.name, "layers.1.mlp") &&
              !absl::StrContains(tensor.spec.name, "norm")) {
            continue;
          }
          std::vector<float> values(tensor.bytes.size() / 2);
          ASSERT_TRUE(
              ToFloats(DType::kF16, tensor.bytes, absl::MakeSpan(values)).ok());
          tensor.spec.dtype = DType::kF32;
          tensor.bytes.clear();
          ASSERT_TRUE(AppendFloats(DType::kF32, values, &tensor.bytes).ok());
        }
      }});
  auto source = Open("source");
  ASSERT_TRUE(WriteQuantized(*source, Path("native"), Options(*source)).ok());
  ASSERT_TRUE(ExportDense(Path("native"), Path("dense")).ok());
  auto dense = Open("dense");
  for (const auto& tensor : source->stored()) {
    auto exported = dense->Stored(tensor.info->name);
    ASSERT_TRUE(exported.ok());
    EXPECT_EQ(exported->info->dtype, tensor.info->dtype) << tensor.info->name;
  }
  // Every tensor is aligned to its elements, as some readers need.
  for (const char* name : {"native", "dense"}) {
    auto model = Open(name);
    for (const auto& tensor : model->stored()) {
      EXPECT_EQ(tensor.info->begin % SizeOf(tensor.info->dtype), 0u)
          << tensor.info->name;
    }
  }
}

TEST_F(CheckpointWriterTest, ShardsStayBelowTheLimit) {
  WriteModel(Path("source"));
  auto source = Open("source");
  CheckpointOptions options = Options(*source);
  for (CheckpointFormat format :
       {CheckpointFormat::kNative, CheckpointFormat::kDense}) {
    fs::remove_all(Path("out"));
    options.format = format;
    options.max_shard_bytes = 6000;
    ASSERT_TRUE(WriteQuantized(*source, Path("out"), options).ok());
    size_t shards = 0;
    for (const auto& entry : fs::directory_iterator(Path("out"))) {
      if (entry.path().extension() != ".safetensors") continue;
      ++shards;
      EXPECT_LE(entry.file_size(), 6000u);
    }
    EXPECT_GE(shards, 2u);
    EXPECT_TRUE(fs::exists(Path("out/model.safetensors.index.json")));
    EXPECT_FALSE(fs::exists(Path("out/model.safetensors")));
    ExpectGood("out");
  }
  ASSERT_TRUE(WriteQuantized(*source, Path("one"), Options(*source)).ok());
  EXPECT_TRUE(fs::exists(Path("one/model.safetensors")));
  EXPECT_FALSE(fs::exists(Path("one/model.safetensors.index.json")));
}

TEST_F(CheckpointWriterTest, SameInputsSameBytes) {
  WriteModel(Path("source"));
  WriteModel(Path("sharded"), {.shards = 4});
  for (const char* name : {"source", "sharded"}) {
    auto source = Open(name);
    ASSERT_TRUE(WriteQuantized(*source, Path(std::string(name) + "-native"),
                               Options(*source))
                    .ok());
  }
  EXPECT_EQ(Contents("source-native"), Contents("sharded-native"));
}

TEST_F(CheckpointWriterTest, SomeLinearsOnly) {
  WriteModel(Path("source"));
  auto source = Open("source");
  fs::create_directory(Path("native"));
  const std::string linear = AllLinears(source->config())[2];
  ASSERT_TRUE(WriteCheckpoint(
                  *source, {linear},
                  [](const std::string&) -> absl::StatusOr<QuantizedLinear> {
                    return testing_model::RandomLinear(12, 24, 0, 1);
                  },
                  Options(*source), Path("native"))
                  .ok());
  auto native = Open("native");
  EXPECT_TRUE(native->IsQuantized(linear));
  EXPECT_FALSE(native->IsQuantized(AllLinears(source->config())[0]));
  EXPECT_EQ(*native->ReadFloats("model.norm.weight"),
            *source->ReadFloats("model.norm.weight"));
}

TEST_F(CheckpointWriterTest, WrongRequestsAreRefused) {
  WriteModel(Path("source"));
  auto source = Open("source");
  auto write = [&](const std::string& linear, int64_t rows, int64_t cols,
                   int64_t group_size) {
    fs::remove_all(Path("out"));
    fs::create_directory(Path("out"));
    return WriteCheckpoint(
        *source, {linear},
        [&](const std::string&) -> absl::StatusOr<QuantizedLinear> {
          if (rows == 0) return absl::UnavailableError("no blob");
          return testing_model::RandomLinear(rows, cols, group_size, 1);
        },
        Options(*source), Path("out"));
  };
  const std::string linear = AllLinears(source->config())[0];
  EXPECT_TRUE(write(linear, 24, 24, 0).ok());
  EXPECT_THAT(std::string(write(linear, 24, 23, 0).message()),
              HasSubstr(linear));
  EXPECT_FALSE(write(linear, 24, 24, 8).ok());
  EXPECT_TRUE(absl::IsUnavailable(write(linear, 0, 0, 0)));
  EXPECT_TRUE(absl::IsNotFound(write("model.layers.9.x", 24, 24, 0)));
  EXPECT_FALSE(write("model.norm", 24, 24, 0).ok());
  // A checkpoint is no source for another one.
  ASSERT_TRUE(WriteQuantized(*source, Path("native"), Options(*source)).ok());
  auto native = Open("native");
  EXPECT_TRUE(absl::IsInvalidArgument(
      WriteQuantized(*native, Path("again"), Options(*native))));
  EXPECT_FALSE(ExportDense(Path("source"), Path("dense")).ok());
  EXPECT_FALSE(fs::exists(Path("dense")));
}

TEST_F(CheckpointWriterTest, NonFiniteCopiesAreRefused) {
  WriteModel(Path("source"), {.edit = [](std::vector<Tensor>* tensors) {
               for (Tensor& tensor : *tensors) {
                 if (tensor.spec.name == "model.norm.weight") {
                   tensor.bytes.replace(10, 2, "\x00\x7e", 2);
                 }
               }
             }});
  auto source = Open("source");
  const absl::Status status =
      WriteQuantized(*source, Path("native"), Options(*source));
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(std::string(status.message()),
              testing::AllOf(HasSubstr("model.norm.weight"), HasSubstr("[5]")));
}

TEST_F(CheckpointWriterTest, FullDiskIsResourceExhaustedAndLeavesNothing) {
  WriteModel(Path("source"));
  auto source = Open("source");
  ASSERT_TRUE(WriteQuantized(*source, Path("native"), Options(*source)).ok());
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit limit = before;
  limit.rlim_cur = 4096;
  auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  const absl::Status exported = ExportDense(Path("native"), Path("dense"));
  const absl::Status written =
      PublishDirectory(Path("out"), [&](const std::string& directory) {
        return WriteQuantized(*source, directory, Options(*source));
      });
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_TRUE(absl::IsResourceExhausted(exported)) << exported;
  EXPECT_TRUE(absl::IsResourceExhausted(written)) << written;
  EXPECT_EQ(std::distance(fs::directory_iterator(temporary_.path()), {}), 2);
}

TEST_F(CheckpointWriterTest, ExportNeedsAFreePlace) {
  WriteModel(Path("source"));
  auto source = Open("source");
  ASSERT_TRUE(WriteQuantized(*source, Path("native"), Options(*source)).ok());
  EXPECT_TRUE(
      absl::IsAlreadyExists(ExportDense(Path("native"), Path("source"))));
  EXPECT_TRUE(absl::IsNotFound(ExportDense(Path("no"), Path("dense"))));
}

}  // namespace
}  // namespace bitwright
