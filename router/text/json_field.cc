#include "router/text/json_field.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "router/text/utf8.h"

namespace sluice::router {
namespace {

constexpr int kMaxDepth = 64;

absl::Status WrongType(absl::string_view key, const Json& value,
                       absl::string_view wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat("\"", key, "\" must be ", wanted, ", got ", Excerpt(value)));
}

}  // namespace

absl::StatusOr<Json> ParseJson(absl::string_view text, absl::string_view what) {
  bool too_deep = false;
  const auto keep = [&](int depth, Json::parse_event_t, Json&) {
    too_deep = too_deep || depth > kMaxDepth;
    return !too_deep;
  };
  Json value = Json::parse(text.begin(), text.end(), keep,
                           /*allow_exceptions=*/false);
  if (too_deep) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " is nested deeper than ", kMaxDepth));
  }
  if (value.is_discarded()) {
    return absl::InvalidArgumentError(absl::StrCat(
        what, " is not valid JSON: ", Utf8Excerpt(text, 40), "..."));
  }
  return value;
}

const Json* FindField(const Json& object, absl::string_view key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(absl::StrCat(key));
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

absl::StatusOr<bool> BoolField(const Json& object, absl::string_view key,
                               bool otherwise) {
  const Json* field = FindField(object, key);
  if (field == nullptr) return otherwise;
  if (!field->is_boolean()) return WrongType(key, *field, "true or false");
  return field->get<bool>();
}

absl::StatusOr<std::string> StringField(const Json& object,
                                        absl::string_view key,
                                        absl::string_view otherwise) {
  const Json* field = FindField(object, key);
  if (field == nullptr) return absl::StrCat(otherwise);
  if (!field->is_string()) return WrongType(key, *field, "a string");
  return field->get<std::string>();
}

absl::StatusOr<int32_t> AsInt(const Json& value, absl::string_view what) {
  if (value.is_number_integer()) {
    const auto number = value.get<int64_t>();
    if (number >= std::numeric_limits<int32_t>::min() &&
        number <= std::numeric_limits<int32_t>::max()) {
      return static_cast<int32_t>(number);
    }
  }
  return WrongType(what, value, "an integer of 32 bits");
}

absl::StatusOr<int32_t> IntField(const Json& object, absl::string_view key,
                                 int32_t otherwise) {
  const Json* field = FindField(object, key);
  return field == nullptr ? absl::StatusOr<int32_t>(otherwise)
                          : AsInt(*field, key);
}

std::string Excerpt(const Json& value) {
  return value
      .dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace)
      .substr(0, 80);
}

}  // namespace sluice::router
