#ifndef ROUTER_TEXT_TOKENIZER_JSON_H_
#define ROUTER_TEXT_TOKENIZER_JSON_H_

#include "absl/status/statusor.h"
#include "router/text/tokenizer_definition.h"
#include "router/text/tokenizer_spec.h"

namespace sluice::router {

// Reads a Hugging Face folder's tokenizer.json (with its two configs), model
// BPE or Unigram. kInvalidArgument naming the offending value: bad JSON, ids
// with holes or repeats, merges of unknown tokens, unsupported steps, limits
// of tokenizer_limits.h.
absl::StatusOr<TokenizerDefinition> DefinitionFromTokenizerJson(
    const TokenizerSpec& spec);

}  // namespace sluice::router

#endif  // ROUTER_TEXT_TOKENIZER_JSON_H_
