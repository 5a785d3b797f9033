#ifndef ROUTER_TEXT_TOKENIZER_DEFINITION_H_
#define ROUTER_TEXT_TOKENIZER_DEFINITION_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "router/text/added_tokens.h"
#include "router/text/normalizer.h"
#include "router/text/pre_tokenizer.h"
#include "router/text/vocabulary.h"

namespace sluice::router {

enum class TokenModel {
  kByteBpe,  // merges by rank over bytes
  kCharBpe,  // merges by rank over characters
  kScores,   // merges by score over characters (SentencePiece BPE)
  kUnigram,  // the most likely cut (SentencePiece unigram)
};

// A checked tokenizer, ready to build: every id is in [0, vocab). What GGUF
// metadata and tokenizer.json are both read into.
struct TokenizerDefinition {
  struct Merge {
    int32_t left, right, merged;
  };

  TokenModel model = TokenModel::kByteBpe;
  // [vocab]. What the model matches: bytes for kByteBpe, else UTF-8. Empty
  // for tokens that the model itself never produces.
  std::vector<std::string> model_text;
  std::vector<double> scores;  // [vocab]; kScores and kUnigram
  std::vector<Merge> merges;   // best first; kByteBpe and kCharBpe
  // byte -> id of its fallback token, -1: none. Unused by kByteBpe.
  std::array<int32_t, 256> byte_ids = [] {
    std::array<int32_t, 256> none;
    none.fill(-1);
    return none;
  }();
  int32_t unk_id = -1;         // -1: what no token covers is dropped
  bool fuse_unk = false;       // neighbouring unknown parts give one token
  bool ignore_merges = false;  // a piece that is a token needs no merges

  std::vector<AddedToken> added_tokens;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  std::vector<int32_t> prefix_ids;  // around the text with add_special
  std::vector<int32_t> suffix_ids;
  Vocabulary::Options vocabulary;
};

}  // namespace sluice::router

#endif  // ROUTER_TEXT_TOKENIZER_DEFINITION_H_
