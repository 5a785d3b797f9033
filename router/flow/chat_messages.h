#ifndef ROUTER_FLOW_CHAT_MESSAGES_H_
#define ROUTER_FLOW_CHAT_MESSAGES_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sluice::router {

// Checks messages in the shape of the OpenAI chat API and joins lists of text
// parts into one string each, which is what chat templates understand. Returns
// JSON with the order of keys kept. kInvalidArgument naming the message by
// index: not a list, empty, over 4096, an unknown role, content that is
// neither text nor text parts; kUnimplemented: image, audio and file parts.
absl::StatusOr<std::string> NormalizeMessages(absl::string_view messages_json);

}  // namespace sluice::router

#endif  // ROUTER_FLOW_CHAT_MESSAGES_H_
