#ifndef ROUTER_TEXT_TOKENIZER_FACTORY_H_
#define ROUTER_TEXT_TOKENIZER_FACTORY_H_

#include <memory>

#include "absl/status/statusor.h"
#include "router/text/tokenizer.h"
#include "router/text/tokenizer_spec.h"

namespace sluice::router {

// Checks everything in `spec` and builds the tokenizer. Borrows nothing.
// Linear in the size of the vocabulary (49152 tokens: about 50 ms).
// kInvalidArgument naming the offending value: anything that is wrong,
// missing, unsupported or over a limit.
absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(
    const TokenizerSpec& spec);

}  // namespace sluice::router

#endif  // ROUTER_TEXT_TOKENIZER_FACTORY_H_
