#include "router/server/openai_body.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sluice::router {

using Json = nlohmann::ordered_json;

std::optional<uint32_t> TokenIdOf(const Json& value) {
  if (value.is_number_unsigned()) {
    const uint64_t number = value.get<uint64_t>();
    if (number <= UINT32_MAX) return static_cast<uint32_t>(number);
  } else if (value.is_number_float()) {
    const double number = value.get<double>();
    if (std::floor(number) == number && number >= 0 && number <= UINT32_MAX) {
      return static_cast<uint32_t>(number);
    }
  }
  return std::nullopt;
}

const Json* BodyReader::Find(const char* name) {
  read_.emplace_back(name);
  const auto it = object_.find(name);
  if (it == object_.end() || it->is_null()) return nullptr;
  return &*it;
}

std::optional<std::string> BodyReader::String(const char* name) {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) {
    Fail(BadRequest(absl::StrCat(Name(name), " must be a string"), Name(name)));
    return std::nullopt;
  }
  return value->get<std::string>();
}

std::optional<bool> BodyReader::Bool(const char* name) {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) {
    Fail(
        BadRequest(absl::StrCat(Name(name), " must be a boolean"), Name(name)));
    return std::nullopt;
  }
  return value->get<bool>();
}

std::optional<double> BodyReader::Number(const char* name) {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) {
    Fail(BadRequest(absl::StrCat(Name(name), " must be a number"), Name(name)));
    return std::nullopt;
  }
  return value->get<double>();
}

std::optional<int64_t> BodyReader::Integer(const char* name) {
  const Json* value = Find(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) {
    Fail(BadRequest(absl::StrCat(Name(name), " must be a number"), Name(name)));
    return std::nullopt;
  }
  if (value->is_number_unsigned()) {
    const uint64_t number = value->get<uint64_t>();
    if (number <= static_cast<uint64_t>(INT64_MAX)) {
      return static_cast<int64_t>(number);
    }
  } else if (value->is_number_integer()) {
    return value->get<int64_t>();
  } else {
    const double number = value->get<double>();
    // 2^63 is the first double that no int64 holds.
    if (std::floor(number) == number && std::fabs(number) < 0x1p63) {
      return static_cast<int64_t>(number);
    }
  }
  Fail(BadRequest(absl::StrCat(Name(name), " must be an integer"), Name(name)));
  return std::nullopt;
}

std::optional<int64_t> BodyReader::IntegerIn(const char* name, int64_t low,
                                             int64_t high, const char* text) {
  const std::optional<int64_t> value = Integer(name);
  if (!value.has_value() || (*value >= low && *value <= high)) return value;
  Fail(BadRequest(absl::StrCat(text, ", got ", *value), Name(name)));
  return std::nullopt;
}

void BodyReader::Only(const char* name, const Json& only) {
  const Json* value = Find(name);
  if (value == nullptr || *value == only) return;
  Fail(BadRequest(
      absl::StrCat(Name(name), " is supported only as ", only.dump()),
      Name(name), "unsupported_parameter"));
}

void BodyReader::Unsupported(const char* name) {
  if (Find(name) == nullptr) return;
  Fail(BadRequest(absl::StrCat(Name(name), " is not supported"), Name(name),
                  "unsupported_parameter"));
}

void BodyReader::Finish(const std::vector<std::string>& tolerated,
                        std::vector<std::string>* ignored) {
  for (const auto& [key, value] : object_.items()) {
    if (std::find(read_.begin(), read_.end(), key) != read_.end()) continue;
    const std::string name = path_ + key;
    if (std::find(tolerated.begin(), tolerated.end(), name) !=
        tolerated.end()) {
      if (ignored != nullptr) ignored->push_back(name);
      continue;
    }
    Fail(BadRequest(absl::StrCat("unknown field \"", name, "\""), name,
                    "unknown_parameter"));
    return;
  }
}

void BodyReader::Fail(HttpError error) {
  if (!error_.has_value()) error_ = std::move(error);
}

}  // namespace sluice::router
