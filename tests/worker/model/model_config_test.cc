#include "worker/model/model_config.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace sluice::worker {
namespace {

// A whole config.json with `more` appended to its keys.
std::string Config(absl::string_view model_type, absl::string_view more) {
  return absl::StrCat(
      R"({"model_type":")", model_type,
      R"(","vocab_size":512,"hidden_size":64,"num_hidden_layers":4,)",
      R"("num_attention_heads":4,"num_key_value_heads":2,)",
      R"("intermediate_size":128,"max_position_embeddings":512,)",
      R"("rms_norm_eps":1e-5,"eos_token_id":1)", more, "}");
}

ModelConfig Parsed(absl::string_view model_type, absl::string_view more) {
  auto config = ConfigFromJson(Config(model_type, more));
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? *config : ModelConfig();
}

TEST(ConfigFromJson, PlainLlama) {
  const ModelConfig c = Parsed("llama", R"(,"rope_theta":5e5)");
  EXPECT_EQ(c.architecture->name, "llama");
  EXPECT_EQ(c.vocab, 512);
  EXPECT_EQ(c.head_dim, 16);
  EXPECT_EQ(c.kv_heads, 2);
  EXPECT_EQ(c.norm_epsilon, 1e-5f);
  EXPECT_EQ(c.rope.base, 5e5);
  EXPECT_EQ(c.rope.rot, 16);
  EXPECT_EQ(c.rope.scaling, kernels::RopeScaling::kNone);
  EXPECT_EQ(c.rope_pairs, kernels::RopePairs::kHalf);
  EXPECT_FALSE(c.qkv_bias);
  EXPECT_FALSE(c.tied_head);
  EXPECT_EQ(c.eos_ids, (std::vector<int64_t>{1}));
}

TEST(ConfigFromJson, BiasesAndNormsByArchitecture) {
  EXPECT_TRUE(Parsed("qwen2", "").qkv_bias);
  EXPECT_FALSE(Parsed("qwen2", "").output_bias);
  EXPECT_FALSE(Parsed("qwen3", "").qkv_bias);
  EXPECT_TRUE(Parsed("qwen3", "").architecture->norm_of_q_and_k);
  const ModelConfig biased =
      Parsed("llama", R"(,"attention_bias":true,"mlp_bias":true)");
  EXPECT_TRUE(biased.qkv_bias && biased.output_bias && biased.mlp_bias);
}

TEST(ConfigFromJson, OldAndNewRopeKeys) {
  for (const char* more :
       {R"(,"rope_theta":1e6,"rope_scaling":{"type":"linear","factor":4})",
        R"(,"rope_theta":1e6,"rope_scaling":{"rope_type":"linear",)"
        R"("factor":4.0})",
        R"(,"rope_parameters":{"rope_type":"linear","rope_theta":1e6,)"
        R"("factor":4})",
        R"(,"rope_parameters":{"full_attention":{"rope_type":"linear",)"
        R"("rope_theta":1e6,"factor":4}})",
        R"(,"rope_theta":1e6,"rope_scaling":{"type":"linear","factor":4},)"
        R"("rope_parameters":{"rope_type":"linear","rope_theta":1000000,)"
        R"("factor":4.0})"}) {
    const ModelConfig c = Parsed("llama", more);
    EXPECT_EQ(c.rope.scaling, kernels::RopeScaling::kLinear) << more;
    EXPECT_EQ(c.rope.base, 1e6) << more;
    EXPECT_EQ(c.rope.factor, 4) << more;
  }
}

TEST(ConfigFromJson, RopeScalings) {
  ModelConfig c =
      Parsed("llama", R"(,"rope_scaling":{"rope_type":"llama3","factor":8,)"
                      R"("low_freq_factor":1,"high_freq_factor":4,)"
                      R"("original_max_position_embeddings":32})");
  EXPECT_EQ(c.rope.scaling, kernels::RopeScaling::kLlama3);
  EXPECT_EQ(c.rope.original_positions, 32);
  EXPECT_EQ(c.rope.attention_factor, 1);
  c = Parsed("llama", R"(,"rope_scaling":{"rope_type":"yarn","factor":4,)"
                      R"("original_max_position_embeddings":32})");
  EXPECT_EQ(c.rope.scaling, kernels::RopeScaling::kYarn);
  EXPECT_EQ(c.rope.beta_fast, 32);
  EXPECT_NEAR(c.rope.attention_factor, 1.138629, 1e-6);
  // Attention specification section 7.3: factor 40, mscale over all_dim.
  c = Parsed("llama", R"(,"rope_scaling":{"rope_type":"yarn","factor":40,)"
                      R"("original_max_position_embeddings":32,)"
                      R"("mscale":1.0,"mscale_all_dim":0.5})");
  EXPECT_NEAR(c.rope.attention_factor, 1.368888 / 1.184444, 1e-6);
  c = Parsed("llama", R"(,"rope_scaling":{"rope_type":"yarn","factor":4,)"
                      R"("attention_factor":0.75})");
  EXPECT_EQ(c.rope.attention_factor, 0.75);
  EXPECT_EQ(c.rope.original_positions, 512);
}

