#include "router/text/chat_template.h"

#include <ctime>
#include <exception>
#include <stdexcept>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "jinja/runtime.h"
#include "router/text/template_json.h"
#include "router/text/template_nodes.h"
#include "router/text/template_program.h"

namespace sluice::router {
namespace {

using jinja::value;

constexpr size_t kMaxJsonValues = size_t{1} << 18;
// Stands after the last message's content to find where it ends. As in
// transformers: a template that trims the content also trims the tag's space.
constexpr absl::string_view kFinalTag = "CONTINUE_FINAL_MESSAGE_TAG ";
// What kwargs may not replace.
constexpr absl::string_view kReserved[] = {
    "messages",  "tools",          "documents", "add_generation_prompt",
    "bos_token", "eos_token",      "range",     "strftime_now",
    "namespace", "raise_exception"};

template <typename... Args>
absl::Status Bad(const Args&... args) {
  return absl::InvalidArgumentError(absl::StrCat(args...));
}

// object[name], or null if absent or none.
value Member(const value& object, const std::string& name) {
  const value key = jinja::mk_val<jinja::value_string>(name);
  if (!object->has_key(key)) return nullptr;
  value member = object->at(key);
  return member->is_none() ? nullptr : member;
}

absl::Status CheckStringMember(const value& message, size_t index,
                               const std::string& name, bool required) {
  const value member = Member(message, name);
  if (member == nullptr) {
    return required ? Bad("messages[", index, "] has no ", name)
                    : absl::OkStatus();
  }
  if (jinja::is_val<jinja::value_string>(member)) return absl::OkStatus();
  return Bad("messages[", index, "].", name, " must be a string, got ",
             absl::AsciiStrToLower(member->type()));
}

absl::Status CheckList(const value& list, absl::string_view what) {
  if (!jinja::is_val<jinja::value_array>(list)) {
    return Bad(what, " must be a list");
  }
  size_t index = 0;
  for (const value& item : list->as_array()) {
    if (!jinja::is_val<jinja::value_object>(item)) {
      return Bad(what, "[", index, "] must be an object");
    }
    ++index;
  }
  return absl::OkStatus();
}

absl::Status CheckMessages(const value& messages) {
  RETURN_IF_ERROR(CheckList(messages, "messages"));
  size_t index = 0;
  for (const value& message : messages->as_array()) {
    RETURN_IF_ERROR(CheckStringMember(message, index, "role", true));
    RETURN_IF_ERROR(CheckStringMember(message, index, "name", false));
    const value tool_calls = Member(message, "tool_calls");
    if (tool_calls != nullptr) {
      RETURN_IF_ERROR(CheckList(
          tool_calls, absl::StrCat("messages[", index, "].tool_calls")));
    }
    const bool has_calls =
        tool_calls != nullptr && !tool_calls->as_array().empty();
    RETURN_IF_ERROR(CheckStringMember(message, index, "content", !has_calls));
    ++index;
  }
  return absl::OkStatus();
}

// Empty text gives none.
absl::StatusOr<value> OptionalList(const std::string& json,
                                   absl::string_view what) {
  if (json.empty()) return value(jinja::mk_val<jinja::value_none>());
  ASSIGN_OR_RETURN(value list, ValueFromJson(json, what, kMaxJsonValues));
  if (!list->is_none()) RETURN_IF_ERROR(CheckList(list, what));
  return list;
}

absl::Status SetKwargs(const std::string& json, jinja::context& ctx) {
  if (json.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const value kwargs,
                   ValueFromJson(json, "chat_template_kwargs", kMaxJsonValues));
  if (kwargs->is_none()) return absl::OkStatus();
  if (!jinja::is_val<jinja::value_object>(kwargs)) {
    return Bad("chat_template_kwargs must be an object");
  }
  for (const auto& [key, member] : kwargs->as_ordered_object()) {
    const std::string name = key->as_string().str();
    for (absl::string_view reserved : kReserved) {
      if (name == reserved) {
        return Bad("chat_template_kwargs must not set \"", name, "\"");
      }
    }
    ctx.set_val(name, member);
  }
  return absl::OkStatus();
}

// The engine's own is not thread-safe.
value FormatNow(const jinja::func_args& args) {
  args.ensure_vals<jinja::value_string>();
  const std::string format = args.get_pos(0)->as_string().str();
  const std::time_t now = args.ctx.current_time;
  std::tm local = {};
  localtime_r(&now, &local);
  char buffer[256];
  const size_t size =
      std::strftime(buffer, sizeof(buffer), format.c_str(), &local);
  if (size == 0 && !format.empty()) {
    throw std::runtime_error("strftime_now: result is too long");
  }
  return jinja::mk_val<jinja::value_string>(std::string(buffer, size));
}

absl::Status AppendFinalTag(const value& messages) {
  if (messages->as_array().empty()) {
    return Bad("continue_final_message needs a message");
  }
  const value last = messages->as_array().back();
  const value content = Member(last, "content");
  if (content == nullptr) {
    return Bad("continue_final_message needs content in the last message");
  }
  last->insert(jinja::mk_val<jinja::value_string>(std::string("content")),
               jinja::mk_val<jinja::value_string>(
                   absl::StrCat(content->as_string().str(), kFinalTag)));
  return absl::OkStatus();
}

absl::StatusOr<std::string> CutAtFinalTag(std::string text) {
  const absl::string_view view = text;
  const size_t at = view.rfind(absl::StripAsciiWhitespace(kFinalTag));
  if (at == absl::string_view::npos) {
    return Bad(
        "continue_final_message: the chat template does not end with the last "
        "message's content");
  }
  const bool has_space = absl::StartsWith(view.substr(at), kFinalTag);
  text.resize(at);
  if (!has_space) absl::StripTrailingAsciiWhitespace(&text);
  return text;
}

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::Create(absl::string_view source,
                                                  absl::string_view bos_token,
                                                  absl::string_view eos_token) {
  ASSIGN_OR_RETURN(std::shared_ptr<const TemplateProgram> program,
                   TemplateProgram::Parse(source));
  return ChatTemplate(std::move(program), absl::StrCat(bos_token),
                      absl::StrCat(eos_token));
}

bool ChatTemplate::Reads(absl::string_view variable) const {
  return program_->variables().count(absl::StrCat(variable)) != 0;
}

absl::StatusOr<std::string> ChatTemplate::Render(const ChatInput& input) const {
  if (input.continue_final_message && input.add_generation_prompt) {
    return Bad(
        "continue_final_message and add_generation_prompt exclude each other");
  }
  ASSIGN_OR_RETURN(
      const value messages,
      ValueFromJson(input.messages_json, "messages", kMaxJsonValues));
  RETURN_IF_ERROR(CheckMessages(messages));
  ASSIGN_OR_RETURN(const value tools, OptionalList(input.tools_json, "tools"));
  ASSIGN_OR_RETURN(const value documents,
                   OptionalList(input.documents_json, "documents"));
  if (input.continue_final_message) {
    RETURN_IF_ERROR(AppendFinalTag(messages));
  }

  jinja::context ctx(program_->source());
  ctx.current_time = input.now_unix_seconds;
  RETURN_IF_ERROR(SetKwargs(input.kwargs_json, ctx));
  ctx.set_val("messages", messages);
  ctx.set_val("tools", tools);
  ctx.set_val("documents", documents);
  ctx.set_val("add_generation_prompt",
              jinja::mk_val<jinja::value_bool>(input.add_generation_prompt));
  for (const auto& [name, token] :
       {std::pair("bos_token", &bos_token_), {"eos_token", &eos_token_}}) {
    if (token->empty()) continue;
    ctx.set_val(name, jinja::mk_val<jinja::value_string>(*token));
  }
  ctx.set_val("range", jinja::mk_val<jinja::value_func>("range", LimitedRange));
  ctx.set_val("strftime_now",
              jinja::mk_val<jinja::value_func>("strftime_now", FormatNow));
  const RenderLimits limits;
  std::string text;
  try {
    text = program_->Run(ctx, limits);
  } catch (const std::exception& e) {
    return Bad("chat template: ", ReadableTemplateError(e.what()));
  }
  if (text.size() > limits.max_value_bytes) {
    return Bad("chat template: output of ", text.size(),
               " bytes is longer than ", limits.max_value_bytes);
  }
  if (input.continue_final_message) return CutAtFinalTag(std::move(text));
  return text;
}

}  // namespace sluice::router
