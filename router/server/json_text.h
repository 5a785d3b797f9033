#ifndef ROUTER_SERVER_JSON_TEXT_H_
#define ROUTER_SERVER_JSON_TEXT_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace sluice::router {

// Pieces of JSON, appended to `out`: what a token costs must not include a
// document tree. The bytes are those that nlohmann::json::dump() would write.

// A string in quotes; invalid UTF-8 becomes U+FFFD.
void AppendJsonString(absl::string_view text, std::string& out);
// JSON has no infinity: null.
void AppendJsonNumber(double value, std::string& out);
// A comma, unless `list` is empty.
void AppendComma(std::string& list);

// Each maximal invalid part of `bytes` becomes U+FFFD.
std::string ToValidUtf8(absl::string_view bytes);

}  // namespace sluice::router

#endif  // ROUTER_SERVER_JSON_TEXT_H_
