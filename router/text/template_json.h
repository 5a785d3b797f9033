#ifndef ROUTER_TEXT_TEMPLATE_JSON_H_
#define ROUTER_TEXT_TEMPLATE_JSON_H_

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "jinja/value.h"

namespace sluice::router {

// JSON text as a value of the template engine; objects keep their order.
// kInvalidArgument naming `what`: not JSON, deeper than 64, a repeated key, a
// number beyond int64 or 9e18, or `max_values` values exceeded.
absl::StatusOr<jinja::value> ValueFromJson(absl::string_view text,
                                           absl::string_view what,
                                           size_t max_values);

// The layout of Python's json.dumps().
struct JsonStyle {
  int indent_spaces = -1;  // -1: one line
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool ensure_ascii = false;
  bool sort_keys = false;
};

// `value` as Python's json.dumps() writes it; undefined is null. Throws
// std::runtime_error, as code called by the engine must, if the text exceeds
// `max_bytes` or the value is nested deeper than 100.
std::string JsonFromValue(const jinja::value& value, const JsonStyle& style,
                          size_t max_bytes);

}  // namespace sluice::router

#endif  // ROUTER_TEXT_TEMPLATE_JSON_H_
