#include "tests/worker/model/tiny_gguf.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/check.h"
#include "worker/model/model_config.h"
#include "worker/model/safetensors.h"

namespace sluice::worker {
namespace {

// Nearest f16, ties to even; enough for scales and weights of tests.
uint16_t Half(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const float a = std::fabs(value);
  if (a < 6.103515625e-5f) {  // subnormal: units of 2^-24
    return sign | static_cast<uint16_t>(std::nearbyint(std::ldexp(a, 24)));
  }
  SLUICE_CHECK(a < 65504);
  int exponent;
  const float m = std::frexp(a, &exponent);  // [0.5, 1)
  const int mantissa =
      static_cast<int>(std::nearbyint(std::ldexp(m, 11))) - 1024;
  return static_cast<uint16_t>(sign | (((exponent + 14) << 10) + mantissa));
}

float FromHalf(uint16_t half) {
  const int exponent = half >> 10 & 31;
  const int mantissa = half & 1023;
  const float a = exponent == 0
                      ? std::ldexp(float(mantissa), -24)
                      : std::ldexp(float(1024 + mantissa), exponent - 25);
  return (half & 0x8000) != 0 ? -a : a;
}

std::string Q8Block(const float* x) {
  float amax = 0;
  for (int j = 0; j < 32; ++j) amax = std::max(amax, std::fabs(x[j]));
  const uint16_t d = Half(amax / 127);
  std::string out = BytesOf(d);
  const float scale = FromHalf(d);
  for (int j = 0; j < 32; ++j) {
    const float q = scale == 0 ? 0 : std::nearbyint(x[j] / scale);
    out +=
        static_cast<char>(static_cast<int8_t>(std::clamp(q, -127.0f, 127.0f)));
  }
  return out;
}

// Codes of 4 bits by value = d * code + m.
std::string Nibbles(const float* x, float d, float m) {
  std::string out;
  const auto code = [&](float v) {
    const float q = d == 0 ? 0 : std::nearbyint((v - m) / d);
    return static_cast<int>(std::clamp(q, 0.0f, 15.0f));
  };
  for (int j = 0; j < 16; ++j) {
    out += static_cast<char>(code(x[j]) | code(x[j + 16]) << 4);
  }
  return out;
}

std::string Q4Block(const float* x, bool with_minimum) {
  const auto [low, high] = std::minmax_element(x, x + 32);
  if (with_minimum) {
    const uint16_t d = Half((*high - *low) / 15);
    const uint16_t m = Half(*low);
    return BytesOf(d) + BytesOf(m) + Nibbles(x, FromHalf(d), FromHalf(m));
  }
  const uint16_t d = Half(std::max(*high / 7, -*low / 8));
  return BytesOf(d) + Nibbles(x, FromHalf(d), -8 * FromHalf(d));
}

// Codes of 5 bits by value = d * code + m: fifth bits, then nibbles.
std::string FiveBits(const float* x, float d, float m) {
  uint32_t fifth = 0;
  uint8_t nibbles[16] = {};
  for (int j = 0; j < 32; ++j) {
    const float q = d == 0 ? 0 : std::nearbyint((x[j] - m) / d);
    const int code = static_cast<int>(std::clamp(q, 0.0f, 31.0f));
    fifth |= static_cast<uint32_t>(code >> 4) << j;
    nibbles[j % 16] |= static_cast<uint8_t>((code & 15) << (j / 16 * 4));
  }
  return BytesOf(fifth) + std::string(nibbles, nibbles + 16);
}

std::string Q5Block(const float* x, bool with_minimum) {
  const auto [low, high] = std::minmax_element(x, x + 32);
  if (with_minimum) {
    const uint16_t d = Half((*high - *low) / 31);
    const uint16_t m = Half(*low);
    return BytesOf(d) + BytesOf(m) + FiveBits(x, FromHalf(d), FromHalf(m));
  }
  const uint16_t d = Half(std::max(*high / 15, -*low / 16));
  return BytesOf(d) + FiveBits(x, FromHalf(d), -16 * FromHalf(d));
}

std::string BlockOf32(const float* x, uint32_t type) {
  switch (type) {
    case 8:
      return Q8Block(x);
    case 6:
    case 7:
      return Q5Block(x, type == 7);
    default:
      SLUICE_CHECK(type == 2 || type == 3);
      return Q4Block(x, type == 3);
  }
}

std::vector<float> Widened(const StoredTensor& tensor) {
  SLUICE_CHECK(tensor.type_name == "BF16");
  std::vector<float> values(tensor.num_bytes / 2);
  for (size_t i = 0; i < values.size(); ++i) {
    uint16_t half;
    std::memcpy(&half, tensor.bytes + 2 * i, 2);
    const uint32_t bits = uint32_t{half} << 16;
    std::memcpy(&values[i], &bits, 4);
  }
  return values;
}

// Stored row 2i + c of a head is row i + c * head_dim / 2 of the other file.
std::vector<float> Permuted(const std::vector<float>& rows, int64_t k,
                            int64_t head_dim) {
  std::vector<float> out(rows.size());
  const int64_t n = static_cast<int64_t>(rows.size()) / k;
  for (int64_t row = 0; row < n; ++row) {
    const int64_t head = row / head_dim * head_dim;
    const int64_t in_head = row % head_dim;
    const int64_t from = head + in_head / 2 + in_head % 2 * head_dim / 2;
    std::copy_n(rows.begin() + from * k, k, out.begin() + row * k);
  }
  return out;
}

std::string GgufName(const std::string& name) {
  return absl::StrReplaceAll(name, {{"model.layers.", "blk."},
                                    {"self_attn.q_proj", "attn_q"},
                                    {"self_attn.k_proj", "attn_k"},
                                    {"self_attn.v_proj", "attn_v"},
                                    {"self_attn.o_proj", "attn_output"},
                                    {"self_attn.q_norm", "attn_q_norm"},
                                    {"self_attn.k_norm", "attn_k_norm"},
                                    {"input_layernorm", "attn_norm"},
                                    {"post_attention_layernorm", "ffn_norm"},
                                    {"mlp.gate_proj", "ffn_gate"},
                                    {"mlp.up_proj", "ffn_up"},
                                    {"mlp.down_proj", "ffn_down"},
                                    {"model.embed_tokens", "token_embd"},
                                    {"model.norm", "output_norm"},
                                    {"lm_head", "output"}});
}

void WriteKeys(const TinyGgufOptions& options, const ModelConfig& c,
               GgufWriter* out) {
  const std::string arch(c.architecture->name);
  const auto count = [&](const char* key, int64_t value) {
    out->U32(absl::StrCat(arch, ".", key), static_cast<uint32_t>(value));
  };
  out->String("general.architecture", arch);
  count("block_count", c.layers);
  count("context_length", c.max_positions);
  count("embedding_length", c.hidden);
  count("feed_forward_length", c.ffn);
  count("attention.head_count", c.heads);
  count("attention.head_count_kv", c.kv_heads);
  if (options.write_key_length) count("attention.key_length", c.head_dim);
  out->F32(arch + ".attention.layer_norm_rms_epsilon", c.norm_epsilon);
  if (options.write_rope_base) {
    out->F32(arch + ".rope.freq_base", static_cast<float>(c.rope.base));
  }
  std::vector<std::string> tokens;
  for (int64_t i = 0; i < c.vocab; ++i) tokens.push_back(absl::StrCat("t", i));
  out->String("tokenizer.ggml.model", "gpt2")
      .Strings("tokenizer.ggml.tokens", tokens)
      .U32("tokenizer.ggml.eos_token_id", 1);
  if (options.more_keys) options.more_keys(out);
}

}  // namespace

std::string Quantised(const std::vector<float>& values, uint32_t type) {
  std::string out;
  if (type == 0 || type == 1 || type == 30) {
    for (float v : values) {
      uint32_t bits;
      std::memcpy(&bits, &v, 4);
      if (type == 0) out += BytesOf(v);
      if (type == 1) out += BytesOf(Half(v));
      if (type == 30) out += BytesOf(static_cast<uint16_t>(bits >> 16));
    }
    return out;
  }
  SLUICE_CHECK(values.size() % 32 == 0);
  for (size_t i = 0; i < values.size(); i += 32) {
    out += BlockOf32(&values[i], type);
  }
  return out;
}

std::string TinyGguf(const TinyGgufOptions& options) {
  const std::string folder = "tests/golden/tiny/" + options.family;
  auto text = ReadTextFile(folder + "/config.json", 1 << 20);
  SLUICE_CHECK(text.ok());
  auto config = ConfigFromJson(*text);
  auto weights = ReadSafetensorsFolder(folder);
  SLUICE_CHECK(config.ok() && weights.ok());
  GgufWriter out;
  WriteKeys(options, *config, &out);
  for (const auto& [name, tensor] : weights->tensors()) {
    std::vector<float> values = Widened(tensor);
    const std::string gguf_name = GgufName(name);
    const bool q_or_k = absl::StrContains(gguf_name, "attn_q.") ||
                        absl::StrContains(gguf_name, "attn_k.");
    const int64_t k = tensor.shape.size() == 1 ? 1 : tensor.shape.back();
    if (q_or_k && options.permute_q_and_k) {
      values = Permuted(values, k, config->head_dim);
    }
    std::vector<uint64_t> shape(tensor.shape.rbegin(), tensor.shape.rend());
    const uint32_t type = shape.size() == 1 ? 0 : options.type_of(gguf_name);
    out.Tensor(gguf_name, std::move(shape), type, Quantised(values, type));
  }
  return out.Build();
}

}  // namespace sluice::worker
