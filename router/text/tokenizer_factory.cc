#include "router/text/tokenizer_factory.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/status_macros.h"
#include "router/text/bpe_tokenizer.h"
#include "router/text/tokenizer_gguf.h"
#include "router/text/tokenizer_json.h"
#include "router/text/unigram_tokenizer.h"

namespace sluice::router {
namespace {

absl::StatusOr<TokenizerDefinition> ReadSpec(const TokenizerSpec& spec) {
  switch (spec.kind) {
    case TokenizerKind::kBpe:
    case TokenizerKind::kSpm:
      return DefinitionFromGguf(spec);
    case TokenizerKind::kTokenizerJson:
      return DefinitionFromTokenizerJson(spec);
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "tokenizer kind ", static_cast<uint32_t>(spec.kind), " is unknown"));
}

absl::Status CheckId(absl::string_view name, int32_t id, size_t vocab) {
  if (id >= -1 && id < static_cast<int64_t>(vocab)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "tokenizer: ", name, " ", id, " is outside [0, ", vocab, ")"));
}

absl::Status CheckIds(const TokenizerSpec& spec, TokenizerDefinition& out) {
  const size_t vocab = out.model_text.size();
  Vocabulary::Options& vocabulary = out.vocabulary;
  RETURN_IF_ERROR(CheckId("bos id", vocabulary.bos_id, vocab));
  RETURN_IF_ERROR(CheckId("eos id", vocabulary.eos_id, vocab));
  RETURN_IF_ERROR(CheckId("unk id", spec.unk_id, vocab));
  RETURN_IF_ERROR(CheckId("pad id", spec.pad_id, vocab));
  std::vector<int32_t>& eos_ids = vocabulary.eos_ids;
  eos_ids.push_back(vocabulary.eos_id);
  eos_ids.insert(eos_ids.end(), spec.eos_ids.begin(), spec.eos_ids.end());
  for (int32_t id : eos_ids) RETURN_IF_ERROR(CheckId("eos id", id, vocab));
  std::sort(eos_ids.begin(), eos_ids.end());
  eos_ids.erase(std::unique(eos_ids.begin(), eos_ids.end()), eos_ids.end());
  if (!eos_ids.empty() && eos_ids.front() < 0) eos_ids.erase(eos_ids.begin());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(
    const TokenizerSpec& spec) {
  ASSIGN_OR_RETURN(TokenizerDefinition definition, ReadSpec(spec));
  RETURN_IF_ERROR(CheckIds(spec, definition));
  if (definition.model == TokenModel::kUnigram) {
    return UnigramTokenizer::Create(std::move(definition));
  }
  return BpeTokenizer::Create(std::move(definition));
}

}  // namespace sluice::router
