// Any bytes as tokenizer.json: refused with a status, or a tokenizer whose
// answers are consistent on a fixed text.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "base/check.h"
#include "router/text/detokenizer.h"
#include "router/text/tokenizer_factory.h"

namespace sluice::router {
namespace {

void Fuzz(const uint8_t* data, size_t size) {
  TokenizerSpec spec;
  spec.kind = TokenizerKind::kTokenizerJson;
  spec.tokenizer_json.assign(reinterpret_cast<const char*>(data), size);
  const absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer =
      MakeTokenizer(spec);
  if (!tokenizer.ok()) {
    SLUICE_CHECK(tokenizer.status().code() ==
                 absl::StatusCode::kInvalidArgument);
    SLUICE_CHECK(!tokenizer.status().message().empty());
    return;
  }
  for (const char* text : {"", "Hello  world 123", "é漢👨\n\t<s> <0x41>"}) {
    for (const bool special : {false, true}) {
      const absl::StatusOr<Encoding> encoding =
          (*tokenizer)
              ->Encode(text,
                       {.add_special = special, .parse_special = special});
      if (!encoding.ok()) continue;
      for (int32_t id : encoding->ids) {
        SLUICE_CHECK(id >= 0 && id < (*tokenizer)->vocab_size());
      }
      Detokenize(**tokenizer, encoding->ids, {.at_text_start = true});
    }
  }
}

}  // namespace
}  // namespace sluice::router

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sluice::router::Fuzz(data, size);
  return 0;
}
