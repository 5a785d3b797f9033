#ifndef ROUTER_TEXT_TOKENIZER_CONFIG_H_
#define ROUTER_TEXT_TOKENIZER_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sluice::router {

// What tokenizer_config.json says about tokens and chats.
struct TokenizerConfig {
  std::string bos_token;  // empty: none
  std::string eos_token;
  std::string unk_token;
  bool add_bos_token = false;
  bool add_eos_token = false;
  // The default template; empty: none. A file with several has it under the
  // name "default".
  std::string chat_template;
};

// Empty text gives the defaults. kInvalidArgument naming the wrong key.
absl::StatusOr<TokenizerConfig> ParseTokenizerConfig(absl::string_view json);

// `eos_token_id` of generation_config.json, a number or a list; empty if the
// text is empty or has none. kInvalidArgument: anything else.
absl::StatusOr<std::vector<int32_t>> ParseGenerationEosIds(
    absl::string_view json);

}  // namespace sluice::router

#endif  // ROUTER_TEXT_TOKENIZER_CONFIG_H_
