#ifndef ROUTER_TEXT_TOKENIZER_GGUF_H_
#define ROUTER_TEXT_TOKENIZER_GGUF_H_

#include "absl/status/statusor.h"
#include "router/text/tokenizer_definition.h"
#include "router/text/tokenizer_spec.h"

namespace sluice::router {

// Reads the tokenizer metadata of a GGUF file (kBpe and kSpm).
// kInvalidArgument naming the offending value: repeated tokens, merges of
// unknown tokens, lists of unequal length, unknown types or pre-tokenizer,
// limits of tokenizer_limits.h.
absl::StatusOr<TokenizerDefinition> DefinitionFromGguf(
    const TokenizerSpec& spec);

}  // namespace sluice::router

#endif  // ROUTER_TEXT_TOKENIZER_GGUF_H_
