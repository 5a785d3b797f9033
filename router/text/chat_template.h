#ifndef ROUTER_TEXT_CHAT_TEMPLATE_H_
#define ROUTER_TEXT_CHAT_TEMPLATE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace sluice::router {

class TemplateProgram;

// One chat to render. JSON travels as text, because objects must keep the
// order of their keys.
struct ChatInput {
  // A list of objects: "role" a string, "content" a string (absent or null is
  // legal only beside "tool_calls"); other members pass through. Text parts
  // must be joined before.
  std::string messages_json;
  std::string tools_json;      // a list of objects; empty: none
  std::string documents_json;  // a list of objects; empty: none
  std::string kwargs_json;     // an object of further variables; empty: none
  bool add_generation_prompt = true;
  // The text ends right after the last message's content. Excludes
  // add_generation_prompt.
  bool continue_final_message = false;
  int64_t now_unix_seconds = 0;  // what strftime_now() tells, in local time
};

// A model's chat template (Jinja). Immutable, thread-safe.
class ChatTemplate {
 public:
  // kInvalidArgument: syntax error, macros that can call themselves, or over
  // the limits of template_program.h. Empty tokens are undefined variables.
  static absl::StatusOr<ChatTemplate> Create(absl::string_view source,
                                             absl::string_view bos_token,
                                             absl::string_view eos_token);

  // The prompt text. kInvalidArgument with a readable reason: input of wrong
  // JSON or type, the template's own raise_exception(), an unknown filter or
  // operation, output over 8 MiB, or a limit on steps or memory.
  absl::StatusOr<std::string> Render(const ChatInput& input) const;

  // Whether the template uses this variable ("tools", "documents",
  // "reasoning_effort", ...).
  bool Reads(absl::string_view variable) const;

 private:
  ChatTemplate(std::shared_ptr<const TemplateProgram> program, std::string bos,
               std::string eos)
      : program_(std::move(program)),
        bos_token_(std::move(bos)),
        eos_token_(std::move(eos)) {}

  std::shared_ptr<const TemplateProgram> program_;
  std::string bos_token_;
  std::string eos_token_;
};

}  // namespace sluice::router

#endif  // ROUTER_TEXT_CHAT_TEMPLATE_H_
