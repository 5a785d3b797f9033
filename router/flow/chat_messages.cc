#include "router/flow/chat_messages.h"

#include "absl/strings/str_cat.h"
#include "base/grpc_status.h"
#include "base/status_macros.h"
#include "base/strict_json.h"

namespace sluice::router {
namespace {

constexpr size_t kMaxMessages = 4096;
constexpr absl::string_view kRoles[] = {"system", "developer", "user",
                                        "assistant", "tool"};

using Json = nlohmann::ordered_json;

absl::Status Bad(size_t index, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("messages[", index, "]", what));
}

absl::StatusOr<std::string> JoinParts(size_t index, const Json& parts) {
  std::string text;
  for (const Json& part : parts) {
    if (!part.is_object() || !part.contains("type") ||
        !part["type"].is_string()) {
      return Bad(index, ".content has a part without a type");
    }
    const std::string type = part["type"].get<std::string>();
    if (type != "text") {
      return WithReason(absl::UnimplementedError(absl::StrCat(
                            "messages[", index, "].content: parts of type `",
                            type.substr(0, 32), "` are not supported")),
                        "UNSUPPORTED_PARAMETER");
    }
    if (!part.contains("text") || !part["text"].is_string()) {
      return Bad(index, ".content has a text part without text");
    }
    text += part["text"].get_ref<const std::string&>();
  }
  return text;
}

absl::Status Normalize(size_t index, Json& message) {
  if (!message.is_object()) return Bad(index, " must be an object");
  if (!message.contains("role") || !message["role"].is_string()) {
    return Bad(index, ".role must be a string");
  }
  const std::string& role = message["role"].get_ref<const std::string&>();
  bool known = false;
  for (absl::string_view name : kRoles) known = known || role == name;
  if (!known) {
    return Bad(index,
               absl::StrCat(".role `", role.substr(0, 32), "` is unknown"));
  }
  if (!message.contains("content") || message["content"].is_null()) {
    if (message.contains("tool_calls")) return absl::OkStatus();
    return Bad(index, ".content is missing");
  }
  Json& content = message["content"];
  if (content.is_array()) {
    ASSIGN_OR_RETURN(content, JoinParts(index, content));
  }
  if (!content.is_string()) {
    return Bad(index, ".content must be a string or a list of parts");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> NormalizeMessages(absl::string_view messages_json) {
  ASSIGN_OR_RETURN(Json messages, ParseStrictOrderedJson(messages_json));
  if (!messages.is_array() || messages.empty()) {
    return absl::InvalidArgumentError("messages must be a non-empty list");
  }
  if (messages.size() > kMaxMessages) {
    return absl::InvalidArgumentError(absl::StrCat(
        "messages has ", messages.size(), " entries, limit ", kMaxMessages));
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    RETURN_IF_ERROR(Normalize(i, messages[i]));
  }
  return messages.dump();
}

}  // namespace sluice::router
