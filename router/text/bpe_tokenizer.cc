#include "router/text/bpe_tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "router/text/utf8.h"

namespace sluice::router {
namespace {

constexpr absl::string_view kSpaceMark = "▁";

// The first place after `begin` that stands before a mark and after any other
// character, or the end.
size_t NextCut(absl::string_view text, size_t begin) {
  bool after_mark = true;
  for (size_t at = begin; at < text.size();) {
    const bool is_mark = absl::StartsWith(text.substr(at), kSpaceMark);
    if (is_mark && !after_mark) return at;
    after_mark = is_mark;
    at += Utf8SizeOfLead(static_cast<uint8_t>(text[at]));
  }
  return text.size();
}

bool IsOneChar(absl::string_view text) {
  return !text.empty() &&
         Utf8SizeOfLead(static_cast<uint8_t>(text[0])) == text.size();
}

// [vocab] Equal scores get equal ranks; the highest score is rank 0.
std::vector<uint32_t> RanksOfScores(const std::vector<double>& scores) {
  std::vector<double> distinct = scores;
  std::sort(distinct.begin(), distinct.end(), std::greater<>());
  distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
  std::vector<uint32_t> ranks;
  ranks.reserve(scores.size());
  for (double score : scores) {
    ranks.push_back(
        static_cast<uint32_t>(std::lower_bound(distinct.begin(), distinct.end(),
                                               score, std::greater<>()) -
                              distinct.begin()));
  }
  return ranks;
}

}  // namespace

absl::StatusOr<std::unique_ptr<BpeTokenizer>> BpeTokenizer::Create(
    TokenizerDefinition definition) {
  SLUICE_CHECK(definition.model != TokenModel::kUnigram);
  ASSIGN_OR_RETURN(TextPipeline pipeline, TextPipeline::Create(definition));
  std::unique_ptr<BpeTokenizer> tokenizer(
      new BpeTokenizer(std::move(pipeline)));
  tokenizer->over_bytes_ = definition.model == TokenModel::kByteBpe;
  tokenizer->unk_id_ = definition.unk_id;
  tokenizer->fuse_unk_ = definition.fuse_unk;
  tokenizer->vocabulary_ = Vocabulary(std::move(definition.vocabulary));
  tokenizer->IndexSymbols(definition);
  if (definition.model == TokenModel::kScores) {
    tokenizer->IndexScores(definition);
  } else {
    RETURN_IF_ERROR(tokenizer->IndexMerges(definition));
  }
  tokenizer->IndexWholeUnits(definition);
  return tokenizer;
}

void BpeTokenizer::IndexSymbols(const TokenizerDefinition& definition) {
  byte_ids_ = definition.byte_ids;
  if (over_bytes_) byte_ids_.fill(-1);
  for (size_t id = 0; id < definition.model_text.size(); ++id) {
    const std::string& text = definition.model_text[id];
    if (over_bytes_) {
      if (text.size() == 1) {
        byte_ids_[static_cast<uint8_t>(text[0])] = static_cast<int32_t>(id);
      }
    } else if (IsOneChar(text)) {
      char_symbols_.try_emplace(Utf8At(text, 0).code_point,
                                static_cast<int32_t>(id));
    }
  }
  has_fallback_ = std::any_of(byte_ids_.begin(), byte_ids_.end(),
                              [](int32_t id) { return id >= 0; });
}

absl::Status BpeTokenizer::IndexMerges(const TokenizerDefinition& definition) {
  merges_ = MergeTable(definition.merges.size());
  uint32_t rank = 0;
  for (const TokenizerDefinition::Merge& merge : definition.merges) {
    if (!merges_.Insert(merge.left, merge.right, {rank, merge.merged})) {
      return absl::InvalidArgumentError(
          absl::StrCat("merge ", rank, " of tokens ", merge.left, " and ",
                       merge.right, " repeats an earlier one"));
    }
    ++rank;
  }
  return absl::OkStatus();
}

void BpeTokenizer::IndexScores(const TokenizerDefinition& definition) {
  absl::flat_hash_map<absl::string_view, int32_t> symbols;
  const std::vector<std::string>& texts = definition.model_text;
  for (size_t id = 0; id < texts.size(); ++id) {
    if (!texts[id].empty()) {
      symbols.try_emplace(texts[id], static_cast<int32_t>(id));
    }
  }
  for (const std::string& text : texts) {
    for (size_t at = 0; at < text.size();) {
      const Utf8Char c = Utf8At(text, at);
      const absl::string_view character =
          absl::string_view(text).substr(at, c.size_bytes);
      const auto next = static_cast<int32_t>(texts.size() + bare_chars_.size());
      const auto [it, is_new] = symbols.try_emplace(character, next);
      if (is_new) {
        bare_chars_.emplace_back(character);
        char_symbols_[c.code_point] = next;
      }
      at += c.size_bytes;
    }
  }

  const std::vector<uint32_t> ranks = RanksOfScores(definition.scores);
  std::vector<TokenizerDefinition::Merge> merges;
  for (const auto& [text, symbol] : symbols) {
    for (size_t cut = 0; cut < text.size();) {
      cut += Utf8SizeOfLead(static_cast<uint8_t>(text[cut]));
      if (cut >= text.size()) break;
      const auto left = symbols.find(text.substr(0, cut));
      const auto right = symbols.find(text.substr(cut));
      if (left == symbols.end() || right == symbols.end()) continue;
      merges.push_back({left->second, right->second, symbol});
    }
  }
  merges_ = MergeTable(merges.size());
  for (const TokenizerDefinition::Merge& merge : merges) {
    const uint32_t rank = ranks[static_cast<size_t>(merge.merged)];
    SLUICE_CHECK(merges_.Insert(merge.left, merge.right, {rank, merge.merged}));
  }
}

void BpeTokenizer::IndexWholeUnits(const TokenizerDefinition& definition) {
  cuts_at_marks_ =
      !over_bytes_ && !definition.ignore_merges &&
      char_symbols_.contains(Utf8At(kSpaceMark, 0).code_point) &&
      std::none_of(definition.model_text.begin(), definition.model_text.end(),
                   [](const std::string& text) {
                     return NextCut(text, 0) < text.size();
                   });
  std::vector<int32_t> symbols;
  for (size_t i = 0; i < definition.model_text.size(); ++i) {
    const std::string& text = definition.model_text[i];
    const auto id = static_cast<int32_t>(i);
    if (text.empty()) continue;
    if (!definition.ignore_merges) {
      uint64_t dropped = 0;
      symbols.clear();
      AppendSymbols(text, symbols, dropped);
      merges_.Apply(symbols);
      if (dropped != 0 || symbols.size() != 1 || symbols[0] != id) continue;
    }
    whole_units_.emplace(text, id);
  }
}

absl::StatusOr<Encoding> BpeTokenizer::Encode(absl::string_view text,
                                              EncodeOptions options) const {
  std::vector<int32_t> symbols;  // scratch for all pieces
  return pipeline_.Run(text, options,
                       [&](absl::string_view piece, Encoding& out) {
                         EncodePiece(piece, symbols, out);
                       });
}

void BpeTokenizer::EncodePiece(absl::string_view piece,
                               std::vector<int32_t>& symbols,
                               Encoding& out) const {
  if (!cuts_at_marks_) return EncodeUnit(piece, symbols, out);
  for (size_t begin = 0; begin < piece.size();) {
    const size_t end = NextCut(piece, begin);
    EncodeUnit(piece.substr(begin, end - begin), symbols, out);
    begin = end;
  }
}

void BpeTokenizer::EncodeUnit(absl::string_view unit,
                              std::vector<int32_t>& symbols,
                              Encoding& out) const {
  if (const auto whole = whole_units_.find(unit); whole != whole_units_.end()) {
    out.ids.push_back(whole->second);
    return;
  }
  symbols.clear();
  AppendSymbols(unit, symbols, out.unencodable_bytes);
  merges_.Apply(symbols);
  if (!bare_chars_.empty()) ResolveBareChars(symbols, out.unencodable_bytes);
  out.ids.insert(out.ids.end(), symbols.begin(), symbols.end());
}

void BpeTokenizer::AppendSymbols(absl::string_view unit,
                                 std::vector<int32_t>& symbols,
                                 uint64_t& dropped) const {
  if (over_bytes_) {
    AppendBytes(unit, symbols, dropped);
  } else {
    AppendChars(unit, symbols, dropped);
  }
}

void BpeTokenizer::AppendBytes(absl::string_view piece,
                               std::vector<int32_t>& symbols,
                               uint64_t& dropped) const {
  for (char c : piece) {
    const int32_t id = byte_ids_[static_cast<uint8_t>(c)];
    if (id >= 0) {
      symbols.push_back(id);
    } else {
      ++dropped;
    }
  }
}

void BpeTokenizer::AppendChars(absl::string_view piece,
                               std::vector<int32_t>& symbols,
                               uint64_t& dropped) const {
  for (size_t at = 0; at < piece.size();) {
    const Utf8Char c = Utf8At(piece, at);
    const auto it = char_symbols_.find(c.code_point);
    if (it != char_symbols_.end()) {
      symbols.push_back(it->second);
    } else {
      AppendFallback(piece.substr(at, c.size_bytes), symbols, dropped);
    }
    at += c.size_bytes;
  }
}

void BpeTokenizer::AppendFallback(absl::string_view character,
                                  std::vector<int32_t>& symbols,
                                  uint64_t& dropped) const {
  const bool covered =
      has_fallback_ &&
      std::all_of(character.begin(), character.end(), [&](char c) {
        return byte_ids_[static_cast<uint8_t>(c)] >= 0;
      });
  if (covered) {
    AppendBytes(character, symbols, dropped);
  } else if (unk_id_ < 0) {
    dropped += character.size();
  } else if (!fuse_unk_ || symbols.empty() || symbols.back() != unk_id_) {
    symbols.push_back(unk_id_);
  }
}

void BpeTokenizer::ResolveBareChars(std::vector<int32_t>& symbols,
                                    uint64_t& dropped) const {
  const int32_t vocab = vocabulary_.size();
  if (std::none_of(symbols.begin(), symbols.end(),
                   [&](int32_t symbol) { return symbol >= vocab; })) {
    return;
  }
  std::vector<int32_t> resolved;
  resolved.reserve(symbols.size());
  for (int32_t symbol : symbols) {
    if (symbol < vocab) {
      resolved.push_back(symbol);
    } else {
      AppendFallback(bare_chars_[static_cast<size_t>(symbol - vocab)], resolved,
                     dropped);
    }
  }
  symbols.swap(resolved);
}

}  // namespace sluice::router
