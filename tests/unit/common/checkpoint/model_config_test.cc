#include "common/checkpoint/model_config.h"

#include <algorithm>
#include <set>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "test_model.h"

namespace bitwright {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

ModelConfig Parse(const json& value) {
  auto config = ParseModelConfig(value.dump(), "config.json");
  EXPECT_TRUE(config.ok()) << config.status();
  return config.value_or(ModelConfig());
}

json Llama() { return json::parse(testing_model::kLlamaConfig); }
json Opt() { return json::parse(testing_model::kOptConfig); }

const ExpectedTensor* Find(const std::vector<ExpectedTensor>& tensors,
                           const std::string& name) {
  for (const ExpectedTensor& tensor : tensors) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

using Dims = std::vector<int64_t>;

TEST(ModelConfigTest, Llama) {
  const ModelConfig config = Parse(Llama());
  EXPECT_EQ(config.family, ModelFamily::kLlama);
  EXPECT_EQ(config.model_type, "llama");
  EXPECT_EQ(config.head_dim, 6);
  EXPECT_EQ(config.num_kv_heads, 2);
  EXPECT_DOUBLE_EQ(config.norm_eps, 1e-5);
  EXPECT_EQ(config.torch_dtype, "float16");
  EXPECT_EQ(config.bos_token_id, -1);
  EXPECT_FALSE(config.tied_embeddings);
  const auto linears = BlockLinears(config, 1);
  ASSERT_EQ(linears.size(), 7u);
  EXPECT_EQ(linears[0].name, "model.layers.1.self_attn.q_proj");
  EXPECT_EQ(linears[1].rows, 12);
  EXPECT_EQ(linears[3].name, "model.layers.1.self_attn.o_proj");
  EXPECT_EQ(linears[6].name, "model.layers.1.mlp.down_proj");
  EXPECT_EQ(linears[6].cols, 36);
  std::vector<std::string> groups;
  for (const auto& linear : linears) groups.push_back(linear.hessian_group);
  EXPECT_EQ(groups, (std::vector<std::string>{"attn_in", "attn_in", "attn_in",
                                              "attn_out", "mlp_in", "mlp_in",
                                              "mlp_out"}));
  const auto tensors = ExpectedTensors(config);
  EXPECT_EQ(Find(tensors, "model.embed_tokens.weight")->shape, (Dims{40, 24}));
  EXPECT_EQ(Find(tensors, "model.layers.0.self_attn.k_proj.weight")->shape,
            (Dims{12, 24}));
  EXPECT_FALSE(Find(tensors, "lm_head.weight")->optional);
  EXPECT_TRUE(
      Find(tensors, "model.layers.0.self_attn.rotary_emb.inv_freq")->optional);
  EXPECT_EQ(Find(tensors, "model.layers.0.self_attn.q_proj.bias"), nullptr);
}

TEST(ModelConfigTest, LlamaVariants) {
  json value = Llama();
  value["head_dim"] = 10;
  value["attention_bias"] = true;
  value["mlp_bias"] = true;
  value["tie_word_embeddings"] = true;
  value["bos_token_id"] = 1;
  ModelConfig config = Parse(value);
  EXPECT_EQ(config.bos_token_id, 1);
  auto tensors = ExpectedTensors(config);
  EXPECT_EQ(Find(tensors, "model.layers.0.self_attn.q_proj.weight")->shape,
            (Dims{40, 24}));
  EXPECT_EQ(Find(tensors, "model.layers.0.self_attn.o_proj.weight")->shape,
            (Dims{24, 40}));
  for (const char* name : {"self_attn.q_proj", "self_attn.k_proj",
                           "self_attn.o_proj", "mlp.down_proj"}) {
    EXPECT_NE(Find(tensors, std::string("model.layers.1.") + name + ".bias"),
              nullptr);
  }
  EXPECT_TRUE(Find(tensors, "lm_head.weight")->optional);

  value = Llama();
  value["model_type"] = "qwen2";
  config = Parse(value);
  tensors = ExpectedTensors(config);
  EXPECT_NE(Find(tensors, "model.layers.0.self_attn.v_proj.bias"), nullptr);
  EXPECT_EQ(Find(tensors, "model.layers.0.self_attn.o_proj.bias"), nullptr);
  EXPECT_EQ(Find(tensors, "model.layers.0.mlp.up_proj.bias"), nullptr);

  value.erase("model_type");
  value["architectures"] = {"MistralForCausalLM"};
  EXPECT_EQ(Parse(value).model_type, "mistral");
}

TEST(ModelConfigTest, SlidingWindows) {
  json value = Llama();
  value["sliding_window"] = 16;
  EXPECT_EQ(Parse(value).sliding_window, 0);  // Llama ignores it.
  value["model_type"] = "mistral";
  EXPECT_EQ(Parse(value).sliding_window, 16);
  value["sliding_window"] = nullptr;
  EXPECT_EQ(Parse(value).sliding_window, 0);
  value["sliding_window"] = 64;  // As long as the context.
  EXPECT_EQ(Parse(value).sliding_window, 0);
  value.erase("sliding_window");
  value["max_position_embeddings"] = 32768;
  EXPECT_EQ(Parse(value).sliding_window, 4096);  // The family's default.

  value = Llama();
  value["model_type"] = "qwen2";
  value["sliding_window"] = 16;
  EXPECT_EQ(Parse(value).sliding_window, 0);
  value["use_sliding_window"] = true;
  EXPECT_EQ(Parse(value).sliding_window, 0);  // max_window_layers is 28.
  value["max_window_layers"] = 0;
  EXPECT_EQ(Parse(value).sliding_window, 16);
  value["max_window_layers"] = 1;
  EXPECT_TRUE(absl::IsUnimplemented(
      ParseModelConfig(value.dump(), "config.json").status()));
}

TEST(ModelConfigTest, RopeScaling) {
  json value = Llama();
  value["rope_scaling"] = {{"type", "linear"}, {"factor", 2.5}};
  ModelConfig config = Parse(value);
  EXPECT_EQ(config.rope_scaling.kind, RopeScaling::Kind::kLinear);
  EXPECT_EQ(config.rope_scaling.factor, 2.5);
  value["rope_scaling"] = {{"rope_type", "dynamic"}, {"factor", 2}};
  EXPECT_EQ(Parse(value).rope_scaling.kind, RopeScaling::Kind::kDynamic);
  value["rope_scaling"] = {{"rope_type", "llama3"},
                           {"factor", 8.0},
                           {"low_freq_factor", 1.0},
                           {"high_freq_factor", 4.0},
                           {"original_max_position_embeddings", 8192}};
  config = Parse(value);
  EXPECT_EQ(config.rope_scaling.kind, RopeScaling::Kind::kLlama3);
  EXPECT_EQ(config.rope_scaling.original_max_position, 8192);
  value["rope_scaling"] = {{"type", "yarn"}, {"factor", 4.0}};
  config = Parse(value);
  EXPECT_EQ(config.rope_scaling.kind, RopeScaling::Kind::kYarn);
  EXPECT_EQ(config.rope_scaling.original_max_position, 64);
  EXPECT_EQ(config.rope_scaling.attention_factor, 0);
  value["rope_scaling"] = nullptr;
  EXPECT_EQ(Parse(value).rope_scaling.kind, RopeScaling::Kind::kNone);
  value.erase("rope_theta");
  value["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 5e5}};
  config = Parse(value);
  EXPECT_EQ(config.rope_theta, 5e5);
  EXPECT_EQ(config.rope_scaling.kind, RopeScaling::Kind::kNone);
}

TEST(ModelConfigTest, Opt) {
  ModelConfig config = Parse(Opt());
  EXPECT_EQ(config.family, ModelFamily::kOpt);
  EXPECT_EQ(config.name_prefix, "model.decoder.");
  EXPECT_TRUE(config.tied_embeddings);
  EXPECT_FALSE(config.final_norm);  // Norms after.
  auto tensors = ExpectedTensors(config);
  EXPECT_EQ(Find(tensors, "model.decoder.embed_positions.weight")->shape,
            (Dims{32, 24}));
  EXPECT_EQ(Find(tensors, "model.decoder.project_in.weight")->shape,
            (Dims{24, 12}));
  EXPECT_EQ(Find(tensors, "model.decoder.project_out.weight")->shape,
            (Dims{12, 24}));
  EXPECT_EQ(Find(tensors, "model.decoder.final_layer_norm.weight"), nullptr);
  EXPECT_NE(Find(tensors, "model.decoder.layers.1.fc2.bias"), nullptr);
  EXPECT_EQ(Find(tensors, "lm_head.weight")->shape, (Dims{40, 12}));
  EXPECT_TRUE(Find(tensors, "lm_head.weight")->optional);
  const auto linears = BlockLinears(config, 0);
  ASSERT_EQ(linears.size(), 6u);
  EXPECT_EQ(linears[3].name, "model.decoder.layers.0.self_attn.out_proj");
  EXPECT_EQ(linears[5].hessian_group, "mlp_out");

  json value = Opt();
  value["do_layer_norm_before"] = true;
  value["word_embed_proj_dim"] = 24;
  value["enable_bias"] = false;
  tensors = ExpectedTensors(Parse(value));
  EXPECT_NE(Find(tensors, "model.decoder.final_layer_norm.bias"), nullptr);
  EXPECT_EQ(Find(tensors, "model.decoder.project_in.weight"), nullptr);
  EXPECT_EQ(Find(tensors, "model.decoder.layers.1.fc2.bias"), nullptr);
  value["_remove_final_layer_norm"] = true;
  EXPECT_FALSE(Parse(value).final_norm);
}

TEST(ModelConfigTest, NamesAreUnique) {
  for (const json& value : {Llama(), Opt()}) {
    const auto tensors = ExpectedTensors(Parse(value));
    std::set<std::string> names;
    for (const auto& tensor : tensors) {
      EXPECT_TRUE(names.insert(tensor.name).second) << tensor.name;
    }
  }
}

TEST(ModelConfigTest, WrongFieldsAreNamed) {
  const struct {
    const char* field;
    json value;
  } kCases[] = {
      {"hidden_size", nullptr},
      {"hidden_size", -24},
      {"hidden_size", 0},
      {"hidden_size", 24.5},
      {"hidden_size", "24"},
      {"hidden_size", 25},
      {"hidden_size", 1e30},
      {"num_hidden_layers", 18446744073709551615u},
      {"num_hidden_layers", 2'000'000},
      {"vocab_size", json::array({1})},
      {"num_key_value_heads", 3},
      {"intermediate_size", false},
      {"head_dim", 7},
      {"rms_norm_eps", -1},
      {"rope_theta", "big"},
      {"tie_word_embeddings", "no"},
      {"attention_bias", 1},
      {"max_position_embeddings", json::object()},
      {"rope_scaling", "linear"},
  };
  for (const auto& test : kCases) {
    json value = Llama();
    value[test.field] = test.value;
    const auto status =
        ParseModelConfig(value.dump(), "m/config.json").status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << test.field << test.value;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("m/config.json"), HasSubstr(test.field)));
  }
}

TEST(ModelConfigTest, UnsupportedThingsListTheSupported) {
  auto expect = [](json value, const std::string& what) {
    const auto status =
        ParseModelConfig(value.dump(), "m/config.json").status();
    EXPECT_TRUE(absl::IsUnimplemented(status)) << status;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr(what), HasSubstr("mistral"),
                      HasSubstr("m/config.json")));
  };
  json value = Llama();
  value["model_type"] = "gpt_neox";
  expect(value, "gpt_neox");
  value = Llama();
  value["hidden_act"] = "gelu";
  expect(value, "gelu");
  value = Llama();
  value["rope_scaling"] = {{"type", "longrope"}, {"factor", 4}};
  expect(value, "longrope");
  value = Llama();
  value["partial_rotary_factor"] = 0.5;
  expect(value, "partial");
  value = Opt();
  value["activation_function"] = "swish";
  expect(value, "swish");
}

TEST(ModelConfigTest, BadJson) {
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("[]"), std::string("{}"),
        std::string("{\"model_type\":\"llama\",\"model_type\":\"opt\"}"),
        std::string("{\"a\":") + std::string(100'000, '['),
        std::string(200'000, '['), std::string("nan")}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseModelConfig(text, "c").status()));
  }
}

}  // namespace
}  // namespace bitwright
