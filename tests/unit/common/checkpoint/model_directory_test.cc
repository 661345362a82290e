#include "common/checkpoint/model_directory.h"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "common/base/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "test_model.h"

namespace bitwright {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing_model::kLlamaConfig;
using testing_model::kOptConfig;
using testing_model::ModelFiles;
using testing_model::WriteModel;

constexpr char kQProj[] = "model.layers.0.self_attn.q_proj.weight";

class ModelDirectoryTest : public testing::Test {
 protected:
  ModelDirectoryTest()
      : temporary_(*TempDirectory::Create("model_directory")),
        path_(temporary_.path() + "/model") {}

  absl::Status OpenStatus() { return ModelDirectory::Open(path_).status(); }
  // Of a model that opens must fail with INVALID_ARGUMENT.
  std::string Message() {
    const absl::Status status = OpenStatus();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return std::string(status.message());
  }
  void WriteEdited(std::function<void(std::vector<Tensor>*)> edit) {
    WriteModel(path_, {.edit = std::move(edit)});
  }
  static Tensor* FindTensor(std::vector<Tensor>* tensors,
                            const std::string& name) {
    for (Tensor& tensor : *tensors) {
      if (tensor.spec.name == name) return &tensor;
    }
    ADD_FAILURE() << name;
    return nullptr;
  }

  TempDirectory temporary_;
  const std::string path_;
};

TEST_F(ModelDirectoryTest, ReadsEveryDTypeAndSharding) {
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (int shards : {1, 3}) {
      for (const char* config : {kLlamaConfig, kOptConfig}) {
        fs::remove_all(path_);
        WriteModel(path_, {.config = config, .dtype = dtype, .shards = shards});
        auto model = ModelDirectory::Open(path_);
        ASSERT_TRUE(model.ok()) << model.status();
        EXPECT_FALSE((*model)->is_native());
        for (const Tensor& tensor :
             testing_model::ModelTensors((*model)->config(), dtype)) {
          std::vector<float> expected(tensor.bytes.size() / SizeOf(dtype));
          ASSERT_TRUE(
              ToFloats(dtype, tensor.bytes, absl::MakeSpan(expected)).ok());
          EXPECT_EQ(*(*model)->ReadFloats(tensor.spec.name), expected);
          EXPECT_EQ(*(*model)->Shape(tensor.spec.name), tensor.spec.shape);
          EXPECT_EQ(*(*model)->WeightDType(tensor.spec.name), dtype);
        }
        EXPECT_FALSE((*model)->Has("nothing"));
        EXPECT_TRUE(absl::IsNotFound((*model)->ReadFloats("nothing").status()));
        EXPECT_TRUE(
            absl::IsNotFound((*model)->ReadQuantized("nothing").status()));
      }
    }
  }
}

TEST_F(ModelDirectoryTest, ListsItsFiles) {
  WriteModel(path_, {.shards = 2});
  std::ofstream(path_ + "/pytorch_model.bin") << "ignored beside safetensors";
  auto model = ModelDirectory::Open(path_);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_THAT((*model)->files(),
              testing::ElementsAre(
                  "LICENSE", "config.json", "model-00001-of-00002.safetensors",
                  "model-00002-of-00002.safetensors",
                  "model.safetensors.index.json", "tokenizer.json"));
  EXPECT_THAT((*model)->companions(),
              testing::ElementsAre("LICENSE", "tokenizer.json"));
}

TEST_F(ModelDirectoryTest, MissingThings) {
  EXPECT_TRUE(absl::IsNotFound(OpenStatus()));
  fs::create_directory(path_);
  EXPECT_THAT(Message(), HasSubstr("config.json"));
  ASSERT_TRUE(WriteFileAtomically(path_ + "/config.json", kLlamaConfig).ok());
  EXPECT_THAT(Message(), HasSubstr("model.safetensors"));
  std::ofstream(path_ + "/pytorch_model-00001-of-00002.bin") << "pickle";
  EXPECT_THAT(Message(), AllOf(HasSubstr("pytorch_model-00001-of-00002.bin"),
                               HasSubstr("python3 -c"),
                               HasSubstr("safe_serialization=True")));
  EXPECT_TRUE(absl::IsInvalidArgument(
      ModelDirectory::Open(path_ + "/config.json").status()));
}

