#ifndef ROUTER_TEXT_BPE_TOKENIZER_H_
#define ROUTER_TEXT_BPE_TOKENIZER_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "router/text/merge_table.h"
#include "router/text/text_pipeline.h"
#include "router/text/tokenizer.h"
#include "router/text/tokenizer_definition.h"

namespace sluice::router {

// Byte-pair encoding: over bytes, over characters with a byte fallback, or
// with merges ordered by token score as SentencePiece does.
class BpeTokenizer final : public Tokenizer {
 public:
  // `definition.model` is not kUnigram. kInvalidArgument: two merges of one
  // pair.
  static absl::StatusOr<std::unique_ptr<BpeTokenizer>> Create(
      TokenizerDefinition definition);

  absl::StatusOr<Encoding> Encode(absl::string_view text,
                                  EncodeOptions options) const override;
  const Vocabulary& vocabulary() const override { return vocabulary_; }

 private:
  explicit BpeTokenizer(TextPipeline pipeline)
      : pipeline_(std::move(pipeline)) {}

  void IndexSymbols(const TokenizerDefinition& definition);
  absl::Status IndexMerges(const TokenizerDefinition& definition);
  // Merges of kScores: every cut of a token into two symbols.
  void IndexScores(const TokenizerDefinition& definition);
  void IndexWholeUnits(const TokenizerDefinition& definition);

  // A piece is one unit, or with cuts_at_marks_ one for each word.
  void EncodePiece(absl::string_view piece, std::vector<int32_t>& symbols,
                   Encoding& out) const;
  void EncodeUnit(absl::string_view unit, std::vector<int32_t>& symbols,
                  Encoding& out) const;
  void AppendSymbols(absl::string_view unit, std::vector<int32_t>& symbols,
                     uint64_t& dropped) const;
  void AppendBytes(absl::string_view piece, std::vector<int32_t>& symbols,
                   uint64_t& dropped) const;
  void AppendChars(absl::string_view piece, std::vector<int32_t>& symbols,
                   uint64_t& dropped) const;
  void AppendFallback(absl::string_view character,
                      std::vector<int32_t>& symbols, uint64_t& dropped) const;
  // Replaces characters that stayed alone and are no tokens.
  void ResolveBareChars(std::vector<int32_t>& symbols, uint64_t& dropped) const;

  // Symbols are token ids, or for kScores vocab + i: bare_chars_[i], a
  // character that is part of tokens but no token itself.
  TextPipeline pipeline_;
  Vocabulary vocabulary_;
  bool over_bytes_ = true;
  int32_t unk_id_ = -1;
  bool fuse_unk_ = false;
  bool has_fallback_ = false;            // any byte has a fallback token
  std::array<int32_t, 256> byte_ids_{};  // -1: none
  absl::flat_hash_map<uint32_t, int32_t> char_symbols_;
  std::vector<std::string> bare_chars_;
  MergeTable merges_;
  // No token contains a space mark after another character, so no merge
  // crosses the place before such a mark.
  bool cuts_at_marks_ = false;
  // Units whose encoding is one token, known without merging.
  absl::flat_hash_map<std::string, int32_t> whole_units_;
};

}  // namespace sluice::router

#endif  // ROUTER_TEXT_BPE_TOKENIZER_H_
