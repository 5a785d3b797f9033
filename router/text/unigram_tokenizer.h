#ifndef ROUTER_TEXT_UNIGRAM_TOKENIZER_H_
#define ROUTER_TEXT_UNIGRAM_TOKENIZER_H_

#include <array>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "router/text/byte_trie.h"
#include "router/text/text_pipeline.h"
#include "router/text/tokenizer.h"
#include "router/text/tokenizer_definition.h"

namespace sluice::router {

// Unigram language model: the cut of a piece with the highest sum of token
// scores, by Viterbi. Costs O(bytes * longest token) per piece.
class UnigramTokenizer final : public Tokenizer {
 public:
  // `definition.model` is kUnigram.
  static absl::StatusOr<std::unique_ptr<UnigramTokenizer>> Create(
      TokenizerDefinition definition);

  absl::StatusOr<Encoding> Encode(absl::string_view text,
                                  EncodeOptions options) const override;
  const Vocabulary& vocabulary() const override { return vocabulary_; }

 private:
  // The best way to cover the bytes before one position.
  struct Node {
    double score = 0;
    int32_t id = kUnreached;  // of the last token; kUnknown: no token
    size_t begin = 0;         // where that token starts
  };
  static constexpr int32_t kUnreached = -1;
  static constexpr int32_t kUnknown = -2;

  explicit UnigramTokenizer(TextPipeline pipeline)
      : pipeline_(std::move(pipeline)) {}
  void EncodePiece(absl::string_view piece, std::vector<Node>& nodes,
                   Encoding& out) const;
  void FillNodes(absl::string_view piece, std::vector<Node>& nodes) const;
  void AppendUnknown(absl::string_view text, Encoding& out) const;

  TextPipeline pipeline_;
  Vocabulary vocabulary_;
  ByteTrie tokens_;
  std::vector<double> scores_;  // [vocab]
  double unknown_score_ = 0;    // of one character without a token
  int32_t unk_id_ = -1;
  bool fuse_unk_ = true;
  std::array<int32_t, 256> byte_ids_{};  // -1: none
};

}  // namespace sluice::router

#endif  // ROUTER_TEXT_UNIGRAM_TOKENIZER_H_
