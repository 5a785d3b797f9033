#include "router/text/unigram_tokenizer.h"

#include <algorithm>

#include "base/check.h"
#include "base/status_macros.h"
#include "router/text/utf8.h"

namespace sluice::router {
namespace {

// SentencePiece's penalty of an unknown character below the worst token.
constexpr double kUnknownPenalty = 10.0;

}  // namespace

absl::StatusOr<std::unique_ptr<UnigramTokenizer>> UnigramTokenizer::Create(
    TokenizerDefinition definition) {
  SLUICE_CHECK(definition.model == TokenModel::kUnigram);
  ASSIGN_OR_RETURN(TextPipeline pipeline, TextPipeline::Create(definition));
  std::unique_ptr<UnigramTokenizer> tokenizer(
      new UnigramTokenizer(std::move(pipeline)));
  for (size_t id = 0; id < definition.model_text.size(); ++id) {
    if (definition.model_text[id].empty()) continue;
    tokenizer->tokens_.Insert(definition.model_text[id],
                              static_cast<int32_t>(id));
  }
  const auto worst =
      std::min_element(definition.scores.begin(), definition.scores.end());
  if (worst != definition.scores.end()) {
    tokenizer->unknown_score_ = *worst - kUnknownPenalty;
  }
  tokenizer->scores_ = std::move(definition.scores);
  tokenizer->unk_id_ = definition.unk_id;
  tokenizer->fuse_unk_ = definition.fuse_unk;
  tokenizer->byte_ids_ = definition.byte_ids;
  tokenizer->vocabulary_ = Vocabulary(std::move(definition.vocabulary));
  return tokenizer;
}

absl::StatusOr<Encoding> UnigramTokenizer::Encode(absl::string_view text,
                                                  EncodeOptions options) const {
  std::vector<Node> nodes;  // scratch for all pieces
  return pipeline_.Run(text, options,
                       [&](absl::string_view piece, Encoding& out) {
                         EncodePiece(piece, nodes, out);
                       });
}

void UnigramTokenizer::FillNodes(absl::string_view piece,
                                 std::vector<Node>& nodes) const {
  nodes.assign(piece.size() + 1, Node());
  const auto offer = [&](size_t end, Node node) {
    if (nodes[end].id == kUnreached || node.score > nodes[end].score) {
      nodes[end] = node;
    }
  };
  for (size_t at = 0; at < piece.size();) {
    const size_t char_end =
        at + Utf8SizeOfLead(static_cast<uint8_t>(piece[at]));
    bool has_char_token = false;
    tokens_.ForEachPrefix(piece, at, [&](int32_t id, size_t end) {
      const double score = scores_[static_cast<size_t>(id)];
      offer(end, {nodes[at].score + score, id, at});
      has_char_token |= end == char_end;
    });
    if (!has_char_token) {
      offer(char_end, {nodes[at].score + unknown_score_, kUnknown, at});
    }
    at = char_end;
  }
}

void UnigramTokenizer::EncodePiece(absl::string_view piece,
                                   std::vector<Node>& nodes,
                                   Encoding& out) const {
  FillNodes(piece, nodes);
  // Walk back, turning each node on the path into its token's end.
  std::vector<size_t> ends;
  for (size_t at = piece.size(); at > 0; at = nodes[at].begin) {
    ends.push_back(at);
  }
  for (size_t i = ends.size(); i-- > 0;) {
    const Node& node = nodes[ends[i]];
    if (node.id != kUnknown) {
      out.ids.push_back(node.id);
      continue;
    }
    while (fuse_unk_ && i > 0 && nodes[ends[i - 1]].id == kUnknown) --i;
    AppendUnknown(piece.substr(node.begin, ends[i] - node.begin), out);
  }
}

void UnigramTokenizer::AppendUnknown(absl::string_view text,
                                     Encoding& out) const {
  const bool covered = std::all_of(text.begin(), text.end(), [&](char c) {
    return byte_ids_[static_cast<uint8_t>(c)] >= 0;
  });
  if (covered) {
    for (char c : text) {
      out.ids.push_back(byte_ids_[static_cast<uint8_t>(c)]);
    }
  } else if (unk_id_ >= 0) {
    out.ids.push_back(unk_id_);
  } else {
    out.unencodable_bytes += text.size();
  }
}

}  // namespace sluice::router