TEST_F(ModelDirectoryTest, ConfigThatIsNoFileOrTooLarge) {
  fs::create_directories(path_ + "/config.json");
  EXPECT_THAT(Message(), HasSubstr("config.json"));
  fs::remove_all(path_ + "/config.json");
  std::ofstream(path_ + "/config.json") << "{}";
  fs::resize_file(path_ + "/config.json", 17'000'000);
  EXPECT_THAT(Message(), HasSubstr("17000000"));
}

TEST_F(ModelDirectoryTest, MissingTensorIsNamed) {
  WriteEdited([](std::vector<Tensor>* tensors) {
    std::erase_if(*tensors,
                  [](const Tensor& t) { return t.spec.name == kQProj; });
  });
  EXPECT_THAT(Message(), AllOf(HasSubstr(kQProj), HasSubstr("[24, 24]"),
                               HasSubstr("model.safetensors")));
}

TEST_F(ModelDirectoryTest, WrongShapeIsNamed) {
  WriteEdited([](std::vector<Tensor>* tensors) {
    FindTensor(tensors, kQProj)->spec.shape = {12, 48};
  });
  EXPECT_THAT(Message(),
              AllOf(HasSubstr(kQProj), HasSubstr("[12, 48]"),
                    HasSubstr("[24, 24]"), HasSubstr("/model.safetensors")));
}

TEST_F(ModelDirectoryTest, UnexpectedTensorsAreNamed) {
  WriteEdited([](std::vector<Tensor>* tensors) {
    tensors->push_back(FloatTensor("model.layers.2.mlp.gate.weight", {1}, {0}));
  });
  EXPECT_THAT(Message(), HasSubstr("model.layers.2.mlp.gate.weight"));
}

TEST_F(ModelDirectoryTest, IntegerWeightsAreRefused) {
  WriteEdited([](std::vector<Tensor>* tensors) {
    FindTensor(tensors, kQProj)->spec.dtype = DType::kI16;
  });
  EXPECT_THAT(Message(), AllOf(HasSubstr(kQProj), HasSubstr("I16")));
}

TEST_F(ModelDirectoryTest, HarmlessBuffersAreAccepted) {
  auto config = nlohmann::json::parse(kLlamaConfig);
  config["tie_word_embeddings"] = true;
  WriteModel(
      path_,
      {.config = config.dump(), .edit = [](std::vector<Tensor>* tensors) {
         tensors->push_back(FloatTensor(
             "model.layers.0.self_attn.rotary_emb.inv_freq", {3}, {1, 2, 3}));
         Tensor head = *FindTensor(tensors, "model.embed_tokens.weight");
         head.spec.name = "lm_head.weight";
         tensors->push_back(head);
       }});
  EXPECT_TRUE(OpenStatus().ok()) << OpenStatus();
}

TEST_F(ModelDirectoryTest, NonFiniteWeightsAreLocated) {
  for (float bad : {std::numeric_limits<float>::quiet_NaN(),
                    std::numeric_limits<float>::infinity(),
                    -std::numeric_limits<float>::infinity()}) {
    WriteEdited([&](std::vector<Tensor>* tensors) {
      Tensor* tensor = FindTensor(tensors, kQProj);
      std::vector<float> values(24 * 24, 1);
      values[3 * 24 + 17] = bad;
      values[23 * 24] = bad;
      tensor->bytes.clear();
      ASSERT_TRUE(AppendFloats(DType::kF16, values, &tensor->bytes).ok());
    });
    auto model = ModelDirectory::Open(path_);
    ASSERT_TRUE(model.ok());
    const absl::Status status = (*model)->ReadFloats(kQProj).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status));
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr(kQProj), HasSubstr("[3, 17]"),
                      HasSubstr("/model.safetensors")));
  }
}

