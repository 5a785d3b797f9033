#ifndef ROUTER_TEXT_TEXT_PIPELINE_H_
#define ROUTER_TEXT_TEXT_PIPELINE_H_

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "router/text/added_tokens.h"
#include "router/text/normalizer.h"
#include "router/text/pre_tokenizer.h"
#include "router/text/tokenizer.h"
#include "router/text/tokenizer_definition.h"

namespace sluice::router {

// What every tokenizer does around its model: checks the text, finds added
// tokens, normalises, cuts into pieces, adds BOS and EOS. Thread-safe.
class TextPipeline {
 public:
  // Takes the parts it needs out of `definition`.
  static absl::StatusOr<TextPipeline> Create(TokenizerDefinition& definition);

  using EncodePiece =
      absl::FunctionRef<void(absl::string_view piece, Encoding& out)>;

  // Errors: see Tokenizer::Encode().
  absl::StatusOr<Encoding> Run(absl::string_view text, EncodeOptions options,
                               EncodePiece encode_piece) const;

 private:
  TextPipeline() = default;
  struct Call;  // one Run()
  absl::Status RunSegment(absl::string_view segment, bool at_start,
                          Call& call) const;

  AddedTokenFinder added_;             // looked for in the text as it is
  AddedTokenFinder added_normalized_;  // and in the normalised text
  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  std::vector<int32_t> prefix_ids_;
  std::vector<int32_t> suffix_ids_;
};

}  // namespace sluice::router

#endif  // ROUTER_TEXT_TEXT_PIPELINE_H_
