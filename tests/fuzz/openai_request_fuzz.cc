// Bodies of the OpenAI API, as they arrive: JSON text to flows to run.

#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"
#include "base/check.h"
#include "base/strict_json.h"
#include "router/server/openai_request.h"

namespace sluice::router {

void Fuzz(absl::string_view text) {
  const auto json = ParseStrictOrderedJson(text);
  if (!json.ok() || !json->is_object()) return;
  for (const bool chat : {true, false}) {
    std::optional<HttpError> error;
    const OpenAiRequest request =
        chat ? ParseChatRequest(*json, {}, error)
             : ParseCompletionRequest(*json, {}, error);
    if (error.has_value()) {
      SLUICE_CHECK(error->status >= 400 && error->status < 500);
      SLUICE_CHECK(!error->Json().empty());
    } else {
      SLUICE_CHECK(!request.calls.empty());
    }
  }
}

}  // namespace sluice::router

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sluice::router::Fuzz({reinterpret_cast<const char*>(data), size});
  return 0;
}
