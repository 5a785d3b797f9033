// Traps of model files (quantisation specification section 10.3), each with a
// tiny GGUF file made from the same weights as the safetensors models.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/worker/exec/rig.h"
#include "tests/worker/model/tiny_gguf.h"
#include "worker/model/loaded_model.h"

namespace sluice::worker {
namespace {

const std::vector<TokenId> kPrompt = {3, 400, 17,  5, 99, 12, 300, 301, 8,  77,
                                      1, 2,   511, 4, 6,  60, 61,  62,  63, 9};

uint32_t Bf16(const std::string&) { return 30; }

std::string WriteGguf(const TinyGgufOptions& options) {
  static int files = 0;
  const std::string path =
      absl::StrCat(testing::TempDir(), "/trap", files++, ".gguf");
  WriteFile(path, TinyGguf(options));
  return path;
}

// Logits of the last position, f32 everywhere.
std::vector<float> LogitsOf(const std::string& path) {
  Rig rig({.model = SharedModel(path, true),
           .kv_dtype = kernels::KvDtype::kF32,
           .num_blocks = 8,
           .max_batch_tokens = 64});
  return rig.LogitsAt(kPrompt, {static_cast<int32_t>(kPrompt.size()) - 1});
}

double LargestDifference(const std::vector<float>& a,
                         const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    worst = std::max(worst, std::abs(double{a[i]} - b[i]));
  }
  return worst;
}

absl::Status LoadStatus(const std::string& path) {
  kernels::ThreadPool threads(1);
  return LoadModel({.path = path}, {&threads}, {}).status();
}

TEST(GgufTraps, LlamaRowsArePermutedAndRotationIsInterleaved) {
  const std::vector<float> want = LogitsOf(TinyModelPath("llama"));
  EXPECT_LE(
      LargestDifference(
          want, LogitsOf(WriteGguf({.family = "llama", .type_of = Bf16}))),
      1e-4);
  EXPECT_GE(
      LargestDifference(want, LogitsOf(WriteGguf({.family = "llama",
                                                  .permute_q_and_k = false,
                                                  .type_of = Bf16}))),
      0.1);
}

TEST(GgufTraps, QwenRowsAreNotPermuted) {
  for (const char* family : {"qwen2", "qwen3"}) {
    const std::vector<float> got = LogitsOf(WriteGguf(
        {.family = family, .permute_q_and_k = false, .type_of = Bf16}));
    const std::vector<float> want = LogitsOf(TinyModelPath(family));
    EXPECT_EQ(std::memcmp(got.data(), want.data(), got.size() * 4), 0)
        << family;
  }
}

TEST(GgufTraps, NoOutputWeightMeansTheEmbeddingIsTheHead) {
  const std::string path = WriteGguf({.family = "llama_tied", .type_of = Bf16});
  EXPECT_TRUE(SharedModel(path, true)->model->config().tied_head);
  EXPECT_LE(
      LargestDifference(LogitsOf(TinyModelPath("llama_tied")), LogitsOf(path)),
      1e-4);
}

TEST(GgufTraps, AbsentKeysHaveTheirDefaults) {
  const std::string path = WriteGguf({.family = "llama",
                                      .type_of = Bf16,
                                      .write_rope_base = false,
                                      .write_key_length = false});
  const ModelConfig& c = SharedModel(path, true)->model->config();
  EXPECT_EQ(c.head_dim, 16);
  EXPECT_EQ(c.rope.rot, 16);
  EXPECT_EQ(c.rope.base, 10000);
  EXPECT_LE(LargestDifference(LogitsOf(TinyModelPath("llama")), LogitsOf(path)),
            1e-4);
}

TEST(GgufTraps, NoChatTemplateStillLoads) {
  const auto model =
      SharedModel(WriteGguf({.family = "llama", .type_of = Bf16}), true);
  EXPECT_TRUE(model->files.chat_template.empty());
  ASSERT_TRUE(model->files.vocabulary.has_value());
  EXPECT_EQ(model->files.vocabulary->tokens.size(), 512u);
  EXPECT_EQ(model->files.vocabulary->eos_id, 1u);
  EXPECT_FALSE(model->files.vocabulary->add_bos.has_value());
  EXPECT_EQ(model->files.eos_ids, (std::vector<int32_t>{1}));
}

// Llama 3 files carry divisors instead of the parameters.
TEST(GgufTraps, RopeFreqsTensor) {
  const auto reference = SharedModel(TinyModelPath("llama3_rope"), true);
  kernels::RopeParams scaled = reference->model->config().rope;
  kernels::RopeParams plain = scaled;
  plain.scaling = kernels::RopeScaling::kNone;
  const std::vector<double> f = kernels::RopeTableStorage::Frequencies(plain);
  const std::vector<double> g = kernels::RopeTableStorage::Frequencies(scaled);
  std::vector<float> divisors;
  for (size_t i = 0; i < f.size(); ++i) {
    divisors.push_back(static_cast<float>(f[i] / g[i]));
  }
  const std::string path =
      WriteGguf({.family = "llama3_rope",
                 .type_of = Bf16,
                 .more_keys = [&](GgufWriter* out) {
                   out->Tensor("rope_freqs.weight", {divisors.size()}, 0,
                               Quantised(divisors, 0));
                 }});
  const std::vector<float> want = LogitsOf(TinyModelPath("llama3_rope"));
  EXPECT_LE(LargestDifference(want, LogitsOf(path)), 1e-4);
  EXPECT_GE(LargestDifference(want, LogitsOf(WriteGguf({.family = "llama3_rope",
                                                        .type_of = Bf16}))),
            1e-2);
}

TEST(GgufTraps, YarnKeys) {
  const std::string path =
      WriteGguf({.family = "llama_yarn",
                 .type_of = Bf16,
                 .more_keys = [](GgufWriter* out) {
                   out->String("llama.rope.scaling.type", "yarn")
                       .F32("llama.rope.scaling.factor", 4)
                       .U32("llama.rope.scaling.original_context_length", 32);
                 }});
  EXPECT_LE(
      LargestDifference(LogitsOf(TinyModelPath("llama_yarn")), LogitsOf(path)),
      1e-4);
}

// Files mix types: q, k and v need not share one.
TEST(GgufTraps, MixedTypesInOneLayer) {
  const std::vector<float> want =
      LogitsOf(WriteGguf({.family = "llama", .type_of = Bf16}));
  const std::vector<float> got = LogitsOf(
      WriteGguf({.family = "llama", .type_of = [](const std::string& name) {
                   return absl::StrContains(name, "attn_k") ||
                                  absl::StrContains(name, "ffn_up")
                              ? 30u
                              : 0u;
                 }}));
  EXPECT_EQ(std::memcmp(got.data(), want.data(), got.size() * 4), 0);
}

// Every weight format gives the same bits on every level, chunking and thread
// count, and about the logits of the widened weights.
class WeightFormats : public testing::TestWithParam<uint32_t> {};

TEST_P(WeightFormats, SameBitsOnEveryLevel) {
  const uint32_t type = GetParam();
  const auto model = SharedModel(
      WriteGguf({.family = "llama",
                 .type_of =
                     [type](const std::string& name) {
                       // A quantised embedding as well, as real files have.
                       return name == "output.weight" && type == 2 ? 8u : type;
                     }}),
      false);
  std::vector<Stream> streams;
  for (kernels::Isa isa : RigIsas()) {
    for (int threads : {1, 2}) {
      Rig rig({.model = model,
               .isa = isa,
               .threads = threads,
               .num_blocks = 8,
               .max_batch_tokens = 64});
      streams.push_back(rig.Generate({.prompt = kPrompt,
                                      .count = 8,
                                      .chunk = threads == 1 ? 64 : 7,
                                      .params = Greedy(8)}));
    }
  }
  ASSERT_GE(streams.size(), 2u);
  for (const Stream& stream : streams) {
    EXPECT_EQ(stream.digests, streams[0].digests);
    EXPECT_EQ(stream.tokens, streams[0].tokens);
  }
}

TEST_P(WeightFormats, CloseToTheWidenedWeights) {
  const uint32_t type = GetParam();
  const std::string path =
      WriteGguf({.family = "llama",
                 .type_of = [type](const std::string&) { return type; }});
  std::vector<std::vector<float>> logits;
  for (bool widen : {false, true}) {
    Rig rig(
        {.model = SharedModel(path, widen),
         .kv_dtype = widen ? kernels::KvDtype::kF32 : kernels::KvDtype::kBF16,
         .num_blocks = 8,
         .max_batch_tokens = 64});
    logits.push_back(
        rig.LogitsAt(kPrompt, {static_cast<int32_t>(kPrompt.size()) - 1}));
  }
  double dot = 0, a = 0, b = 0;
  for (size_t i = 0; i < logits[0].size(); ++i) {
    dot += double{logits[0][i]} * logits[1][i];
    a += double{logits[0][i]} * logits[0][i];
    b += double{logits[1][i]} * logits[1][i];
  }
  const double cosine = dot / std::sqrt(a * b);
  std::printf("cosine distance %.2e\n", 1 - cosine);
  EXPECT_LE(1 - cosine, 2e-3);
}

INSTANTIATE_TEST_SUITE_P(Types, WeightFormats,
                         testing::Values(0u, 1u, 2u, 3u, 6u, 7u, 8u, 30u));

TEST(GgufErrors, NameTheTensorWantedAndFound) {
  using absl::StatusCode;
  struct Case {
    TinyGgufOptions options;
    StatusCode code;
    std::string text;
  };
  const auto with_key = [](std::function<void(GgufWriter*)> more) {
    return TinyGgufOptions{
        .family = "llama", .type_of = Bf16, .more_keys = std::move(more)};
  };
  const Case cases[] = {
      {with_key([](GgufWriter* w) { w->U32("llama.vocab_size", 511); }),
       StatusCode::kInvalidArgument,
       "tensor token_embd.weight: wanted shape [511, 64], found [512, 64]"},
      {with_key(
           [](GgufWriter* w) { w->U32("llama.attention.value_length", 8); }),
       StatusCode::kUnimplemented,
       "llama.attention.value_length must equal key_length 16, got 8"},
      {with_key([](GgufWriter* w) { w->U32("llama.expert_count", 8); }),
       StatusCode::kUnimplemented, "llama.expert_count 8 is not supported"},
      {with_key([](GgufWriter* w) {
         w->String("llama.rope.scaling.type", "longrope");
       }),
       StatusCode::kUnimplemented, "\"longrope\" is not supported"},
      {with_key(
           [](GgufWriter* w) { w->U32("tokenizer.ggml.eot_token_id", 512); }),
       StatusCode::kInvalidArgument, "eos token 512 is outside [0, 512)"},
      {with_key([](GgufWriter* w) {
         w->I32s("tokenizer.ggml.token_type", {1, 1});
       }),
       StatusCode::kInvalidArgument, "has 2 entries for 512 tokens"},
      {with_key([](GgufWriter* w) {
         w->Tensor("rope_freqs.weight", {4}, 0, std::string(16, '\1'));
       }),
       StatusCode::kInvalidArgument,
       "tensor rope_freqs.weight: wanted shape [8], found [4]"},
  };
  for (const Case& c : cases) {
    const absl::Status status = LoadStatus(WriteGguf(c.options));
    EXPECT_EQ(status.code(), c.code) << status << "; wanted " << c.text;
    EXPECT_TRUE(absl::StrContains(status.message(), c.text)) << status;
  }
}

TEST(GgufErrors, UnknownArchitectureAndCutFiles) {
  std::string path = absl::StrCat(testing::TempDir(), "/arch.gguf");
  GgufWriter unknown;
  unknown.String("general.architecture", "rwkv");
  WriteFile(path, unknown.Build());
  absl::Status status = LoadStatus(path);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_TRUE(absl::StrContains(
      status.message(),
      "unknown architecture \"rwkv\"; known: llama, qwen2, qwen3"))
      << status;

  const std::string bytes = TinyGguf({.family = "llama", .type_of = Bf16});
  for (size_t size : {size_t{100}, size_t{5000}, bytes.size() - 4096}) {
    WriteFile(path, absl::string_view(bytes).substr(0, size));
    status = LoadStatus(path);
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << size << status;
  }
}

}  // namespace
}  // namespace sluice::worker
