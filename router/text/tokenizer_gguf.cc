#include "router/text/tokenizer_gguf.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/status_macros.h"
#include "router/text/byte_alphabet.h"
#include "router/text/tokenizer_limits.h"
#include "router/text/utf8.h"

namespace sluice::router {
namespace {

constexpr absl::string_view kSpaceMark = "▁";

enum TokenType : int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

using TokenIds = absl::flat_hash_map<absl::string_view, int32_t>;

template <typename... Args>
absl::Status Bad(const Args&... args) {
  return absl::InvalidArgumentError(
      absl::StrCat("tokenizer metadata: ", args...));
}

TokenType TypeOf(const TokenizerSpec& spec, size_t id) {
  return spec.types.empty() ? kNormal : static_cast<TokenType>(spec.types[id]);
}

absl::StatusOr<TokenIds> CheckTokens(const TokenizerSpec& spec) {
  if (spec.tokens.empty()) return Bad("no tokens");
  RETURN_IF_ERROR(
      CheckLimit("vocabulary", spec.tokens.size(), kMaxVocabTokens));
  RETURN_IF_ERROR(CheckLimit("merges", spec.merges.size(), kMaxMerges));
  if (!spec.types.empty() && spec.types.size() != spec.tokens.size()) {
    return Bad(spec.types.size(), " token types for ", spec.tokens.size(),
               " tokens");
  }
  TokenIds ids;
  ids.reserve(spec.tokens.size());
  for (size_t id = 0; id < spec.tokens.size(); ++id) {
    const std::string& token = spec.tokens[id];
    RETURN_IF_ERROR(CheckLimit("token bytes", token.size(), kMaxTokenBytes));
    if (FindInvalidUtf8(token) != absl::string_view::npos) {
      return Bad("token ", id, " is not UTF-8");
    }
    const auto [it, is_new] = ids.try_emplace(token, static_cast<int32_t>(id));
    if (!is_new) {
      return Bad("token ", id, " \"", token, "\" repeats token ", it->second);
    }
    const int32_t type = TypeOf(spec, id);
    if (type < kNormal || type > kByte) {
      return Bad("token ", id, " has type ", type);
    }
  }
  return ids;
}

absl::Status CheckScores(const TokenizerSpec& spec) {
  if (spec.scores.size() != spec.tokens.size()) {
    return Bad(spec.scores.size(), " scores for ", spec.tokens.size(),
               " tokens");
  }
  for (size_t id = 0; id < spec.scores.size(); ++id) {
    if (!std::isfinite(spec.scores[id])) {
      return Bad("score of token ", id, " is ", spec.scores[id]);
    }
  }
  return absl::OkStatus();
}

absl::Status ReadMerges(const TokenizerSpec& spec, const TokenIds& ids,
                        TokenizerDefinition& out) {
  out.merges.reserve(spec.merges.size());
  for (size_t i = 0; i < spec.merges.size(); ++i) {
    const std::string& text = spec.merges[i];
    const size_t space = text.find(' ', 1);
    if (space == std::string::npos || space + 1 == text.size()) {
      return Bad("merge ", i, " \"", Utf8Excerpt(text, 200),
                 "\" is not two tokens");
    }
    const std::string left = text.substr(0, space);
    const std::string right = text.substr(space + 1);
    const auto left_id = ids.find(left);
    const auto right_id = ids.find(right);
    const std::string merged = left + right;
    const auto merged_id = ids.find(merged);
    if (left_id == ids.end() || right_id == ids.end() ||
        merged_id == ids.end()) {
      return Bad("merge ", i, " \"", Utf8Excerpt(text, 200),
                 "\" uses a token that is missing");
    }
    out.merges.push_back(
        {left_id->second, right_id->second, merged_id->second});
  }
  return absl::OkStatus();
}

// One token of a byte-level vocabulary.
void AddBpeToken(const std::string& token, TokenType type,
                 TokenizerDefinition& out) {
  std::string model_text, bytes = token;
  if (type == kNormal || type == kUnused) {
    if (std::optional<std::string> spelt = BytesOfAlphabet(token)) {
      bytes = *std::move(spelt);
      if (type == kNormal) model_text = bytes;
    }
  }
  out.model_text.push_back(std::move(model_text));
  out.vocabulary.token_bytes.push_back(std::move(bytes));
}

// One token of a SentencePiece vocabulary.
absl::Status AddSpmToken(const std::string& token, TokenType type, int32_t id,
                         TokenizerDefinition& out) {
  std::string model_text;
  std::string bytes = absl::StrReplaceAll(token, {{kSpaceMark, " "}});
  if (type == kByte) {
    const std::optional<uint8_t> byte = ByteOfFallbackToken(token);
    if (!byte.has_value()) {
      return Bad("byte token ", id, " is \"", token, "\"");
    }
    out.byte_ids[*byte] = id;
    bytes.assign(1, static_cast<char>(*byte));
  } else if (type == kNormal || type == kUserDefined) {
    model_text = token;
  }
  out.model_text.push_back(std::move(model_text));
  out.vocabulary.token_bytes.push_back(std::move(bytes));
  return absl::OkStatus();
}

absl::Status ReadTokens(const TokenizerSpec& spec, TokenizerDefinition& out) {
  const bool spm = spec.kind == TokenizerKind::kSpm;
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    const TokenType type = TypeOf(spec, i);
    const auto id = static_cast<int32_t>(i);
    const bool special = type == kControl || type == kUnknown;
    out.vocabulary.is_special.push_back(special);
    if ((special || type == kUserDefined) && !spec.tokens[i].empty()) {
      AddedToken added;
      added.id = id;
      added.content = spec.tokens[i];
      added.special = special;
      out.added_tokens.push_back(std::move(added));
    }
    if (spm) {
      RETURN_IF_ERROR(AddSpmToken(spec.tokens[i], type, id, out));
    } else {
      AddBpeToken(spec.tokens[i], type, out);
    }
  }
  return absl::OkStatus();
}

absl::Status ReadAffixes(const TokenizerSpec& spec, TokenizerDefinition& out) {
  if (spec.add_bos && spec.bos_id < 0) return Bad("add_bos without a BOS id");
  if (spec.add_eos && spec.eos_id < 0) return Bad("add_eos without an EOS id");
  if (spec.add_bos) out.prefix_ids.push_back(spec.bos_id);
  if (spec.add_eos) out.suffix_ids.push_back(spec.eos_id);
  out.vocabulary.bos_id = spec.bos_id;
  out.vocabulary.eos_id = spec.eos_id;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerDefinition> DefinitionFromGguf(
    const TokenizerSpec& spec) {
  ASSIGN_OR_RETURN(const TokenIds ids, CheckTokens(spec));
  TokenizerDefinition out;
  if (spec.kind == TokenizerKind::kSpm) {
    RETURN_IF_ERROR(CheckScores(spec));
    out.model = TokenModel::kScores;
    out.scores.assign(spec.scores.begin(), spec.scores.end());
    out.fuse_unk = true;
    if (spec.add_space_prefix) out.normalizer.AddPrepend(" ");
    out.normalizer.AddReplaceText(" ", absl::StrCat(kSpaceMark));
    out.vocabulary.strips_leading_space = spec.add_space_prefix;
  } else {
    out.model = TokenModel::kByteBpe;
    RETURN_IF_ERROR(out.pre_tokenizer.AddNamed(spec.pre));
    RETURN_IF_ERROR(ReadMerges(spec, ids, out));
    out.ignore_merges = absl::StartsWith(spec.pre, "llama");
  }
  RETURN_IF_ERROR(ReadTokens(spec, out));
  RETURN_IF_ERROR(ReadAffixes(spec, out));
  // A declared unknown token is a fallback only where bytes are none.
  const bool has_byte_tokens =
      std::any_of(out.byte_ids.begin(), out.byte_ids.end(),
                  [](int32_t id) { return id >= 0; });
  if (spec.kind == TokenizerKind::kSpm && !has_byte_tokens) {
    out.unk_id = spec.unk_id;
  }
  return out;
}

}  // namespace sluice::router
