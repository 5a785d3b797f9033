#ifndef ROUTER_TEXT_TOKENIZER_STEPS_H_
#define ROUTER_TEXT_TOKENIZER_STEPS_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "router/text/json_field.h"
#include "router/text/normalizer.h"
#include "router/text/pre_tokenizer.h"

namespace sluice::router {

// The steps of a tokenizer.json around its model. All functions: nullptr
// means the section is absent; kInvalidArgument names a type, pattern or
// value that is unknown or wrong.

absl::Status ParseNormalizer(const Json* section, Normalizer& out);

struct PreTokenizerSection {
  PreTokenizer steps;
  bool byte_level = false;  // the model works on bytes
};
absl::StatusOr<PreTokenizerSection> ParsePreTokenizer(const Json* section);

// How a token's text becomes bytes.
struct DecoderSection {
  bool byte_level = false;
  bool byte_fallback = false;  // "<0x0A>" is the byte 10
  // Applied to the token's text in order; `first` is not empty.
  std::vector<std::pair<std::string, std::string>> replacements;
  bool strips_leading_space = false;
};
absl::StatusOr<DecoderSection> ParseDecoder(const Json* section,
                                            bool byte_level_model);

// The exact bytes of a token that is not an added one.
std::string DecodeToken(const DecoderSection& decoder, absl::string_view token);

}  // namespace sluice::router

#endif  // ROUTER_TEXT_TOKENIZER_STEPS_H_
