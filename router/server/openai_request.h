#ifndef ROUTER_SERVER_OPENAI_REQUEST_H_
#define ROUTER_SERVER_OPENAI_REQUEST_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"
#include "router/flow/request_flow.h"
#include "router/server/http_error.h"

namespace sluice::router {

// A body of /v1/chat/completions or /v1/completions: the flows to run, and how
// the answer is to look. A value.
struct OpenAiRequest {
  bool chat = false;
  std::string model;
  // One a prompt. Every field that concerns generation is in here.
  std::vector<GenerateCall> calls;
  uint32_t n = 1;  // choices a prompt; choice index = prompt index * n + i
  bool stream = false;
  bool include_usage = false;     // a last chunk with the usage
  bool continuous_usage = false;  // running usage in every chunk
  bool echo = false;              // completions: the prompt leads the text
  bool scores_only = false;       // completions: max_tokens 0 with echo
  bool logprobs = false;
  uint32_t top_logprobs = 0;
  bool prompt_logprobs = false;
  bool return_token_ids = false;
  bool tokens_as_token_ids = false;  // "token_id:N" in place of token text
  bool timing = false;
  std::string service_tier;  // echoed; empty: not sent
  // Members that the operator tolerates and that were dropped.
  std::vector<std::string> ignored_fields;
};

struct OpenAiLimits {
  std::vector<std::string> tolerated_fields;
};

// Parses and checks `body` with the strictness of the API specification
// sections 3.2 and 3.3. On a mistake `error` is set, and the result is for the
// request line only: one call, and whatever could be read.
OpenAiRequest ParseChatRequest(const nlohmann::ordered_json& body,
                               const OpenAiLimits& limits,
                               std::optional<HttpError>& error);
OpenAiRequest ParseCompletionRequest(const nlohmann::ordered_json& body,
                                     const OpenAiLimits& limits,
                                     std::optional<HttpError>& error);

}  // namespace sluice::router

#endif  // ROUTER_SERVER_OPENAI_REQUEST_H_
