#ifndef ROUTER_TEXT_JSON_FIELD_H_
#define ROUTER_TEXT_JSON_FIELD_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace sluice::router {

// Not order-preserving, because ordered objects take quadratic time to fill.
using Json = nlohmann::json;

// The value of `text`. kInvalidArgument naming `what`: not JSON, or nested
// deeper than 64.
absl::StatusOr<Json> ParseJson(absl::string_view text, absl::string_view what);

// object[key], or nullptr if it is absent, null, or `object` is no object.
const Json* FindField(const Json& object, absl::string_view key);

// Typed fields. Absent or null gives `otherwise`; a wrong type is
// kInvalidArgument naming the key.
absl::StatusOr<bool> BoolField(const Json& object, absl::string_view key,
                               bool otherwise);
absl::StatusOr<std::string> StringField(const Json& object,
                                        absl::string_view key,
                                        absl::string_view otherwise);
// The value must fit int32.
absl::StatusOr<int32_t> IntField(const Json& object, absl::string_view key,
                                 int32_t otherwise);
absl::StatusOr<int32_t> AsInt(const Json& value, absl::string_view what);

// At most 80 bytes of `value`, for error messages.
std::string Excerpt(const Json& value);

}  // namespace sluice::router

#endif  // ROUTER_TEXT_JSON_FIELD_H_
