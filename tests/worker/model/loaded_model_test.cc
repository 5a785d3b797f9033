#include "worker/model/loaded_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "kernels/cpu/thread_pool.h"

namespace sluice::worker {
namespace {

namespace fs = std::filesystem;

// A writable copy of the tiny llama folder.
std::string CopyOfLlama(const std::string& name) {
  const std::string folder = absl::StrCat(testing::TempDir(), "/", name);
  fs::remove_all(folder);
  fs::create_directories(folder);
  for (const auto& entry : fs::directory_iterator("tests/golden/tiny/llama")) {
    std::ifstream in(entry.path(), std::ios::binary);
    std::ofstream out(folder + "/" + entry.path().filename().string(),
                      std::ios::binary);
    out << in.rdbuf();
  }
  return folder;
}

void Write(const std::string& path, absl::string_view text) {
  std::ofstream(path, std::ios::binary) << text;
}

std::string Read(const std::string& path) {
  return *ReadTextFile(path, 1 << 24);
}

absl::StatusOr<LoadedModel> Load(const LoadOptions& options) {
  kernels::ThreadPool threads(2);
  return LoadModel(options, {&threads}, {});
}

TEST(LoadModel, FillsWhatTheModelCardNeeds) {
  const std::string folder = CopyOfLlama("card");
  Write(folder + "/generation_config.json", R"({"eos_token_id":[1,7]})");
  const auto model = Load({.path = folder + "/"});
  ASSERT_TRUE(model.ok()) << model.status();
  const ModelFiles& files = model->files;
  EXPECT_EQ(files.name, "card");
  EXPECT_EQ(files.architecture, "llama");
  EXPECT_EQ(files.vocab, 512u);
  EXPECT_EQ(files.max_context, 512u);
  EXPECT_EQ(files.eos_ids, (std::vector<int32_t>{1, 7}));
  EXPECT_TRUE(absl::StrContains(files.chat_template, "<|user|>"));
  EXPECT_EQ(files.tokenizer_json, Read(folder + "/tokenizer.json"));
  EXPECT_EQ(files.generation_config_json, R"({"eos_token_id":[1,7]})");
  EXPECT_FALSE(files.vocabulary.has_value());
  EXPECT_EQ(model->kv_dtype, kernels::KvDtype::kBF16);
  EXPECT_TRUE(model->warnings.empty());
  EXPECT_EQ(Load({.path = folder, .name = "n"})->files.name, "n");
  // A template file of its own wins.
  Write(folder + "/chat_template.jinja", "JINJA");
  EXPECT_EQ(Load({.path = folder})->files.chat_template, "JINJA");
}

TEST(LoadModel, MaxContextOnlyShrinks) {
  const std::string folder = "tests/golden/tiny/llama";
  const auto small = Load({.path = folder, .max_context = 100});
  ASSERT_TRUE(small.ok());
  EXPECT_EQ(small->files.max_context, 100u);
  EXPECT_EQ(small->model->max_positions(), 100);
  const absl::Status status =
      Load({.path = folder, .max_context = 513}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(),
            "model.max_context of 513 tokens is above the model's 512");
}

TEST(LoadModel, DigestNamesTheContentNotThePlace) {
  const std::string a = CopyOfLlama("a");
  const std::string b = CopyOfLlama("b");
  const Sha256Digest digest = Load({.path = a})->files.digest;
  EXPECT_EQ(Load({.path = b})->files.digest, digest);
  // One bit of one weight.
  std::string bytes = Read(b + "/model.safetensors");
  bytes[bytes.size() - 5] ^= 1;
  Write(b + "/model.safetensors", bytes);
  EXPECT_NE(Load({.path = b})->files.digest, digest);
  // A tokenizer makes another model as well.
  Write(a + "/tokenizer.json", Read(a + "/tokenizer.json") + " ");
  EXPECT_NE(Load({.path = a})->files.digest, digest);
}

TEST(KvFingerprint, CoversWhatTheBitsDependOn) {
  const LoadOptions plain = {.path = "tests/golden/tiny/llama"};
  LoadOptions f32_cache = plain;
  f32_cache.kv_dtype = kernels::KvDtype::kF32;
  LoadOptions widened = plain;
  widened.widen_to_f32 = true;
  std::vector<std::string> prints = {
      KvFingerprint(*Load(plain), "x86.1/a"),
      KvFingerprint(*Load(plain), "x86.1/b"),
      KvFingerprint(*Load(f32_cache), "x86.1/a"),
      KvFingerprint(*Load(widened), "x86.1/a"),
      KvFingerprint(*Load({.path = "tests/golden/tiny/llama_tied"}),
                    "x86.1/a")};
  for (size_t i = 0; i < prints.size(); ++i) {
    EXPECT_EQ(prints[i].size(), 32u);
    for (size_t j = 0; j < i; ++j) EXPECT_NE(prints[i], prints[j]);
  }
  EXPECT_EQ(KvFingerprint(*Load(plain), "x86.1/a"), prints[0]);
}

TEST(InspectModel, FindsWhatLoadFinds) {
  const LoadOptions options = {.path = "tests/golden/tiny/qwen3"};
  const auto summary = InspectModel(options);
  ASSERT_TRUE(summary.ok()) << summary.status();
  const auto model = Load(options);
  ASSERT_TRUE(model.ok());
  EXPECT_EQ(summary->weight_bytes, model->weight_bytes);
  EXPECT_EQ(summary->files.name, "qwen3");
  EXPECT_EQ(summary->config.layers, 4);
}

TEST(LoadModel, ProgressEndsAtTheTotal) {
  kernels::ThreadPool threads(1);
  std::vector<int64_t> done;
  int64_t total = 0;
  ASSERT_TRUE(LoadModel({.path = "tests/golden/tiny/llama"}, {&threads},
                        [&](int64_t d, int64_t t) {
                          done.push_back(d);
                          total = t;
                        })
                  .ok());
  ASSERT_FALSE(done.empty());
  EXPECT_EQ(done.front(), 0);
  EXPECT_EQ(done.back(), total);
  EXPECT_TRUE(std::is_sorted(done.begin(), done.end()));
}

// Renames a tensor in the header, keeping the header's length.
void Rename(const std::string& folder, absl::string_view from,
            absl::string_view to) {
  const std::string path = folder + "/model.safetensors";
  Write(path, absl::StrReplaceAll(Read(path), {{from, to}}));
}

TEST(LoadModel, MissingTensorsAreListed) {
  const std::string folder = CopyOfLlama("missing");
  Rename(folder, "layers.2.mlp.up_proj", "layers.2.mlp.uq_proj");
  const absl::Status status = Load({.path = folder}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(absl::StrContains(
      status.message(),
      "1 tensor is missing: model.layers.2.mlp.up_proj.weight [128, 64]"))
      << status;
  Rename(folder, "self_attn", "self_attm");
  const std::string text(Load({.path = folder}).status().message());
  EXPECT_TRUE(absl::StrContains(text, "17 tensors are missing")) << text;
  EXPECT_TRUE(absl::EndsWith(text, ", ...")) << text;
}

TEST(LoadModel, UnusedTensorsAreOneWarning) {
  const std::string folder = CopyOfLlama("unused");
  Write(folder + "/config.json",
        absl::StrReplaceAll(
            Read(folder + "/config.json"),
            {{"\"num_hidden_layers\": 4", "\"num_hidden_layers\": 3"}}));
  const auto model = Load({.path = folder});
  ASSERT_TRUE(model.ok()) << model.status();
  ASSERT_EQ(model->warnings.size(), 1u);
  EXPECT_TRUE(absl::StrContains(model->warnings[0], "9 tensors"))
      << model->warnings[0];
}

TEST(LoadModel, ErrorsNameTensorOrFile) {
  using absl::StatusCode;
  struct Case {
    const char* name;
    std::function<void(const std::string& folder)> spoil;
    StatusCode code;
    const char* text;
  };
  const auto change_config = [](const char* from, const char* to) {
    return [from, to](const std::string& folder) {
      const std::string path = folder + "/config.json";
      const std::string text = Read(path);
      const std::string changed = absl::StrReplaceAll(text, {{from, to}});
      ASSERT_NE(text, changed);
      Write(path, changed);
    };
  };
  const Case cases[] = {
      {"ffn",
       change_config("\"intermediate_size\": 128", "\"intermediate_size\": 96"),
       StatusCode::kInvalidArgument,
       "mlp.gate_proj.weight: wanted shape [96, 64], found [128, 64]"},
      {"no_config",
       [](const std::string& f) { fs::remove(f + "/config.json"); },
       StatusCode::kNotFound, "config.json"},
      {"no_tokenizer",
       [](const std::string& f) { fs::remove(f + "/tokenizer.json"); },
       StatusCode::kNotFound, "tokenizer.json"},
      {"no_weights",
       [](const std::string& f) { fs::remove(f + "/model.safetensors"); },
       StatusCode::kNotFound, "no .safetensors file"},
      {"cut",
       [](const std::string& f) {
         fs::resize_file(f + "/model.safetensors", 300000);
       },
       StatusCode::kDataLoss, "model.safetensors: tensor "},
      {"bad_generation",
       [](const std::string& f) { Write(f + "/generation_config.json", "["); },
       StatusCode::kInvalidArgument, "generation_config.json"},
      {"bad_tokenizer_config",
       [](const std::string& f) {
         Write(f + "/tokenizer_config.json", R"({"chat_template":3})");
       },
       StatusCode::kInvalidArgument, "chat_template must be a string"},
  };
  for (const Case& c : cases) {
    const std::string folder = CopyOfLlama(c.name);
    c.spoil(folder);
    const absl::Status status = Load({.path = folder}).status();
    EXPECT_EQ(status.code(), c.code) << c.name << ": " << status;
    EXPECT_TRUE(absl::StrContains(status.message(), c.text)) << status;
  }
  EXPECT_EQ(Load({.path = "/nonexistent/x"}).status().code(),
            StatusCode::kNotFound);
  EXPECT_FALSE(Load({.path = "tests/golden/tiny/llama/config.json"}).ok());
}

TEST(ChatTemplateFromJson, StringListOrNone) {
  EXPECT_EQ(*ChatTemplateFromJson(R"({"chat_template":"x"})"), "x");
  EXPECT_EQ(*ChatTemplateFromJson(
                R"({"chat_template":[{"name":"tool_use","template":"t"},)"
                R"({"name":"default","template":"d"}]})"),
            "d");
  EXPECT_EQ(*ChatTemplateFromJson("{}"), "");
  EXPECT_FALSE(ChatTemplateFromJson("[").ok());
}

}  // namespace
}  // namespace sluice::worker
