#ifndef ROUTER_TEXT_TOKENIZER_SPEC_H_
#define ROUTER_TEXT_TOKENIZER_SPEC_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/sha256.h"

namespace sluice::router {

// Where a tokenizer comes from.
enum class TokenizerKind : uint32_t {
  kBpe = 0,            // GGUF `tokenizer.ggml.model` = "gpt2"
  kSpm = 1,            // GGUF `tokenizer.ggml.model` = "llama"
  kTokenizerJson = 2,  // a Hugging Face folder
};

// Everything that defines a tokenizer, as a worker sends it in its model card.
// A plain value: nothing is checked before MakeTokenizer().
struct TokenizerSpec {
  TokenizerKind kind = TokenizerKind::kBpe;

  // GGUF metadata; empty for kTokenizerJson.
  std::vector<std::string> tokens;  // [vocab]
  std::vector<float> scores;        // [vocab]; kSpm only
  // [vocab], or empty if all are normal: 1 normal, 2 unknown, 3 control,
  // 4 user-defined, 5 unused, 6 byte.
  std::vector<int32_t> types;
  std::vector<std::string> merges;  // "left right", best first; kBpe only
  std::string pre;                  // `tokenizer.ggml.pre`; kBpe only
  bool add_bos = false;
  bool add_eos = false;
  bool add_space_prefix = false;  // kSpm only

  // -1: none. For kTokenizerJson they override what the files say.
  int32_t bos_id = -1;
  int32_t eos_id = -1;
  int32_t unk_id = -1;
  int32_t pad_id = -1;
  std::vector<int32_t> eos_ids;  // further ids that end a generation

  // The files' text; empty if absent. kTokenizerJson only.
  std::string tokenizer_json;
  std::string tokenizer_config_json;
  std::string generation_config_json;
};

// SHA-256 over every field, each with its length, in the order above: equal
// digests mean equal tokenizers.
Sha256Digest DigestOf(const TokenizerSpec& spec);

}  // namespace sluice::router

#endif  // ROUTER_TEXT_TOKENIZER_SPEC_H_
