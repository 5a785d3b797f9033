#ifndef BASE_STRICT_JSON_H_
#define BASE_STRICT_JSON_H_

#include <cstddef>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace sluice {

struct JsonLimits {
  size_t max_depth = 64;        // of nested arrays and objects
  size_t max_values = 4 << 20;  // scalars, arrays and objects together
};

// One RFC 8259 text. INVALID_ARGUMENT with what is wrong and its byte position
// for everything else: duplicate keys, text after the value, NaN and Infinity,
// numbers no double holds, comments, a byte-order mark, NUL bytes, invalid
// UTF-8, lone surrogates, an empty text, or a limit passed. Time and memory are
// linear in the text. Never throws.
absl::StatusOr<nlohmann::json> ParseStrictJson(absl::string_view text,
                                               JsonLimits limits = {});

// As above, keeping the order of object members. Looking a member up in such
// an object is linear in its size.
absl::StatusOr<nlohmann::ordered_json> ParseStrictOrderedJson(
    absl::string_view text, JsonLimits limits = {});

}  // namespace sluice

#endif  // BASE_STRICT_JSON_H_
