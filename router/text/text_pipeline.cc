#include "router/text/text_pipeline.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "router/text/utf8.h"

namespace sluice::router {
namespace {

// Pieces hold 32-bit positions, and rewriting steps may triple the text.
constexpr size_t kMaxTextBytes = 256 << 20;

absl::Status CheckText(absl::string_view text) {
  if (text.size() > kMaxTextBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "text of ", text.size(), " bytes is longer than ", kMaxTextBytes));
  }
  if (const size_t at = FindInvalidUtf8(text); at != absl::string_view::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("text is not valid UTF-8 at byte ", at));
  }
  return absl::OkStatus();
}

}  // namespace

struct TextPipeline::Call {
  EncodeOptions options;
  EncodePiece encode_piece;
  Encoding out;
  PieceList pieces;
};

absl::StatusOr<TextPipeline> TextPipeline::Create(
    TokenizerDefinition& definition) {
  TextPipeline pipeline;
  pipeline.normalizer_ = std::move(definition.normalizer);
  pipeline.pre_tokenizer_ = std::move(definition.pre_tokenizer);
  pipeline.prefix_ids_ = std::move(definition.prefix_ids);
  pipeline.suffix_ids_ = std::move(definition.suffix_ids);

  std::vector<AddedToken> as_is, normalized;
  for (AddedToken& token : definition.added_tokens) {
    if (!token.normalized || pipeline.normalizer_.empty()) {
      as_is.push_back(std::move(token));
      continue;
    }
    ASSIGN_OR_RETURN(token.content, pipeline.normalizer_.Apply(token.content));
    if (!token.content.empty()) normalized.push_back(std::move(token));
  }
  pipeline.added_ = AddedTokenFinder(std::move(as_is));
  pipeline.added_normalized_ = AddedTokenFinder(std::move(normalized));
  return pipeline;
}

absl::Status TextPipeline::RunSegment(absl::string_view segment, bool at_start,
                                      Call& call) const {
  std::string normalized;
  if (!normalizer_.empty()) {
    ASSIGN_OR_RETURN(normalized, normalizer_.Apply(segment));
    segment = normalized;
  }
  return added_normalized_.Visit(
      segment, call.options.parse_special,
      [&](const AddedToken* token, absl::string_view text,
          size_t begin) -> absl::Status {
        if (token != nullptr) {
          call.out.ids.push_back(token->id);
          return absl::OkStatus();
        }
        call.pieces.Reset(text, at_start && begin == 0);
        RETURN_IF_ERROR(pre_tokenizer_.Run(call.pieces));
        for (const PieceList::Piece piece : call.pieces.pieces()) {
          call.encode_piece(call.pieces.Text(piece), call.out);
        }
        return absl::OkStatus();
      });
}

absl::StatusOr<Encoding> TextPipeline::Run(absl::string_view text,
                                           EncodeOptions options,
                                           EncodePiece encode_piece) const {
  RETURN_IF_ERROR(CheckText(text));
  Call call{options, encode_piece, {}, {}};
  if (options.add_special) call.out.ids = prefix_ids_;
  RETURN_IF_ERROR(
      added_.Visit(text, options.parse_special,
                   [&](const AddedToken* token, absl::string_view segment,
                       size_t begin) -> absl::Status {
                     if (token != nullptr) {
                       call.out.ids.push_back(token->id);
                       return absl::OkStatus();
                     }
                     return RunSegment(segment, begin == 0, call);
                   }));
  if (options.add_special) {
    call.out.ids.insert(call.out.ids.end(), suffix_ids_.begin(),
                        suffix_ids_.end());
  }
  return std::move(call.out);
}

}  // namespace sluice::router