TEST(ConfigFromJson, Refusals) {
  using absl::StatusCode;
  struct Case {
    std::string json;
    StatusCode code;
    std::string text;
  };
  const auto llama = [](absl::string_view more) {
    return Config("llama", more);
  };
  const auto without = [](absl::string_view key) {
    return absl::StrReplaceAll(Config("llama", ""), {{key, "\"other\""}});
  };
  const Case cases[] = {
      {"", StatusCode::kInvalidArgument, "not a JSON object"},
      {"[1]", StatusCode::kInvalidArgument, "not a JSON object"},
      {Config("mamba", ""), StatusCode::kUnimplemented,
       "unknown architecture \"mamba\"; known: llama, qwen2, qwen3"},
      {llama(R"(,"architectures":["Qwen2ForRewardModel"])"),
       StatusCode::kUnimplemented,
       "unknown architecture \"Qwen2ForRewardModel\""},
      {without("\"hidden_size\""), StatusCode::kInvalidArgument,
       "hidden_size is missing"},
      {without("\"vocab_size\""), StatusCode::kInvalidArgument,
       "vocab_size is missing"},
      {llama(R"(,"head_dim":"x")"), StatusCode::kInvalidArgument,
       "head_dim must be a count, got \"x\""},
      {llama(R"(,"head_dim":12)"), StatusCode::kUnimplemented,
       "head_dim must be a multiple of 8, got 12"},
      {llama(R"(,"num_key_value_heads":3)"), StatusCode::kInvalidArgument,
       "no multiple of 3 kv heads"},
      {llama(R"(,"rope_theta":1e4,"rope_parameters":{"rope_theta":1e5})"),
       StatusCode::kInvalidArgument, "rope_theta is given twice"},
      {llama(R"(,"rope_scaling":{"type":"yarn","rope_type":"linear"})"),
       StatusCode::kInvalidArgument, "is given twice"},
      {llama(R"(,"rope_scaling":{"rope_type":"longrope"})"),
       StatusCode::kUnimplemented, "\"longrope\" is not supported"},
      {llama(R"(,"rope_scaling":{"rope_type":"linear"})"),
       StatusCode::kInvalidArgument, "factor is missing"},
      {llama(R"(,"rope_scaling":{"rope_type":"yarn","factor":2,)"
             R"("truncate":false})"),
       StatusCode::kUnimplemented, "truncate"},
      {llama(R"(,"hidden_act":"gelu")"), StatusCode::kUnimplemented,
       "hidden_act must be \"silu\", got \"gelu\""},
      {llama(R"(,"quantization_config":{})"), StatusCode::kUnimplemented,
       "quantization_config is not supported"},
      {llama(R"(,"sliding_window":128)"), StatusCode::kUnimplemented,
       "sliding_window 128 is active"},
      {Config("qwen2", R"(,"sliding_window":128,"use_sliding_window":true,)"
                       R"("max_window_layers":2)"),
       StatusCode::kUnimplemented, "sliding_window 128 is active"},
      {llama(R"(,"layer_types":["sliding_attention"])"),
       StatusCode::kUnimplemented, "layer_types"},
      {llama(R"(,"partial_rotary_factor":0.5)"), StatusCode::kUnimplemented,
       "partial_rotary_factor must be 1"},
      {llama(R"(,"rms_norm_eps":0)"), StatusCode::kInvalidArgument,
       "norm epsilon must be finite and positive"},
      {llama(R"(,"eos_token_id":"x")"), StatusCode::kInvalidArgument,
       "eos_token_id must be token ids"},
      {llama(R"(,"tie_word_embeddings":1)"), StatusCode::kInvalidArgument,
       "tie_word_embeddings must be a bool"},
      {llama(R"(,"max_position_embeddings":99999999999999)"),
       StatusCode::kInvalidArgument, "max_positions must be in"},
  };
  for (const Case& c : cases) {
    const absl::Status status = ConfigFromJson(c.json).status();
    EXPECT_EQ(status.code(), c.code) << status << "; wanted " << c.text;
    EXPECT_TRUE(absl::StrContains(status.message(), c.text)) << status;
  }
}

// A window that the model does not use is no reason to refuse.
TEST(ConfigFromJson, InactiveWindows) {
  EXPECT_TRUE(ConfigFromJson(Config("qwen2", R"(,"sliding_window":128)")).ok());
  EXPECT_TRUE(ConfigFromJson(Config("qwen2", R"(,"sliding_window":128,)"
                                             R"("use_sliding_window":true,)"
                                             R"("max_window_layers":4)"))
                  .ok());
  EXPECT_TRUE(
      ConfigFromJson(Config("llama", R"(,"sliding_window":null)")).ok());
}

TEST(EosIdsFromJson, OneListOrNone) {
  EXPECT_EQ(*EosIdsFromJson(R"({"eos_token_id":[3,4]})"),
            (std::vector<int64_t>{3, 4}));
  EXPECT_TRUE(EosIdsFromJson("{}")->empty());
  EXPECT_FALSE(EosIdsFromJson("nonsense").ok());
  EXPECT_FALSE(EosIdsFromJson(R"({"eos_token_id":[3,-4]})").ok());
}

}  // namespace
}  // namespace sluice::worker
