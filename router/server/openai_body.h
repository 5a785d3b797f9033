#ifndef ROUTER_SERVER_OPENAI_BODY_H_
#define ROUTER_SERVER_OPENAI_BODY_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "router/server/http_error.h"

namespace sluice::router {

// The token id that `value` is: an integer, or an integral float, in 32 bits.
std::optional<uint32_t> TokenIdOf(const nlohmann::ordered_json& value);

// Reads the members of a JSON object with the strictness of the API: null
// means absent, no type is coerced (an integral float is an integer), and the
// first mistake is kept. After every field was asked for, Finish() refuses
// what is left over. One thread; borrows the object.
class BodyReader {
 public:
  // `path` leads the names in errors, for nested objects.
  BodyReader(const nlohmann::ordered_json& object, std::string path,
             std::optional<HttpError>& error)
      : object_(object), path_(std::move(path)), error_(error) {}

  // The member, or null when absent or null. Counts as read.
  const nlohmann::ordered_json* Find(const char* name);

  // Unset when absent; the error is set for a wrong type.
  std::optional<std::string> String(const char* name);
  std::optional<bool> Bool(const char* name);
  std::optional<double> Number(const char* name);
  std::optional<int64_t> Integer(const char* name);
  // In [low, high]; `text` is the error with "got <value>" appended.
  std::optional<int64_t> IntegerIn(const char* name, int64_t low, int64_t high,
                                   const char* text);

  // Refuses the member unless it is absent or equals `only`.
  void Only(const char* name, const nlohmann::ordered_json& only);
  // Refuses the member when it is present: 400 unsupported_parameter.
  void Unsupported(const char* name);

  // Refuses members nobody asked for, but those in `tolerated`, which are
  // collected in `ignored`.
  void Finish(const std::vector<std::string>& tolerated,
              std::vector<std::string>* ignored);

  // Keeps the first error.
  void Fail(HttpError error);
  bool ok() const { return !error_.has_value(); }
  std::string Name(const char* name) const { return path_ + name; }

 private:
  const nlohmann::ordered_json& object_;
  const std::string path_;
  std::optional<HttpError>& error_;
  std::vector<std::string> read_;
};

}  // namespace sluice::router

#endif  // ROUTER_SERVER_OPENAI_BODY_H_