TEST_F(ModelDirectoryTest, OptWithoutOuterPrefix) {
  WriteModel(path_,
             {.config = kOptConfig, .edit = [](std::vector<Tensor>* all) {
                for (Tensor& tensor : *all) {
                  tensor.spec.name.erase(0, sizeof("model.") - 1);
                }
              }});
  auto model = ModelDirectory::Open(path_);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->config().name_prefix, "decoder.");
  EXPECT_TRUE((*model)->Has("decoder.layers.0.fc1.weight"));
  EXPECT_EQ(BlockLinears((*model)->config(), 1)[4].name,
            "decoder.layers.1.fc1");
}

TEST_F(ModelDirectoryTest, TruncatedAndMissingShardsAreNamed) {
  WriteModel(path_, {.shards = 3});
  const std::string shard = path_ + "/model-00002-of-00003.safetensors";
  fs::resize_file(shard, fs::file_size(shard) - 1);
  EXPECT_THAT(Message(), HasSubstr("model-00002-of-00003.safetensors"));
  fs::resize_file(shard, 3);
  EXPECT_THAT(Message(), HasSubstr("model-00002-of-00003.safetensors"));
  fs::remove(shard);
  EXPECT_THAT(Message(), AllOf(HasSubstr("model-00002-of-00003.safetensors"),
                               HasSubstr("missing")));
}

TEST_F(ModelDirectoryTest, IndexMustMatchTheShards) {
  WriteModel(path_, {.shards = 2});
  const std::string index_path = path_ + "/model.safetensors.index.json";
  const auto good = nlohmann::json::parse(*ReadFile(index_path));
  auto with = [&](auto change) {
    auto index = good;
    change(index);
    EXPECT_TRUE(WriteFileAtomically(index_path, index.dump()).ok());
    return Message();
  };
  using nlohmann::json;
  EXPECT_THAT(with([](json& i) { i["weight_map"].erase(kQProj); }),
              AllOf(HasSubstr(kQProj), HasSubstr("not listed")));
  EXPECT_THAT(with([](json& i) {
                i["weight_map"]["x"] = "model-00001-of-00002.safetensors";
              }),
              HasSubstr("tensor x"));
  EXPECT_THAT(with([](json& i) {
                auto& file = i["weight_map"][kQProj];
                file = file == "model-00001-of-00002.safetensors"
                           ? "model-00002-of-00002.safetensors"
                           : "model-00001-of-00002.safetensors";
              }),
              HasSubstr(kQProj));
  for (const char* name :
       {"../model.safetensors", "/etc/passwd", "", "shard.bin"}) {
    EXPECT_THAT(with([&](json& i) { i["weight_map"][kQProj] = name; }),
                HasSubstr(kQProj));
  }
  EXPECT_THAT(with([](json& i) { i["weight_map"][kQProj] = 3; }),
              HasSubstr(kQProj));
  EXPECT_THAT(with([](json& i) { i.erase("weight_map"); }),
              HasSubstr("weight_map"));
  ASSERT_TRUE(
      WriteFileAtomically(
          index_path, "{\"weight_map\":{\"a\":\"x.safetensors\",\"a\":\"x\"}}")
          .ok());
  EXPECT_THAT(Message(), HasSubstr("occurs twice"));
  ASSERT_TRUE(WriteFileAtomically(index_path, good.dump()).ok());
  EXPECT_TRUE(OpenStatus().ok());
}

TEST_F(ModelDirectoryTest, TensorInTwoShardsIsNamed) {
  WriteModel(path_, {.shards = 2});
  fs::copy_file(path_ + "/model-00001-of-00002.safetensors",
                path_ + "/model-00002-of-00002.safetensors",
                fs::copy_options::overwrite_existing);
  EXPECT_THAT(Message(), HasSubstr("is both in"));
}

TEST_F(ModelDirectoryTest, OtherQuantizationIsRefused) {
  auto config = nlohmann::json::parse(kLlamaConfig);
  config["quantization_config"] = {{"quant_method", "gptq"}};
  WriteModel(path_, {.config = config.dump()});
  const absl::Status status = OpenStatus();
  EXPECT_TRUE(absl::IsUnimplemented(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("gptq"));
}

}  // namespace
}  // namespace bitwright
