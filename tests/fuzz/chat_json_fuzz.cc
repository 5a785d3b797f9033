// Any bytes as the JSON of a chat, and after a NUL any bytes as a template:
// refused with a status, or a prompt within its limit.

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "router/text/chat_template.h"

namespace sluice::router {
namespace {

constexpr char kTemplate[] =
    "{% for m in messages %}{{ m.role + ':' + (m.content or '') }}"
    "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}{% endfor %}"
    "{% if tools %}{{ tools | tojson(indent=2) }}{% endif %}"
    "{{ extra | default('none') }}";

void ExpectChecked(const absl::StatusOr<std::string>& prompt) {
  if (prompt.ok()) {
    SLUICE_CHECK(prompt->size() <= size_t{8} << 20);
    return;
  }
  SLUICE_CHECK(prompt.status().code() == absl::StatusCode::kInvalidArgument);
  SLUICE_CHECK(!prompt.status().message().empty());
}

void Fuzz(const uint8_t* data, size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  const size_t nul = input.find('\0');
  const std::string json = input.substr(0, nul);
  static const auto* fixed =
      new ChatTemplate(*ChatTemplate::Create(kTemplate, "<s>", "</s>"));
  ExpectChecked(fixed->Render({.messages_json = json,
                               .tools_json = json,
                               .kwargs_json = "{\"extra\":" + json + "}"}));
  ExpectChecked(fixed->Render({.messages_json = json,
                               .add_generation_prompt = false,
                               .continue_final_message = true}));
  if (nul == std::string::npos) return;
  const absl::StatusOr<ChatTemplate> parsed =
      ChatTemplate::Create(input.substr(nul + 1), "<s>", "</s>");
  if (!parsed.ok()) {
    SLUICE_CHECK(parsed.status().code() == absl::StatusCode::kInvalidArgument);
    return;
  }
  ExpectChecked(
      parsed->Render({.messages_json = R"([{"role":"user","content":"Hi"}])"}));
}

}  // namespace
}  // namespace sluice::router

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sluice::router::Fuzz(data, size);
  return 0;
}
